//! Serving: accepts connections, bounded in number and patience, and ends gracefully.
//!
//! In: a listener, what connections pass first, places, a service, a signal. Out: answered requests. After the signal
//! it takes no new connection or request, and finishes those in hand within their bound. It speaks HTTP/1.1 with
//! keep-alive, and HTTP/2. If no places are left, idle connections are closed first. It knows nothing of what is
//! served.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router as Service;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::error::ApiError;
use super::places::{Activity, ClientNetwork, ConnectionPlace, Places};
use super::tls::{Acceptor, OpenConnection};
use crate::durable;
use crate::limits::{DESCRIPTORS_LOOK, HTTP_HEADERS_BYTES_MAX, HTTP_IDLE_MAX, HTTP_STREAMS_MAX, SHUTDOWN_MAX};

/// The pause after a connection could not be accepted: it stays in the system's queue, and a retry at once would fail.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// The answer to a client beyond the bound of connections.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Answers requests until `shutdown` is ready, then finishes those in hand.
///
/// # Errors
/// The listener fails for good. A lack of descriptors is waited out.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    service: Service,
    places: Arc<Places>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ApiError> {
    let graceful = GracefulShutdown::new();
    let stopping = CancellationToken::new();
    let server = Server { acceptor, builder: connection_builder(), service, stopping: stopping.clone() };
    let server = Arc::new(server);
    let mut looks = tokio::time::interval(DESCRIPTORS_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = looks.tick() => {
                let descriptors = places.descriptors().clone();
                drop(tokio::task::spawn_blocking(move || descriptors.count_others()));
                continue;
            }
            () = &mut shutdown => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => {
                is_failing = false;
                accepted
            }
            Err(error) if is_passing(&error) => {
                // A flood causes this error again and again, and must not fill the log as well.
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "a connection could not be accepted; idle ones are closed until one can be");
                }
                places.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            Err(error) => return Err(ApiError::Listener(error)),
        };
        let Some(place) = places.take(ClientNetwork::of(address.ip())) else {
            refuse(&stream);
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was closed by the client before it was served");
            continue;
        }
        let (server, watcher) = (server.clone(), graceful.watcher());
        tokio::spawn(async move { server.serve_one(stream, address, place, watcher).await });
    }
    drop(listener);
    stopping.cancel();
    if tokio::time::timeout(SHUTDOWN_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that did not finish in time are cut off");
    }
    Ok(())
}

/// What all connections are served with.
struct Server {
    acceptor: Acceptor,
    builder: Builder<TokioExecutor>,
    service: Service,
    stopping: CancellationToken,
}

impl Server {
    /// Serves a connection to its end.
    async fn serve_one(&self, stream: TcpStream, address: SocketAddr, place: ConnectionPlace, watcher: Watcher) {
        let opened = tokio::select! {
            opened = self.acceptor.accept(stream, address) => opened,
            () = self.stopping.cancelled() => None,
            () = place.activity.over() => None,
        };
        let Some(OpenConnection { stream, retired }) = opened else { return };
        let (activity, network, stopping) = (place.activity.clone(), place.network, self.stopping.clone());
        let context = ConnectionContext { activity, network, address, stopping, retired: retired.clone() };
        let connection = self.builder.serve_connection(TokioIo::new(stream), counted(self.service.clone(), context));
        tokio::select! {
            served = watcher.watch(connection) => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended early");
                }
            }
            // Dropping the connection closes it.
            () = place.activity.over() => {}
            () = place.activity.retired(&retired) => {}
        }
    }
}

fn connection_builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Hyper's own header timeout costs a timer per request; `Activity` bounds patience per connection.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HTTP_HEADERS_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP_STREAMS_MAX)
        .max_header_list_size(HTTP_HEADERS_BYTES_MAX as u32)
        .keep_alive_interval(Some(HTTP_IDLE_MAX / 2));
    builder
}

fn counted(
    service: Service,
    context: ConnectionContext,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future: Send + 'static,
> + Send {
    hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let under_way = context.stay();
        request.extensions_mut().insert(context.clone());
        let answer = service.clone().oneshot(request);
        async move {
            let _under_way = under_way;
            answer.await
        }
    })
}

/// What a request can ask of its connection, for an answer that continues after its headers.
#[derive(Clone)]
pub struct ConnectionContext {
    activity: Arc<Activity>,
    /// Where the connection comes from, as far as an address says.
    pub network: ClientNetwork,
    /// The address of the client, or of a proxy before it.
    pub address: SocketAddr,
    /// Cancelled when the node stops: answers that still run must end then.
    pub stopping: CancellationToken,
    /// Cancelled when the terms that let the client in do not count any more.
    pub retired: CancellationToken,
}

impl ConnectionContext {
    /// Keeps the connection from being taken for idle.
    pub fn stay(&self) -> UnderWay {
        self.activity.on_begun();
        UnderWay(self.activity.clone())
    }

    /// Notes that its caller was let in: if there are too many connections, those of strangers are closed first.
    pub fn on_known(&self) {
        self.activity.on_known();
    }
}

/// A request, or the rest of its answer.
pub struct UnderWay(Arc<Activity>);

impl UnderWay {
    /// The client does not take the answer: the connection is closed, unless other requests are under way on it.
    pub fn abandon(self) {
        let activity = self.0.clone();
        drop(self);
        activity.on_given_up();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.on_ended();
    }
}

/// Tells the client why, if that works without waiting; dropping the stream closes it.
fn refuse(stream: &TcpStream) {
    if let Err(error) = stream.try_write(NO_PLACE) {
        tracing::debug!(%error, "a connection beyond the limit was closed without an answer");
    }
}

/// Whether an error is one of a connection, or of the moment, and not of the listener.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    let is_buffers = error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error());
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || is_buffers
        || durable::is_scarcity(error)
}
