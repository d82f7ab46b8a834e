//! The calling side: [`Network`] over gRPC.
//!
//! In: requests with their deadlines. Out: what the peer answered, or why it did not. A request to a peer that is down
//! fails at once, one to a peer that hangs at the deadline; the next request opens a lost connection again. Once new
//! requests take another connection, a stream of appends ends after all that was sent is answered, and its owner opens
//! the next one there. It does not know when to retry, nor what a body means.

use std::future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::dial::Dial;
use super::wire::appends_request::Message;
use super::wire::peer_client::PeerClient;
use super::{Identity, PeerCertificates, Routes, convert, handshake, status, wire};
use crate::consensus::{AppendReply, PeerError, PeerReply, PeerRequest};
use crate::ids::NodeId;
use crate::limits;
use crate::peer::{Call, GroupName, Network, Pieces};

/// One per process, so that there is one connection to each peer. Clones are the same.
#[derive(Clone)]
pub struct Grpc {
    identity: Identity,
    routes: Routes,
    certificates: Option<PeerCertificates>,
}

impl Grpc {
    /// It connects to nobody yet.
    pub fn new(identity: Identity, routes: Routes, certificates: Option<PeerCertificates>) -> Self {
        Self { identity, routes, certificates }
    }

    fn client(&self, to: NodeId) -> Result<PeerClient<Channel>, PeerError> {
        self.client_until_left(to).map(|(client, _)| client)
    }

    /// Also returns a token that is cancelled once new requests take another connection. Must run inside the runtime:
    /// the connection's task is spawned here.
    fn client_until_left(&self, to: NodeId) -> Result<(PeerClient<Channel>, CancellationToken), PeerError> {
        let (channel, left) =
            self.routes.find_channel(to, |address| self.dial(to, address)).ok_or(PeerError::NoRoute(to))??;
        // The peer refuses a message that is too large in words; a refusal here would look like a broken stream.
        Ok((PeerClient::new(channel).max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX), left))
    }

    fn dial(&self, to: NodeId, address: &str) -> Result<Channel, PeerError> {
        let failed = |error: tonic::transport::Error| {
            let detail = format!("cannot be reached at `{address}`: {error}");
            PeerError::Failed { node: to, detail }
        };
        // If there are certificates, the connector does TLS.
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
        let endpoint = endpoint
            .tcp_nodelay(true)
            .http2_keep_alive_interval(limits::PEER_PROBE_INTERVAL)
            .keep_alive_timeout(limits::PEER_PROBE_PATIENCE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW_BYTES);
        Ok(match &self.certificates {
            None => endpoint.connect_timeout(limits::PEER_CONNECT_MAX).connect_lazy(),
            Some(certificates) => {
                let (address, certificates) = (address.to_owned(), certificates.clone());
                endpoint.connect_with_connector_lazy(Dial { node: to, address, certificates })
            }
        })
    }

    async fn open_appends(
        self,
        to: NodeId,
        group: wire::Group,
        requests: BoxStream<'static, PeerRequest>,
    ) -> Result<Streaming<wire::AppendReply>, PeerError> {
        let (mut client, left) = self.client_until_left(to)?;
        let messages = OutgoingAppends { first: Some(group), requests, left: Box::pin(left.cancelled_owned()) };
        let request = handshake::stamp(&self.identity, to, messages, None);
        let replies = client.appends(request).await.map_err(|status| status::of_peer(to, &status))?;
        Ok(replies.into_inner())
    }
}

impl Network for Grpc {
    fn raft(
        &self,
        to: NodeId,
        group: &GroupName,
        request: PeerRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        let (this, message) = (self.clone(), convert::request_out(group, request));
        let answer = async move {
            let request = handshake::stamp(&this.identity, to, message, Some(deadline));
            let reply = this.client(to)?.raft(request).await.map_err(|status| status::of_peer(to, &status))?;
            convert::reply_in(reply.into_inner()).map_err(|_| PeerError::UnexpectedReply { node: to })
        };
        within(to, deadline, answer).boxed()
    }

    fn appends(
        &self,
        to: NodeId,
        group: &GroupName,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, PeerError>> {
        let opened = self.clone().open_appends(to, convert::group_out(group), requests);
        let replies = opened.into_stream().flat_map(move |opened| match opened {
            Ok(replies) => replies.map(move |reply| read_append_reply(to, reply)).boxed(),
            Err(error) => stream::once(future::ready(Err(error))).boxed(),
        });
        until_error(replies)
    }

    fn call(&self, to: NodeId, call: Call, deadline: Duration) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let this = self.clone();
        let answer = async move {
            let request = handshake::stamp(&this.identity, to, convert::call_out(call), Some(deadline));
            let reply = this.client(to)?.call(request).await.map_err(|status| status::of_peer(to, &status))?;
            Ok(reply.into_inner().body)
        };
        within(to, deadline, answer).boxed()
    }

    fn fetch(&self, to: NodeId, call: Call, patience: Duration) -> BoxFuture<'static, Result<Pieces, PeerError>> {
        let this = self.clone();
        let opened = async move {
            let request = handshake::stamp(&this.identity, to, convert::call_out(call), Some(patience));
            let pieces = this.client(to)?.fetch(request).await.map_err(|status| status::of_peer(to, &status))?;
            Ok(patient(to, pieces.into_inner(), patience))
        };
        within(to, patience, opened).boxed()
    }
}

/// The messages of a stream of appends: the group, then each append until new requests take another connection.
struct OutgoingAppends {
    first: Option<wire::Group>,
    requests: BoxStream<'static, PeerRequest>,
    left: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for OutgoingAppends {
    type Item = wire::AppendsRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<wire::AppendsRequest>> {
        let message = match self.first.take() {
            Some(group) => Some(Message::Group(group)),
            None if self.left.as_mut().poll(cx).is_ready() => None,
            None => {
                ready!(self.requests.poll_next_unpin(cx)).map(|request| Message::Append(convert::append_out(request)))
            }
        };
        let message = message.map(|message| wire::AppendsRequest { message: Some(message) });
        let size = message.as_ref().map_or(0, prost::Message::encoded_len);
        metrics::counter!("statehouse_append_bytes_sent_total").increment(size as u64);
        Poll::Ready(message)
    }
}

async fn within<T>(
    to: NodeId,
    deadline: Duration,
    answer: impl Future<Output = Result<T, PeerError>>,
) -> Result<T, PeerError> {
    tokio::time::timeout(deadline, answer).await.unwrap_or(Err(PeerError::Timeout(to)))
}

fn read_append_reply(node: NodeId, reply: Result<wire::AppendReply, Status>) -> Result<AppendReply, PeerError> {
    let reply = reply.map_err(|status| status::of_peer(node, &status))?;
    convert::append_reply_in(reply).map_err(|_| PeerError::UnexpectedReply { node })
}

/// Each piece, if it arrives within `patience` after the one before.
fn patient(from: NodeId, pieces: Streaming<wire::Piece>, patience: Duration) -> Pieces {
    let next = move |mut pieces: Streaming<wire::Piece>| async move {
        let piece = match tokio::time::timeout(patience, pieces.next()).await {
            Ok(piece) => piece?.map(|piece| piece.body).map_err(|status| status::of_peer(from, &status)),
            Err(_) => Err(PeerError::Timeout(from)),
        };
        Some((piece, pieces))
    };
    until_error(stream::unfold(pieces, next))
}

/// The stream up to its first error.
fn until_error<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, PeerError>> + Send + 'static,
) -> BoxStream<'static, Result<T, PeerError>> {
    let one_error = |has_failed: &mut bool, item: Result<T, PeerError>| {
        let is_over = std::mem::replace(has_failed, item.is_err());
        future::ready((!is_over).then_some(item))
    };
    stream.scan(false, one_error).boxed()
}
