//! The connections that other nodes have opened here: how many there are, which node owns each, and how one ends.
//!
//! In: sockets. Out: the streams that HTTP/2 runs over, each with a [`Link`]. The first request that is admitted shows
//! which node owns a connection. One that no known node owns, or on which nothing arrives any more, is closed; if there
//! are too many, the oldest one without a known owner is closed first. So a flood of the port keeps no known node out.
//! It does not know what is said, nor who is known.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::tls::{PeerCertificates, ShownCertificate};
use crate::ids::NodeId;
use crate::limits;

/// How many connections may be ready and not taken yet.
const READY_MAX: usize = 16;

/// One connection.
pub struct Link {
    number: u64,
    opened: Instant,
    /// The node that owns it, once a request of a node of the cluster was admitted on it.
    node: OnceLock<NodeId>,
    /// Since when no node that is known here has owned it; `None` while one does.
    unknown: Mutex<Option<Instant>>,
    /// The node's certificate, and those that lead to its authority; unset without TLS.
    shown: OnceLock<ShownCertificate>,
    closing: CancellationToken,
}

impl Link {
    /// The certificate that the node has shown; `None` without TLS.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.shown.get()?.chain.first()
    }

    /// Notes that a request of this node was admitted. A connection belongs to one node: says whether that is this one.
    pub fn is_of(&self, node: NodeId) -> bool {
        *self.node.get_or_init(|| node) == node
    }

    /// Notes whether the node that asks here is one to talk to.
    pub fn set_known(&self, is_known: bool) {
        let mut unknown = self.unknown.lock();
        *unknown = if is_known { None } else { unknown.or_else(|| Some(Instant::now())) };
    }
}

/// How many connections there may be, and how long they may be silent.
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    pub count: usize,
    pub unknown: Duration,
    pub idle: Duration,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self { count: limits::PEER_CONNECTIONS_MAX, unknown: limits::PEER_UNKNOWN_MAX, idle: limits::PEER_IDLE_MAX }
    }
}

/// All open connections. Clones are the same.
#[derive(Clone, Default)]
pub struct Links {
    limits: LinkLimits,
    open: Arc<Mutex<OpenLinks>>,
}

#[derive(Default)]
struct OpenLinks {
    links: BTreeMap<u64, Arc<Link>>,
    next: u64,
}

impl Links {
    pub fn within(limits: LinkLimits) -> Self {
        Self { limits, open: Arc::default() }
    }

    /// Closes all connections of a node.
    pub fn close(&self, node: NodeId) {
        self.close_where(|link| link.node.get() == Some(&node));
    }

    /// Closes the connections whose certificate is not trusted any more, and says how many there were.
    pub(super) fn close_untrusted(&self, certificates: &PeerCertificates) -> usize {
        self.close_where(|link| link.shown.get().is_some_and(|shown| !certificates.is_trusted_caller(shown)))
    }

    pub fn count(&self) -> usize {
        self.open.lock().links.len()
    }

    pub fn count_of(&self, node: NodeId) -> usize {
        self.open.lock().links.values().filter(|link| link.node.get() == Some(&node)).count()
    }

    fn close_where(&self, is_over: impl Fn(&Link) -> bool) -> usize {
        let over: Vec<Arc<Link>> = self.open.lock().links.values().filter(|link| is_over(link)).cloned().collect();
        over.iter().for_each(|link| link.closing.cancel());
        over.len()
    }

    /// Opens a new connection if there is room for it: the oldest one without a known owner makes room.
    fn open(&self) -> Option<OpenLink> {
        let mut open = self.open.lock();
        if self.limits.count <= open.links.len() {
            let unknown = open.links.values().find(|link| link.unknown.lock().is_some())?.number;
            if let Some(link) = open.links.remove(&unknown) {
                link.closing.cancel();
            }
        }
        let number = open.next;
        open.next += 1;
        let opened = Instant::now();
        let (node, shown, unknown) = (OnceLock::new(), OnceLock::new(), Mutex::new(Some(opened)));
        let link = Arc::new(Link { number, opened, node, unknown, shown, closing: CancellationToken::new() });
        open.links.insert(number, link.clone());
        Some(OpenLink { links: self.clone(), link })
    }
}

/// It counts as open until it is dropped.
struct OpenLink {
    links: Links,
    link: Arc<Link>,
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.links.open.lock().links.remove(&self.link.number);
    }
}

/// The connections as they become ready, until the stream is dropped; and the task that holds the port until then.
pub fn accept(
    listener: TcpListener,
    links: Links,
    certificates: Option<PeerCertificates>,
) -> (impl Stream<Item = io::Result<Connection>>, JoinHandle<()>) {
    let (ready, taken) = mpsc::channel(READY_MAX);
    let accepting = tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            match accepted {
                Ok((socket, _)) => {
                    let Some(link) = links.open() else {
                        tracing::warn!("a node's connection is refused: there are too many");
                        continue;
                    };
                    tokio::spawn(make_ready(socket, link, certificates.clone(), ready.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "connections of other nodes cannot be accepted");
                    sleep(limits::PEER_ACCEPT_AGAIN).await;
                }
            }
        }
    });
    let taken = futures_util::stream::unfold(taken, |mut taken| async move { Some((Ok(taken.recv().await?), taken)) });
    (taken, accepting)
}

async fn make_ready(
    socket: TcpStream,
    link: OpenLink,
    certificates: Option<PeerCertificates>,
    ready: mpsc::Sender<Connection>,
) {
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let Some(certificates) = certificates else {
        // This fails if the receiver has stopped.
        drop(ready.send(Connection::new(Socket::Plain(socket), link)).await);
        return;
    };
    let closing = link.link.closing.clone();
    let shaking = timeout(limits::PEER_CONNECT_MAX, certificates.acceptor().accept(socket));
    let shaken = tokio::select! {
        shaken = shaking => shaken,
        () = closing.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let shown = link.link.shown.get_or_init(|| ShownCertificate::now(stream.get_ref().1.peer_certificates()));
            // The certificates may have been replaced by now, and the replacement did not see what was just shown.
            if !certificates.is_trusted_caller(shown) {
                return;
            }
            drop(ready.send(Connection::new(Socket::Tls(Box::new(stream)), link)).await);
        }
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the peer port has no certificate of a node"),
        Err(_) => tracing::debug!("a connection to the peer port did not shake hands in time"),
    }
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What HTTP/2 runs over.
pub struct Connection {
    socket: Socket,
    open: OpenLink,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    read_last: Instant,
    /// When to check whether anything has arrived.
    look: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(socket: Socket, open: OpenLink) -> Self {
        let closing = Box::pin(open.link.closing.clone().cancelled_owned());
        let look = Box::pin(sleep_until(open.link.opened + open.links.limits.unknown));
        Self { socket, closing, read_last: open.link.opened, open, look }
    }

    /// The time by which something must happen.
    fn deadline(&self) -> Instant {
        let limits = self.open.links.limits;
        let idle = self.read_last + limits.idle;
        self.open.link.unknown.lock().map_or(idle, |since| idle.min(since + limits.unknown))
    }

    /// An error once the connection is over; otherwise the waiting task is woken when it may be.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closing.as_mut().poll(cx).is_ready() {
            return Err(closed_here());
        }
        loop {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing arrived on the connection"));
            }
            if self.look.is_elapsed() || deadline < self.look.deadline() {
                self.look.as_mut().reset(deadline);
            }
            if self.look.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
        }
    }
}

fn closed_here() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed here")
}

impl Connected for Connection {
    type ConnectInfo = Arc<Link>;

    fn connect_info(&self) -> Arc<Link> {
        self.open.link.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check(cx)?;
        let before = into.filled().len();
        let read = match &mut this.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Socket::Tls(socket) => Pin::new(socket).poll_read(cx, into),
        };
        ready!(read)?;
        if before < into.filled().len() {
            this.read_last = Instant::now();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.open.link.closing.is_cancelled() {
            return Poll::Ready(Err(closed_here()));
        }
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, parts),
            Socket::Tls(socket) => Pin::new(socket).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(socket) => socket.is_write_vectored(),
            Socket::Tls(socket) => socket.is_write_vectored(),
        }
    }
}
