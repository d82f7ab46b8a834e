//! The answering side: answers peers over gRPC with a [`Service`].
//!
//! In: connections of a listener. Every request passes the handshake first, is answered within the caller's patience,
//! and is given up when the caller gives it up or this node stops. It does not know what a body means.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, Stream, StreamExt};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::convert::UnreadableMessage;
use super::wire::appends_request::Message;
use super::wire::peer_server::{Peer, PeerServer};
use super::{Identity, PeerOptions, convert, handshake, links, status, wire};
use crate::consensus::PeerRequest;
use crate::ids::NodeId;
use crate::limits;
use crate::peer::{PeerSetupError, Service, ServiceError, Topic};

/// Answers until `shutdown` completes; then requests under way end with an error and connections close, within
/// [`limits::PEER_STOP_MAX`]. Dropping the future ends requests as well.
pub async fn serve_peers(
    listener: TcpListener,
    options: PeerOptions,
    service: Arc<dyn Service>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), PeerSetupError> {
    let stopping = CancellationToken::new();
    let _stopped_when_dropped = stopping.clone().drop_guard();
    let answers = PeerServer::new(ServiceAnswers { identity: options.identity, service, stopping: stopping.clone() })
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
    let signal = async {
        shutdown.await;
        stopping.cancel();
    };
    let (connections, accepting) = links::accept(listener, options.links, options.certificates);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(limits::PEER_PROBE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::PEER_PROBE_PATIENCE))
        .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits::PEER_STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::PEER_GIVEN_UP_MAX))
        .serve_with_incoming_shutdown(answers, connections, signal);
    // A peer that does not close its end must not keep this node from stopping.
    let overdue = async {
        stopping.cancelled().await;
        tokio::time::sleep(limits::PEER_STOP_MAX).await;
    };
    let served = tokio::select! {
        served = serving => served.map_err(PeerSetupError::Serve),
        () = overdue => Ok(()),
    };
    // The port is free after this; a panic of that task does not matter any more.
    drop(accepting.await);
    served
}

struct ServiceAnswers {
    identity: Identity,
    service: Arc<dyn Service>,
    stopping: CancellationToken,
}

impl ServiceAnswers {
    /// The node that asks, if it may ask at all.
    fn admit<T>(&self, request: &Request<T>, topic: Option<Topic>) -> Result<NodeId, Status> {
        let from = handshake::admit(&self.identity, request, topic)?;
        handshake::link(request).set_known(self.service.is_known(from));
        Ok(from)
    }

    /// The answer, unless the caller's patience or this node's time ends first.
    async fn within<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, Status> {
        tokio::select! {
            answer = answer => answer.map_err(status::of_service),
            () = tokio::time::sleep(patience) => Err(Status::deadline_exceeded("the caller's time is over")),
            () = self.stopping.cancelled() => Err(stopped()),
        }
    }

    /// The items until there are no more, or this node stops: then an error ends them, because a part must not look
    /// complete.
    fn until_stopped<T: Send + 'static>(
        &self,
        items: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> BoxStream<'static, Result<T, Status>> {
        let stopping = self.stopping.clone();
        let last = stream::once(async move { stopping.is_cancelled().then(|| Err(stopped())) });
        items.take_until(self.stopping.clone().cancelled_owned()).chain(last.filter_map(ready)).boxed()
    }
}

#[tonic::async_trait]
impl Peer for ServiceAnswers {
    type AppendsStream = BoxStream<'static, Result<wire::AppendReply, Status>>;
    type FetchStream = BoxStream<'static, Result<wire::Piece, Status>>;

    async fn raft(&self, request: Request<wire::RaftRequest>) -> Result<Response<wire::RaftReply>, Status> {
        let from = self.admit(&request, None)?;
        let patience = handshake::patience(request.metadata());
        let (group, message) = convert::request_in(request.into_inner()).map_err(unreadable)?;
        let reply = self.within(patience, self.service.raft(from, group, message)).await?;
        Ok(Response::new(convert::reply_out(reply)))
    }

    async fn appends(
        &self,
        request: Request<Streaming<wire::AppendsRequest>>,
    ) -> Result<Response<Self::AppendsStream>, Status> {
        let from = self.admit(&request, None)?;
        let mut messages = request.into_inner();
        let first = self.within(limits::PEER_CONNECT_MAX, messages.message().map(Ok)).await??;
        let Some(wire::AppendsRequest { message: Some(Message::Group(group)) }) = first else {
            return Err(Status::invalid_argument("a stream of appends begins with its group"));
        };
        let group = convert::group_in(Some(group)).map_err(unreadable)?;
        let fault = Arc::default();
        let requests = appends_until_fault(messages, Arc::clone(&fault));
        let replies = self.service.appends(from, group, requests);
        let replies = replies.map(|reply| reply.map(convert::append_reply_out).map_err(status::of_service));
        // Once the service has answered what could be read, the caller hears why there was no more.
        let fault = stream::once(async move { fault.lock().take().map(Err) }).filter_map(ready);
        Ok(Response::new(self.until_stopped(replies.chain(fault))))
    }

    async fn call(&self, request: Request<wire::CallRequest>) -> Result<Response<wire::CallReply>, Status> {
        let from = self.admit(&request, Topic::from_number(request.get_ref().topic))?;
        let patience = handshake::patience(request.metadata());
        let call = convert::call_in(request.into_inner()).map_err(unreadable)?;
        let body = self.within(patience, self.service.call(from, call, patience)).await?;
        Ok(Response::new(wire::CallReply { body }))
    }

    async fn fetch(&self, request: Request<wire::CallRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let from = self.admit(&request, Topic::from_number(request.get_ref().topic))?;
        let patience = handshake::patience(request.metadata());
        let call = convert::call_in(request.into_inner()).map_err(unreadable)?;
        let pieces = self.within(patience, self.service.fetch(from, call)).await?;
        let pieces = pieces.map(|piece| piece.map(|body| wire::Piece { body }).map_err(status::of_service));
        Ok(Response::new(self.until_stopped(pieces)))
    }
}

/// The appends of a stream up to the first that cannot be read; the reason is left in `fault`.
fn appends_until_fault(
    messages: Streaming<wire::AppendsRequest>,
    fault: Arc<Mutex<Option<Status>>>,
) -> BoxStream<'static, PeerRequest> {
    let appends = messages.map(|message| match message?.message {
        Some(Message::Append(append)) => convert::append_in(append).map_err(unreadable),
        _ => Err(Status::invalid_argument("a stream of appends holds only appends after its group")),
    });
    let note =
        move |append: Result<PeerRequest, Status>| ready(append.map_err(|status| *fault.lock() = Some(status)).ok());
    appends.scan((), move |(), append| note(append)).boxed()
}

fn unreadable(error: UnreadableMessage) -> Status {
    status::of_service(ServiceError::Malformed(error.to_string()))
}

fn stopped() -> Status {
    Status::unavailable("the node is stopping")
}
