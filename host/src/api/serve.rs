//! Serving: connections in, bounded in number and patience; a graceful end.
//!
//! In: a listener, a service, a signal. Out: answered requests; after the signal no new connection or request, those in
//! hand are finished within their bound. HTTP/1.1 with keep-alive and h2c. It knows nothing of what is served.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router as Service;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::error::ApiError;
use crate::limits::{HTTP_HEADERS_BYTES_MAX, HTTP_IDLE_MAX, HTTP_STREAMS_MAX, SHUTDOWN_MAX};

/// What a client beyond the bound of connections gets.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Answers requests until `shutdown` is ready, then finishes those in hand.
///
/// # Errors
/// The listener fails for good; running out of descriptors is waited out.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    connections_max: usize,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ApiError> {
    let graceful = GracefulShutdown::new();
    let builder = Arc::new(connection_builder());
    let places = Arc::new(Semaphore::new(connections_max));
    let stopping = CancellationToken::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_passing(&error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Err(error) => return Err(ApiError::Listener(error)),
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            refuse(&stream);
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            continue;
        }
        let watcher = graceful.watcher();
        let (builder, service, stopping) = (builder.clone(), service.clone(), stopping.clone());
        tokio::spawn(async move {
            let _place = place;
            let activity = Arc::new(Activity::default());
            let counted = counted(service, Connected { activity: activity.clone(), stopping });
            let connection = builder.serve_connection(TokioIo::new(stream), counted);
            tokio::select! {
                served = watcher.watch(connection) => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection ended early");
                    }
                }
                // Dropping the connection closes it.
                () = activity.idle() => {}
                () = activity.abandoned() => {}
            }
        });
    }
    drop(listener);
    stopping.cancel();
    if tokio::time::timeout(SHUTDOWN_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that did not end in time are broken off");
    }
    Ok(())
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
    connected: Connected,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future: Send + 'static,
> + Send {
    hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let under_way = connected.stay();
        request.extensions_mut().insert(connected.clone());
        let answer = service.clone().oneshot(request);
        async move {
            let _under_way = under_way;
            answer.await
        }
    })
}

/// What a request can ask of its connection, for an answer that goes on after its headers.
#[derive(Clone)]
pub struct Connected {
    activity: Arc<Activity>,
    /// Cancelled when the node stops: whatever goes on must end then.
    pub stopping: CancellationToken,
}

impl Connected {
    /// Keeps the connection from being taken for idle.
    pub fn stay(&self) -> UnderWay {
        self.activity.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.activity.clone())
    }
}

/// What happens on one connection: requests begun, and requests ended.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
    given_up: Notify,
}

/// A request, or the rest of its answer.
pub struct UnderWay(Arc<Activity>);

impl UnderWay {
    /// The client does not take the answer: unless others are under way on the connection, it is closed.
    pub fn abandon(self) {
        let activity = self.0.clone();
        drop(self);
        activity.given_up.notify_one();
    }
}

impl Activity {
    /// Ready once an answer was given up and nothing else is under way.
    async fn abandoned(&self) {
        loop {
            self.given_up.notified().await;
            if self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Ready once nothing was under way, begun or ended for a whole period: headers that trickle in, a client that
    /// is gone, an answer that is not read.
    async fn idle(&self) {
        let mut before = u64::MAX;
        loop {
            tokio::time::sleep(HTTP_IDLE_MAX).await;
            let (ended, begun) = (self.ended.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed));
            if begun == ended && (begun == before || begun == 0) {
                return;
            }
            before = begun;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells the client, as far as that works without waiting; dropping the stream closes it.
fn refuse(stream: &TcpStream) {
    if let Err(error) = stream.try_write(NO_PLACE) {
        tracing::debug!(%error, "a connection beyond the bound was closed without a word");
    }
}

/// Errors of one connection, or of a moment, not of the listener.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    // ENFILE, EMFILE, ENOBUFS, ENOMEM: the machine has run out of something.
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}
