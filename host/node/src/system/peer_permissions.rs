//! Which node may ask this one for what: nodes that `system` names may ask everything. Until this node knows who they
//! are, it answers only what it takes to find out.
//!
//! ```text
//! request ─▶ removed for good? ─▶ is this node level? ─ yes ─▶ a member asks everything, others Join, Clock and Status
//!                                                     └ no ──▶ `system`'s own Raft messages, and what a start needs
//! ```
//! In: who asks for what, and the directory. Out: whether the service hears of it. A node is *level* once it has read
//! `system` as of now. It stays level, because losing contact with the others must not stop what it shares with them. A
//! node that has not heard from `system` lately may not know new members, so it takes `system`'s messages from them. It
//! does not know how a sender proves who it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::consensus::{AppendReply, PeerError, PeerReply, PeerRequest};
use crate::ids::NodeId;
use crate::peer::{Call, GroupName, Service, ServiceError, Topic};
use crate::system::context::NodeContext;
use crate::system::directory_now::DirectoryNow;
use crate::system::directory_requests::DirectoryFreshness;
use crate::system::logic::SYSTEM;

/// How long a look at `system` as of now may take, and how often there is one.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The same while this node is not level.
const LOOK_SOON: Duration = Duration::from_millis(50);
/// How long a removed node may still receive answers before its connections are closed.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What nodes of all releases tell a removed node. From this text it learns that it was removed.
const REMOVED: &str = "was removed from this cluster for good";

/// What a request is about, as far as the gate has to know. Without a topic it is a message of Raft.
#[derive(Clone, Copy)]
struct PeerQuestion<'a> {
    topic: Option<Topic>,
    group: Option<&'a GroupName>,
}

impl PeerQuestion<'_> {
    /// Whether the machine `system` itself needs it to keep running.
    fn is_of_system(self) -> bool {
        self.group.is_some_and(|group| &*group.machine == SYSTEM)
            && matches!(self.topic, None | Some(Topic::Offer | Topic::Snapshot))
    }
}

/// Checks whether a node may ask for this.
///
/// # Errors
/// The refusal, in words for the node that asks.
fn check(context: &NodeContext, from: NodeId, asked: PeerQuestion<'_>) -> Result<(), ServiceError> {
    let now = context.published.directory.borrow();
    let directory = &now.directory;
    if directory.retired.contains(&from) {
        return Err(ServiceError::Refused(format!(
            "node {from} {REMOVED}: stop it, and add it under a new id if it is to come back"
        )));
    }
    if asked.topic.is_some_and(Topic::is_open_to_strangers) {
        return Ok(());
    }
    let is_member = if directory.is_founded() {
        directory.nodes.contains_key(&from)
    } else {
        context.folder.identity().is_some_and(|identity| identity.peers.contains_key(&from))
    };
    if !now.is_level {
        // A cluster that starts as a whole could not begin otherwise: its nodes confirm and repair each other's logs.
        let begins = matches!(asked.topic, Some(Topic::Seen))
            || is_member && matches!(asked.topic, Some(Topic::Records | Topic::ReadIndex));
        return if asked.is_of_system() || begins {
            Ok(())
        } else {
            let node = context.node;
            Err(ServiceError::Refused(format!(
                "node {node} does not know yet who is in the cluster: it waits for a leader of `system`"
            )))
        };
    }
    if is_member || asked.is_of_system() && !now.has_heard_lately() {
        return Ok(());
    }
    Err(ServiceError::Refused(format!(
        "node {from} is not in this cluster: add it with `statehouse cluster add`, or stop it"
    )))
}

/// Looks at `system` as of now, until the node stops, and acts on what it finds.
pub async fn run(context: Arc<NodeContext>) {
    let mut closed = BTreeSet::new();
    loop {
        if let Some(system) = context.system_partition()
            && system.read_linearizable(Instant::now() + LOOK_PATIENCE).await.is_ok()
        {
            let until = Instant::now() + LOOK_PATIENCE;
            if let Err(error) = context.directory_requests.read(system, DirectoryFreshness::AsOfNow, until).await {
                tracing::debug!(%error, "who is in the cluster is not known as of now");
            }
        }
        close_removed(&context, &mut closed);
        let pause = if context.is_level() { LOOK_AGAIN } else { LOOK_SOON };
        let mut directory = context.watch_directory();
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = directory.changed() => if changed.is_err() { return },
        }
    }
}

/// Closes the connections that removed nodes still have open here, once for each node.
fn close_removed(context: &Arc<NodeContext>, closed: &mut BTreeSet<NodeId>) {
    for node in context.directory().retired.iter().filter(|node| closed.insert(**node)) {
        let (links, node) = (context.links.clone(), *node);
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORD).await;
            links.close(node);
        });
    }
}

/// Whether another node refuses this one because it was removed, which this node may not have known before.
pub fn says_removed(error: &PeerError) -> bool {
    matches!(error, PeerError::Refused { detail, .. } if detail.contains(REMOVED))
}

/// Waits until the node has been removed.
async fn removed(mut now: watch::Receiver<DirectoryNow>, node: NodeId) {
    if now.wait_for(|now| now.directory.retired.contains(&node)).await.is_err() {
        // This node stops, and its connections end with it. That is no removal.
        std::future::pending().await
    }
}

/// The service as the other nodes reach it, over any network.
pub struct Gate {
    pub context: Arc<NodeContext>,
    pub service: Arc<dyn Service>,
}

impl Gate {
    fn check(&self, from: NodeId, topic: Option<Topic>, group: Option<&GroupName>) -> Result<(), ServiceError> {
        let checked = check(&self.context, from, PeerQuestion { topic, group });
        if checked.is_err() {
            metrics::counter!("statehouse_peer_requests_refused_total").increment(1);
        }
        checked
    }

    fn removed(&self, node: NodeId) -> impl Future<Output = ()> + Send + 'static {
        removed(self.context.watch_directory(), node)
    }
}

impl Service for Gate {
    fn is_known(&self, node: NodeId) -> bool {
        let now = self.context.published.directory.borrow();
        !now.directory.retired.contains(&node) && (!now.is_level || now.directory.nodes.contains_key(&node))
    }

    fn raft(
        &self,
        from: NodeId,
        group: GroupName,
        request: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerReply, ServiceError>> {
        match self.check(from, None, Some(&group)) {
            Ok(()) => self.service.raft(from, group, request),
            Err(error) => async { Err(error) }.boxed(),
        }
    }

    fn appends(
        &self,
        from: NodeId,
        group: GroupName,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, ServiceError>> {
        match self.check(from, None, Some(&group)) {
            Ok(()) => {
                let requests = requests.take_until(self.removed(from)).boxed();
                self.service.appends(from, group, requests)
            }
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    fn call(&self, from: NodeId, call: Call, deadline: Duration) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        match self.check(from, Some(call.topic), call.group.as_ref()) {
            Ok(()) => self.service.call(from, call, deadline),
            Err(error) => async { Err(error) }.boxed(),
        }
    }

    fn fetch(
        &self,
        from: NodeId,
        call: Call,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError>> {
        match self.check(from, Some(call.topic), call.group.as_ref()) {
            Ok(()) => {
                let (fetching, removed) = (self.service.fetch(from, call), self.removed(from));
                let cut = ServiceError::Refused(format!("node {from} was removed from this cluster for good"));
                async move {
                    let pieces = fetching.await?;
                    // A transfer that is cut short must not look complete.
                    let pieces = pieces.map(Some).chain(stream::once(async { None }));
                    let cut = stream::once(async move {
                        removed.await;
                        Some(Err(cut))
                    });
                    let both = stream::select(pieces, cut);
                    Ok(both
                        .take_while(|piece| std::future::ready(piece.is_some()))
                        .filter_map(std::future::ready)
                        .boxed())
                }
                .boxed()
            }
            Err(error) => async { Err(error) }.boxed(),
        }
    }
}
