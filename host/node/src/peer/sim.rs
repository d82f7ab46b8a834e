//! A peer network in memory, for whole nodes in one process: tests and the cluster simulator.
//!
//! In: nodes that join with their services, and faults of the link from one node to another. Out: a [`Network`] per
//! node that keeps the trait's promises, at worst with an error. Time is tokio's, and randomness comes from one seed:
//! on a paused runtime of one thread the same seed gives the same run. It knows nothing of what is said.
//!
//! | fault | what happens to a call | what happens to a stream |
//! |---|---|---|
//! | cut | it or its reply vanishes; the caller waits for its deadline | it stalls; it breaks when a probe would fail |
//! | delay | request and reply each take so long | so does each item, in order |
//! | reorder | some requests are overtaken by later ones | never |
//! | lost calls | the request vanishes, the caller waits for its deadline | never |
//! | lost replies | the request is carried out, the caller hears nothing | never |
//! | doubled calls | the request is carried out once more, later ones in between; the caller hears one reply | never |
//! | silence of a group | its votes vanish, other calls are not affected | its appends stall |
//! | fall of a node | after so many messages from or to it, it leaves | breaks |

mod flow;
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::link::{Parcel, SimLink};
use super::{Call, GroupName, Network, Pieces, Service, ServiceError};
use crate::consensus::{AppendReply, PeerError, PeerReply, PeerRequest};
use crate::ids::NodeId;

/// Everything between the nodes. Clones are the same network.
#[derive(Clone)]
pub struct SimNetwork {
    state: Arc<Mutex<SimNetworkState>>,
    /// Signals that a link was cut or healed.
    changed: watch::Sender<()>,
}

struct SimNetworkState {
    seed: u64,
    /// `None` is a node that is down; one that never entered has no entry.
    nodes: BTreeMap<NodeId, Option<Life>>,
    links: BTreeMap<(NodeId, NodeId), SimLink>,
    /// Groups whose members do not hear each other.
    silent: BTreeSet<GroupName>,
    /// How many messages a node still sends or receives, and what happens at the last one.
    falls: BTreeMap<NodeId, (u64, Parcel)>,
}

/// One life of a node, from entering to leaving.
struct Life {
    /// `None` until the node answers. For the others it is down until then.
    service: Option<Arc<dyn Service>>,
    left: CancellationToken,
}

/// A node that answers.
struct SimMember {
    service: Arc<dyn Service>,
    left: CancellationToken,
}

impl SimNetwork {
    pub fn new(seed: u64) -> Self {
        let (nodes, links) = (BTreeMap::new(), BTreeMap::new());
        let state = SimNetworkState { seed, nodes, links, silent: BTreeSet::new(), falls: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(()) }
    }

    /// Begins a life of a node, and returns the node's network. Requests that an earlier life still had under way fail
    /// as if the node had left. The node answers nobody before [`SimNetwork::answer`].
    pub fn enter(&self, node: NodeId) -> Arc<dyn Network> {
        self.leave(node);
        let left = CancellationToken::new();
        self.state.lock().nodes.insert(node, Some(Life { service: None, left: left.clone() }));
        Arc::new(SimPeer { network: self.clone(), node, left })
    }

    /// From now on `service` answers for a node, unless the node has left since it entered.
    pub fn answer(&self, node: NodeId, service: Arc<dyn Service>) {
        if let Some(Some(life)) = self.state.lock().nodes.get_mut(&node) {
            life.service = Some(service);
        }
    }

    /// Does both at once.
    pub fn join(&self, node: NodeId, service: Arc<dyn Service>) -> Arc<dyn Network> {
        let network = self.enter(node);
        self.answer(node, service);
        network
    }

    /// The node's process ends: what it was answering breaks off, and calls to it fail at once until it answers again.
    pub fn leave(&self, node: NodeId) {
        let mut state = self.state.lock();
        if let Some(life) = state.nodes.get_mut(&node).and_then(Option::take) {
            life.left.cancel();
        }
    }

    /// Nothing gets from one node to the other any more; the other direction is not affected.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.with_link(from, to, |link| link.is_cut = true);
        self.changed.send_replace(());
    }

    pub fn cut_both_ways(&self, one: NodeId, other: NodeId) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Things get from one node to the other again.
    pub fn reconnect(&self, from: NodeId, to: NodeId) {
        self.with_link(from, to, |link| link.is_cut = false);
        self.changed.send_replace(());
    }

    /// Delays everything from one node to the other, each time by another time from the range.
    pub fn delay(&self, from: NodeId, to: NodeId, delay: RangeInclusive<Duration>) {
        self.with_link(from, to, |link| link.delay = delay);
    }

    /// So many of 1,000 requests from one node to the other are held back for one more delay, while later ones pass.
    pub fn reorder(&self, from: NodeId, to: NodeId, permille: u32) {
        self.with_link(from, to, |link| link.reordered_permille = permille);
    }

    /// So many of 1,000 requests from one node to the other vanish.
    pub fn lose_calls(&self, from: NodeId, to: NodeId, permille: u32) {
        self.with_link(from, to, |link| link.calls_lost_permille = permille);
    }

    /// So many of 1,000 requests from one node to the other arrive twice, the second time when others may have
    /// overtaken it.
    pub fn double_calls(&self, from: NodeId, to: NodeId, permille: u32) {
        self.with_link(from, to, |link| link.calls_doubled_permille = permille);
    }

    /// So many of 1,000 requests from one node to the other are carried out without their reply coming back.
    pub fn lose_replies(&self, from: NodeId, to: NodeId, permille: u32) {
        self.with_link(from, to, |link| link.replies_lost_permille = permille);
    }

    /// The members of a group neither vote for each other nor replicate any more, while everything else gets through.
    pub fn silence(&self, group: GroupName) {
        self.state.lock().silent.insert(group);
        self.changed.send_replace(());
    }

    /// The node's power fails at the n-th message from or to it, counted from now: the message is lost, `off` is
    /// called, and the node has left.
    pub fn fall_after(&self, node: NodeId, messages: u64, off: impl FnOnce() + Send + 'static) {
        assert!(0 < messages);
        self.state.lock().falls.insert(node, (messages, Box::new(off)));
    }

    /// Removes all faults. What vanished stays lost.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.links.values_mut().for_each(SimLink::heal);
        state.silent.clear();
        state.falls.clear();
        drop(state);
        self.changed.send_replace(());
    }

    fn is_silent(&self, group: &GroupName) -> bool {
        self.state.lock().silent.contains(group)
    }

    /// Counts a message; `false` if a node falls at this one.
    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        let mut state = self.state.lock();
        let mut fallen = Vec::new();
        for node in [from, to] {
            let Some((left, _)) = state.falls.get_mut(&node) else { continue };
            *left -= 1;
            if *left == 0 {
                fallen.extend(state.falls.remove(&node).map(|(_, off)| (node, off)));
            }
        }
        drop(state);
        let passes = fallen.is_empty();
        for (node, off) in fallen {
            off();
            self.leave(node);
        }
        passes
    }

    fn with_link<T>(&self, from: NodeId, to: NodeId, act: impl FnOnce(&mut SimLink) -> T) -> T {
        let state = &mut *self.state.lock();
        act(state.links.entry((from, to)).or_insert_with(|| SimLink::new(state.seed, from, to)))
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.with_link(from, to, |link| link.is_cut)
    }

    fn member(&self, node: NodeId) -> Result<SimMember, PeerError> {
        let state = self.state.lock();
        let life = state.nodes.get(&node).ok_or(PeerError::NoRoute(node))?;
        life.as_ref().and_then(Life::member).ok_or_else(|| down(node))
    }
}

impl Life {
    fn member(&self) -> Option<SimMember> {
        Some(SimMember { service: self.service.clone()?, left: self.left.clone() })
    }
}

/// A node's end of the network.
#[derive(Clone)]
struct SimPeer {
    network: SimNetwork,
    node: NodeId,
    left: CancellationToken,
}

/// An answer on its way to the node that asked, which may have given up.
type SimAnswer<T> = oneshot::Sender<Result<T, PeerError>>;

impl SimPeer {
    /// Sends a request, which `handle` hands to the service there, and waits for the reply.
    async fn ask<T: Send + 'static>(
        self,
        to: NodeId,
        deadline: Duration,
        handle: impl Fn(&dyn Service, Duration) -> BoxFuture<'static, Result<T, ServiceError>> + Send + Clone + 'static,
    ) -> Result<T, PeerError> {
        if self.left.is_cancelled() {
            return Err(down(self.node));
        }
        self.network.member(to)?;
        let until = Instant::now() + deadline;
        let (answer, answered) = oneshot::channel();
        let (network, node) = (self.network.clone(), self.node);
        if network.with_link(node, to, SimLink::doubles_a_call) && network.passes(node, to) {
            let (again, handle) = (self.clone(), handle.clone());
            let (unheard, nobody) = oneshot::channel();
            let deliver = move || again.deliver(to, until, handle, unheard);
            network.with_link(node, to, |link| link.send_late(network.clone(), Box::new(deliver)));
            // Its reply is waited for like the other one, and dropped.
            tokio::spawn(tokio::time::timeout_at(until, nobody));
        }
        let deliver = move || self.deliver(to, until, handle, answer);
        if network.passes(node, to) && !network.with_link(node, to, SimLink::loses_a_call) {
            network.with_link(node, to, |link| link.send_call(network.clone(), Box::new(deliver)));
        }
        let answer = async {
            match answered.await {
                Ok(answer) => answer,
                // Request or reply vanished, and nobody says so: only the deadline ends the wait.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::time::timeout_at(until, answer).await.unwrap_or(Err(PeerError::Timeout(to)))
    }

    /// Hands a request to the service at the other end. The handler runs until it is done, nobody waits for it, or the
    /// node leaves.
    fn deliver<T: Send + 'static>(
        self,
        to: NodeId,
        until: Instant,
        handle: impl FnOnce(&dyn Service, Duration) -> BoxFuture<'static, Result<T, ServiceError>>,
        mut answer: SimAnswer<T>,
    ) {
        if answer.is_closed() || until <= Instant::now() || self.left.is_cancelled() {
            return;
        }
        let member = match self.network.member(to) {
            Ok(member) => member,
            Err(error) => return self.send_reply(to, Err(error), answer),
        };
        let handled = handle(&*member.service, until - Instant::now());
        tokio::spawn(async move {
            let reply = tokio::select! {
                () = answer.closed() => return,
                () = member.left.cancelled() => Err(down(to)),
                reply = handled => reply.map_err(|error| failed(to, &error)),
            };
            if !self.network.with_link(self.node, to, SimLink::loses_a_reply) {
                self.send_reply(to, reply, answer);
            }
        });
    }

    fn send_reply<T: Send + 'static>(self, to: NodeId, reply: Result<T, PeerError>, answer: SimAnswer<T>) {
        let (network, node) = (self.network.clone(), self.node);
        // The node that asked may have given up by the time it arrives.
        let deliver = move || drop(answer.send(reply));
        if network.passes(to, node) {
            network.with_link(to, node, |link| link.send_reply(network.clone(), Box::new(deliver)));
        }
    }
}

impl Network for SimPeer {
    fn raft(
        &self,
        to: NodeId,
        group: &GroupName,
        request: PeerRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        let (from, group, this) = (self.node, group.clone(), self.clone());
        let asked = async move {
            if this.network.is_silent(&group) {
                tokio::time::sleep(deadline).await;
                return Err(PeerError::Timeout(to));
            }
            this.ask(to, deadline, move |service, _| service.raft(from, group.clone(), request.clone())).await
        };
        asked.boxed()
    }

    fn appends(
        &self,
        to: NodeId,
        group: &GroupName,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, PeerError>> {
        let (this, group) = (self.clone(), group.clone());
        let opened = async move {
            let member = this.network.member(to)?;
            let (network, from) = (&this.network, this.node);
            network.cross(from, to).await;
            let requests = network.unless_silent(group.clone(), requests);
            let replies = member.service.appends(from, group, network.flow(from, to, requests));
            let replies = replies.map(move |reply| reply.map_err(|error| failed(to, &error)));
            Ok::<_, PeerError>(network.flow(to, from, replies))
        };
        let replies = opened.into_stream().flat_map(|opened| match opened {
            Ok(replies) => replies,
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        self.until_broken(to, replies.boxed())
    }

    fn call(&self, to: NodeId, call: Call, deadline: Duration) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let from = self.node;
        self.clone().ask(to, deadline, move |service, left| service.call(from, call.clone(), left)).boxed()
    }

    fn fetch(&self, to: NodeId, call: Call, patience: Duration) -> BoxFuture<'static, Result<Pieces, PeerError>> {
        let this = self.clone();
        let opened = async move {
            let from = this.node;
            let pieces = this.clone().ask(to, patience, move |service, _| service.fetch(from, call.clone())).await?;
            let pieces = pieces.map(move |piece| piece.map_err(|error| failed(to, &error)));
            Ok::<_, PeerError>(this.patient(to, this.network.flow(to, from, pieces), patience))
        };
        opened.boxed()
    }
}

fn failed(node: NodeId, error: &ServiceError) -> PeerError {
    let detail = error.to_string();
    match error {
        ServiceError::Refused(_) => PeerError::Refused { node, detail },
        _ => PeerError::Failed { node, detail },
    }
}

fn down(node: NodeId) -> PeerError {
    PeerError::Failed { node, detail: "it is down".to_owned() }
}
