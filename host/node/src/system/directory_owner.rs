//! The directory's owner: the one task that reads what `system` says, and from which all others learn it.
//!
//! ```text
//! `system` has changed ─┐                  ┌─▶ published: the directory, who is in the cluster, whether this is sure
//! requests of others ───┴─▶ one at a time ─┴─▶ routes, the feature level, operators' words about clocks
//! ```
//! In: the partition of `system`, and requests. Out: what follows from them, and an answer to each request after that.
//! It does not know what others do about a change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::ids::{Micros, NodeId, PartitionId};
use crate::partition::{Partition, Progress};
use crate::peer::GroupName;
use crate::system::clock_row::ClockRow;
use crate::system::clocks::Clocks;
use crate::system::context::NodeContext;
use crate::system::directory::{Directory, WordsHeard};
use crate::system::directory_now::DirectoryNow;
use crate::system::directory_requests::{DirectoryFreshness, DirectoryRequest, ReadAnswer};
use crate::system::error::NodeError;
use crate::system::logic::SYSTEM;
use crate::system::messages::ASK_AGAIN;
use crate::system::peer_network::NodeRoutes;

/// What this task alone writes. It stays if the task is started again.
pub struct DirectoryOwner {
    now: watch::Sender<DirectoryNow>,
    nodes: watch::Sender<Vec<NodeId>>,
    /// Where the other nodes are reached.
    routes: NodeRoutes,
    words_heard: Mutex<WordsHeard>,
    /// Held by the task as long as it runs, and by nobody else: the requests are still there after a panic.
    mailbox: tokio::sync::Mutex<mpsc::Receiver<DirectoryRequest>>,
}

impl DirectoryOwner {
    /// The owner of a node that knows no other.
    pub fn new(node: NodeId, now: DirectoryNow, mailbox: mpsc::Receiver<DirectoryRequest>, routes: NodeRoutes) -> Self {
        Self {
            now: watch::Sender::new(now),
            nodes: watch::Sender::new(vec![node]),
            routes,
            words_heard: Mutex::default(),
            mailbox: tokio::sync::Mutex::new(mailbox),
        }
    }

    pub fn now(&self) -> watch::Receiver<DirectoryNow> {
        self.now.subscribe()
    }

    /// The nodes of the directory, or of the identity until the directory is known.
    pub fn nodes(&self) -> watch::Receiver<Vec<NodeId>> {
        self.nodes.subscribe()
    }

    fn answer(&self, context: &NodeContext, request: DirectoryRequest) {
        match request {
            DirectoryRequest::Read { system, freshness, done } => {
                // What was as of now when the caller asked may no longer be so.
                if !done.is_closed() {
                    drop(done.send(self.read(context, &system, freshness)));
                }
            }
            DirectoryRequest::Join { peers, done } => {
                self.routes.set(&peers);
                self.set_nodes(peers.into_keys().collect());
                _ = done.send(());
            }
            DirectoryRequest::Reach { nodes, done } => {
                self.routes.set(&nodes);
                _ = done.send(());
            }
            DirectoryRequest::Named { from, nodes, done } => {
                self.on_named(context, from, nodes);
                _ = done.send(());
            }
            DirectoryRequest::Removed => self.on_removed(context),
            #[cfg(test)]
            DirectoryRequest::Panic => panic!("planted"),
        }
    }

    /// Takes over what `system` says now.
    fn read(&self, context: &NodeContext, system: &Partition, freshness: DirectoryFreshness) -> ReadAnswer {
        let failed = |source| NodeError::of_partition(&GroupName::new(SYSTEM, PartitionId(0)), source);
        let point = system.read_stale().map_err(failed)?;
        let directory = Arc::new(Directory::read(&point.view).map_err(|error| failed(error.into()))?);
        context.level.take_over(directory.feature_level)?;
        if directory.retired.contains(&context.node) {
            self.on_removed(context);
        }
        on_clock_row(&context.clocks, &directory.clock, &mut self.words_heard.lock());
        if directory.is_founded() {
            if let Err(error) = context.folder.set_founded() {
                tracing::error!(%error, "it could not be recorded that the cluster exists");
            }
            self.routes.set(&directory.nodes);
            self.set_nodes(directory.nodes.keys().copied().collect());
        }
        self.now.send_if_modified(|now| {
            let is_new = now.on_read(&directory);
            let is_sure = freshness == DirectoryFreshness::AsOfNow && directory.is_founded();
            // That it was heard again is no news for those who wait for a change.
            is_sure && now.on_heard() || is_new
        });
        Ok(directory)
    }

    fn set_nodes(&self, nodes: Vec<NodeId>) {
        self.nodes.send_if_modified(|before| {
            let is_new = *before != nodes;
            *before = nodes;
            is_new
        });
    }

    /// Handles what another node says about who is in the cluster. That counts until this node knows better. This is
    /// how a node finds the others after all nodes that it knew were replaced.
    fn on_named(&self, context: &NodeContext, from: NodeId, nodes: BTreeMap<NodeId, String>) {
        if !nodes.contains_key(&from) || !nodes.contains_key(&context.node) {
            return;
        }
        let names: BTreeSet<NodeId> = nodes.keys().copied().collect();
        if self.now.send_if_modified(|now| now.on_named(from, names)) {
            let known = self.nodes.borrow();
            let unknown = nodes.into_iter().filter(|(node, _)| !known.contains(node));
            self.routes.set(&unknown.collect());
        }
    }

    /// Handles that `system` or another node says that this node was removed from the cluster.
    fn on_removed(&self, context: &NodeContext) {
        self.now.send_if_modified(|now| !std::mem::replace(&mut now.is_removed, true));
        let node = context.node;
        let reason =
            format!("node {node} was removed from this cluster for good: stop it; its data is not needed any more");
        context.router.set_trouble("membership", Some(reason));
    }
}

/// Follows the directory as `system` changes, and answers requests, until the node stops.
pub async fn run(context: Arc<NodeContext>, owner: Arc<DirectoryOwner>) {
    let mut mailbox = owner.mailbox.lock().await;
    loop {
        // The partition is not held meanwhile: it may have to be closed to install a snapshot, and then another
        // takes its place.
        let system = context.system_partition().map(|system| {
            let progress = system.watch_progress();
            (progress, owner.read(&context, &system, DirectoryFreshness::Stale))
        });
        let (progress, read) = system.unzip();
        if let Some(Err(error)) = read
            && !context.level.is_refused()
            // Else the partition has been closed.
            && !context.stopping.is_cancelled()
        {
            tracing::error!(%error, "the directory cannot be read");
        }
        let mut changed = std::pin::pin!(change(progress));
        loop {
            tokio::select! {
                () = context.stopping.cancelled() => return,
                () = &mut changed => break,
                Some(request) = mailbox.recv() => owner.answer(&context, request),
            }
        }
    }
}

/// Waits until `system` has applied something, or may be open by now.
async fn change(progress: Option<watch::Receiver<Progress>>) {
    let is_there = match progress {
        Some(mut progress) => progress.changed().await.is_ok(),
        None => false,
    };
    if !is_there {
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Handles what an operator has said about clocks that leapt.
fn on_clock_row(clocks: &Clocks, row: &ClockRow, heard: &mut WordsHeard) {
    if heard.is_new(row.number) && !clocks.on_accepted(Micros(row.ahead)) {
        let seconds = row.ahead / 1_000_000;
        tracing::info!(seconds, by = row.by, "an operator accepts a clock jump that this node's clock has not made");
    }
}
