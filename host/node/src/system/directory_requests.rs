//! What the directory's owner may be asked, and the handle by which others ask it.
//!
//! In: questions, each with a deadline. Out: an answer once the owner has done what was asked, so that a caller sees
//! what it has caused. Requests wait in a queue that is bounded. An owner that panics answers those in the queue once
//! it is started again. After its end no request is answered, and each caller is told so at once. It does not know how
//! the owner does what it is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::ids::NodeId;
use crate::partition::Partition;
use crate::system::directory::Directory;
use crate::system::error::NodeError;

/// How many requests wait; further callers wait for room.
const REQUESTS_MAX: usize = 64;

/// The answer to a request: what was read.
pub type ReadAnswer = Result<Arc<Directory>, NodeError>;

/// What is known about the partition of `system` that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryFreshness {
    /// It may lack the newest entries.
    Stale,
    /// The caller has found that it has applied all that was there a moment ago.
    AsOfNow,
}

pub enum DirectoryRequest {
    /// Read what `system` says now.
    Read { system: Arc<Partition>, freshness: DirectoryFreshness, done: oneshot::Sender<ReadAnswer> },
    /// This node is one of these from now on, which its identity says.
    Join { peers: BTreeMap<NodeId, String>, done: oneshot::Sender<()> },
    /// Reach these nodes there.
    Reach { nodes: BTreeMap<NodeId, String>, done: oneshot::Sender<()> },
    /// Another node says who is in the cluster.
    Named { from: NodeId, nodes: BTreeMap<NodeId, String>, done: oneshot::Sender<()> },
    /// Another node says that this one was removed from the cluster.
    Removed,
    /// Panic.
    #[cfg(test)]
    Panic,
}

/// Asks the directory's owner.
#[derive(Clone)]
pub struct DirectoryRequests(mpsc::Sender<DirectoryRequest>);

impl DirectoryRequests {
    /// The handle, and what its requests arrive at.
    pub fn new() -> (Self, mpsc::Receiver<DirectoryRequest>) {
        let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
        (Self(sender), receiver)
    }

    /// Has the owner read what `system` says in this partition now. Once it has, all others see it as well.
    ///
    /// # Errors
    /// `system` cannot be read, has reached a feature level that this node does not understand, or there is no answer
    /// before the deadline.
    pub async fn read(&self, system: Arc<Partition>, freshness: DirectoryFreshness, deadline: Instant) -> ReadAnswer {
        self.ask(deadline, |done| DirectoryRequest::Read { system, freshness, done }).await?
    }

    /// Makes the nodes known that are in this node's identity.
    ///
    /// # Errors
    /// There is no answer before the deadline.
    pub async fn join(&self, peers: BTreeMap<NodeId, String>, deadline: Instant) -> Result<(), NodeError> {
        self.ask(deadline, |done| DirectoryRequest::Join { peers, done }).await
    }

    /// Sets where nodes are reached from now on.
    ///
    /// # Errors
    /// There is no answer before the deadline.
    pub async fn reach(&self, nodes: BTreeMap<NodeId, String>, deadline: Instant) -> Result<(), NodeError> {
        self.ask(deadline, |done| DirectoryRequest::Reach { nodes, done }).await
    }

    /// Hands over what another node says about who is in the cluster.
    ///
    /// # Errors
    /// There is no answer before the deadline.
    pub async fn on_named(
        &self,
        from: NodeId,
        nodes: BTreeMap<NodeId, String>,
        deadline: Instant,
    ) -> Result<(), NodeError> {
        self.ask(deadline, |done| DirectoryRequest::Named { from, nodes, done }).await
    }

    /// Hands over that another node says this one was removed. That node says it again, so nobody waits for room.
    pub fn on_removed(&self) {
        drop(self.0.try_send(DirectoryRequest::Removed));
    }

    /// Has the owner panic.
    #[cfg(test)]
    pub async fn plant_panic(&self) {
        drop(self.0.send(DirectoryRequest::Panic).await);
    }

    async fn ask<T>(
        &self,
        deadline: Instant,
        request: impl FnOnce(oneshot::Sender<T>) -> DirectoryRequest,
    ) -> Result<T, NodeError> {
        let asking = async {
            let (done, answer) = oneshot::channel();
            self.0.send(request(done)).await.map_err(|_| NodeError::Stopping)?;
            // The owner drops what it cannot answer only if it panics, or ends.
            answer.await.map_err(|_| NodeError::Unanswered)
        };
        tokio::time::timeout_at(deadline, asking).await.unwrap_or(Err(NodeError::Unanswered))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_deadline_for_an_owner_that_is_gone_or_hangs_or_has_panicked() {
        let (requests, mut mailbox) = DirectoryRequests::new();
        let asked = requests.reach(BTreeMap::new(), soon()).await;
        assert!(matches!(asked, Err(NodeError::Unanswered)), "the owner hangs: {asked:?}");
        for _ in 0..2 * REQUESTS_MAX {
            requests.on_removed();
        }
        let asked = requests.reach(BTreeMap::new(), soon()).await;
        assert!(matches!(asked, Err(NodeError::Unanswered)), "there is no room either: {asked:?}");
        while mailbox.try_recv().is_ok() {}

        let dropping = async { drop(mailbox.recv().await) };
        let (asked, ()) = tokio::join!(requests.join(BTreeMap::new(), soon()), dropping);
        assert!(matches!(asked, Err(NodeError::Unanswered)), "it has panicked: {asked:?}");

        drop(mailbox);
        let asked = requests.on_named(NodeId(1), BTreeMap::new(), soon()).await;
        assert!(matches!(asked, Err(NodeError::Stopping)), "it has ended: {asked:?}");
    }
}
