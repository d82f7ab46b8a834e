//! The network of a node without peers: there is no route to any node.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};

use super::{Call, GroupName, Network, Pieces};
use crate::consensus::{AppendReply, PeerError, PeerReply, PeerRequest};
use crate::ids::NodeId;

#[derive(Clone, Copy, Debug)]
pub struct NoNetwork;

impl Network for NoNetwork {
    fn raft(
        &self,
        to: NodeId,
        _group: &GroupName,
        _request: PeerRequest,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        future::ready(Err(PeerError::NoRoute(to))).boxed()
    }

    fn appends(
        &self,
        to: NodeId,
        _group: &GroupName,
        _requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, PeerError>> {
        stream::once(future::ready(Err(PeerError::NoRoute(to)))).boxed()
    }

    fn call(&self, to: NodeId, _call: Call, _deadline: Duration) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        future::ready(Err(PeerError::NoRoute(to))).boxed()
    }

    fn fetch(&self, to: NodeId, _call: Call, _patience: Duration) -> BoxFuture<'static, Result<Pieces, PeerError>> {
        future::ready(Err(PeerError::NoRoute(to))).boxed()
    }
}
