//! Streams over the simulated network: items arrive in order or not at all, as over one connection.
//!
//! A stream stalls while its link is cut, in either direction. It breaks once the cut has lasted for the time that the
//! real network's probe would wait. It does not know what the items are.

use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, Stream, StreamExt};

use super::{SimNetwork, SimPeer, down};
use crate::consensus::PeerError;
use crate::ids::NodeId;
use crate::limits;
use crate::peer::GroupName;

/// How many items of one stream are on their way at the same time: far more than any sender has unanswered.
const FLOW_ITEMS_MAX: usize = 1024;

impl SimNetwork {
    /// Waits until something that is sent now would arrive.
    pub(super) fn cross(&self, from: NodeId, to: NodeId) -> impl Future<Output = ()> + Send + use<> {
        let (network, at) = (self.clone(), self.with_link(from, to, |link| link.arrival()));
        async move {
            tokio::time::sleep_until(at).await;
            network.until(|| !network.is_cut(from, to)).await;
        }
    }

    /// The items as they arrive.
    pub(super) fn flow<T: Send + 'static>(
        &self,
        from: NodeId,
        to: NodeId,
        items: impl Stream<Item = T> + Send + 'static,
    ) -> BoxStream<'static, T> {
        let network = self.clone();
        let cross = move |item| {
            let (passes, crossing) = (network.passes(from, to), network.cross(from, to));
            async move {
                if !passes {
                    // The stream waits until the connection breaks.
                    std::future::pending::<()>().await;
                }
                crossing.await;
                item
            }
        };
        items.map(cross).buffered(FLOW_ITEMS_MAX).boxed()
    }

    /// Passes each item on once its group is not silent.
    pub(super) fn unless_silent<T: Send + 'static>(
        &self,
        group: GroupName,
        items: impl Stream<Item = T> + Send + 'static,
    ) -> BoxStream<'static, T> {
        let network = self.clone();
        let wait = move |item| {
            let (network, group) = (network.clone(), group.clone());
            async move {
                network.until(|| !network.is_silent(&group)).await;
                item
            }
        };
        items.then(wait).boxed()
    }

    /// Waits until `is_so`, and looks again whenever a link was cut or healed.
    async fn until(&self, is_so: impl Fn() -> bool) {
        let mut changed = self.changed.subscribe();
        while !is_so() {
            changed.changed().await.expect("this network is its sender");
        }
    }

    /// Waits until a probe between the two would have gone unanswered.
    async fn until_probe_fails(&self, one: NodeId, other: NodeId) {
        let is_cut = || self.is_cut(one, other) || self.is_cut(other, one);
        loop {
            self.until(is_cut).await;
            let patience = limits::PEER_PROBE_INTERVAL + limits::PEER_PROBE_PATIENCE;
            if tokio::time::timeout(patience, self.until(|| !is_cut())).await.is_err() {
                return;
            }
        }
    }
}

impl SimPeer {
    /// The items up to and including the first error. The end of the connection to `to` is an error, too.
    pub(super) fn until_broken<T: Send + 'static>(
        &self,
        to: NodeId,
        items: BoxStream<'static, Result<T, PeerError>>,
    ) -> BoxStream<'static, Result<T, PeerError>> {
        let state = Some((items, self.clone().broken(to).boxed()));
        stream::unfold(state, |state| async move {
            let (mut items, mut broken) = state?;
            let item = tokio::select! {
                biased;
                error = &mut broken => Err(error),
                item = items.next() => item?,
            };
            let next = item.is_ok().then_some((items, broken));
            Some((item, next))
        })
        .boxed()
    }

    /// Does the same, and each piece must arrive within `patience`.
    pub(super) fn patient<T: Send + 'static>(
        &self,
        to: NodeId,
        pieces: BoxStream<'static, Result<T, PeerError>>,
        patience: Duration,
    ) -> BoxStream<'static, Result<T, PeerError>> {
        let next = move |mut pieces: BoxStream<'static, Result<T, PeerError>>| async move {
            let piece =
                tokio::time::timeout(patience, pieces.next()).await.unwrap_or(Some(Err(PeerError::Timeout(to))));
            Some((piece?, pieces))
        };
        self.until_broken(to, stream::unfold(pieces, next).boxed())
    }

    /// Waits until there is no connection between the two any more, and says why.
    async fn broken(self, to: NodeId) -> PeerError {
        let member = match self.network.member(to) {
            Ok(member) => member,
            Err(error) => return error,
        };
        tokio::select! {
            () = member.left.cancelled() => down(to),
            () = self.left.cancelled() => down(self.node),
            () = self.network.until_probe_fails(self.node, to) => PeerError::Timeout(to),
        }
    }
}
