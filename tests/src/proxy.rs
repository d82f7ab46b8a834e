//! A TCP proxy for one direction of a cluster: one node's connections to another node, which a test can damage.
//!
//! ```text
//! from ── requests ──▶ proxy ──▶ to
//!      ◀── replies ───       ◀──
//! ```
//! Lost bytes cannot be made up for, so a connection that may have lost some is closed when its link changes. The
//! proxy does not know what the bytes mean.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::hold::hold;

const CHUNK_BYTES_MAX: usize = 64 << 10;
/// The most chunks on their way through a slow link, per direction of a connection.
const CHUNKS_MAX: usize = 256;

/// What a link does with connections and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Pass,
    /// Existing connections are closed, and new ones are closed at once.
    Cut,
    /// What `from` sends is read and thrown away; replies pass.
    RequestsLost,
    /// Requests pass; what `to` sends back is thrown away.
    RepliesLost,
    /// Connections are accepted, and nothing passes in either direction.
    HalfOpen,
    /// Everything arrives this much later, in order; at most two seconds.
    Delay(Duration),
}

impl Link {
    fn is_lossy(self) -> bool {
        matches!(self, Self::RequestsLost | Self::RepliesLost | Self::HalfOpen)
    }
}

/// The two directions of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

/// A listening proxy; dropping it closes everything.
pub struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    /// The listener, which owns the connections.
    _listening: JoinSet<()>,
}

impl Proxy {
    /// A proxy to an address on which nobody need listen yet.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port of the system's choice");
        let address = listener.local_addr().expect("the listener is bound");
        let (link, current) = watch::channel(Link::Pass);
        let mut listening = JoinSet::new();
        listening.spawn(listen(listener, to, current));
        Self { address, link, _listening: listening }
    }

    /// The address to connect to instead.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets what the link does from now on, for existing connections and new ones.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn listen(listener: TcpListener, to: SocketAddr, link: watch::Receiver<Link>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("there are file descriptors left for a connection");
        while connections.try_join_next().is_some() {}
        connections.spawn(carry(stream, to, link.clone()));
    }
}

/// Carries one connection until it ends or its link ends it.
async fn carry(from: TcpStream, to: SocketAddr, mut link: watch::Receiver<Link>) {
    let at_first = *link.borrow_and_update();
    match at_first {
        Link::Cut => return,
        // `to` never learns of the connection; `from` keeps one on which nothing happens.
        Link::HalfOpen => return ended(link, at_first).await,
        Link::Pass | Link::RequestsLost | Link::RepliesLost | Link::Delay(_) => {}
    }
    let Ok(to) = TcpStream::connect(to).await else { return };
    for stream in [&from, &to] {
        stream.set_nodelay(true).expect("a connected socket takes options");
    }
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    let requests = pump(from_read, to_write, Direction::Requests, link.clone());
    let replies = pump(to_read, from_write, Direction::Replies, link.clone());
    tokio::select! {
        // An error means that one side has broken the connection. The other learns it because both halves are dropped.
        _ = async { tokio::try_join!(requests, replies) } => {}
        () = ended(link, at_first) => {}
    }
}

/// Returns when a connection of this link must be closed.
async fn ended(mut link: watch::Receiver<Link>, at_first: Link) {
    let mut was_lossy = at_first.is_lossy();
    while link.changed().await.is_ok() {
        let now = *link.borrow_and_update();
        if now == Link::Cut || was_lossy {
            return;
        }
        was_lossy = now.is_lossy();
    }
}

/// Carries one direction of one connection to its end.
async fn pump(
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    direction: Direction,
    link: watch::Receiver<Link>,
) -> std::io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let reading = async move {
        let mut chunk = vec![0; CHUNK_BYTES_MAX];
        loop {
            let count = read.read(&mut chunk).await?;
            if count == 0 {
                return Ok(());
            }
            let due = match (*link.borrow(), direction) {
                (Link::HalfOpen, _)
                | (Link::RequestsLost, Direction::Requests)
                | (Link::RepliesLost, Direction::Replies) => continue,
                (Link::Delay(delay), _) => Instant::now() + delay,
                _ => Instant::now(),
            };
            if sender.send((due, chunk[..count].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                hold(wait).await;
            }
            write.write_all(&chunk).await?;
        }
        write.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Long enough for a byte to cross a loopback connection three times. A test waits this long for what must not
    /// arrive.
    const SOON: Duration = Duration::from_millis(500);

    /// Answers every byte with its successor.
    async fn start_server() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port of the system's choice");
        let address = listener.local_addr().expect("the listener is bound");
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                connections.spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        stream.write_u8(byte + 1).await.ok();
                    }
                });
            }
        });
        (address, serving)
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Reply {
        Byte(u8),
        Closed,
        Silence,
    }

    async fn ask(stream: &mut TcpStream, byte: u8) -> Reply {
        // Writing into a connection that is being closed may fail or not; reading tells.
        stream.write_u8(byte).await.ok();
        match timeout(SOON, stream.read_u8()).await {
            Ok(Ok(byte)) => Reply::Byte(byte),
            Ok(Err(_)) => Reply::Closed,
            Err(_) => Reply::Silence,
        }
    }

    /// Checks what an existing connection and a new one meet on a link, and what both meet after it is healed.
    async fn check(link: Link, existing: [Reply; 2], new: [Reply; 2]) {
        let (server, _serving) = start_server().await;
        let proxy = Proxy::start(server).await;
        let mut first = TcpStream::connect(proxy.address()).await.expect("the proxy listens");
        assert_eq!(ask(&mut first, 1).await, Reply::Byte(2), "{link:?}: it passes at first");
        proxy.set(link);
        let mut second = TcpStream::connect(proxy.address()).await.expect("the proxy listens");
        let damaged = [ask(&mut first, 10).await, ask(&mut second, 20).await];
        proxy.set(Link::Pass);
        let healed = [ask(&mut first, 30).await, ask(&mut second, 40).await];
        let [first_damaged, second_damaged] = damaged;
        let [first_healed, second_healed] = healed;
        assert_eq!([first_damaged, first_healed], existing, "{link:?}: the connection there was");
        assert_eq!([second_damaged, second_healed], new, "{link:?}: a new connection");
        let mut third = TcpStream::connect(proxy.address()).await.expect("the proxy listens");
        assert_eq!(ask(&mut third, 5).await, Reply::Byte(6), "{link:?}: it passes again");
    }

    #[tokio::test]
    async fn a_link_does_what_it_says_to_both_directions_and_is_healed() {
        use Reply::{Byte, Closed, Silence};
        check(Link::Pass, [Byte(11), Byte(31)], [Byte(21), Byte(41)]).await;
        check(Link::Cut, [Closed, Closed], [Closed, Closed]).await;
        check(Link::RequestsLost, [Silence, Closed], [Silence, Closed]).await;
        check(Link::RepliesLost, [Silence, Closed], [Silence, Closed]).await;
        check(Link::HalfOpen, [Silence, Closed], [Silence, Closed]).await;
        check(Link::Delay(SOON / 5), [Byte(11), Byte(31)], [Byte(21), Byte(41)]).await;
    }

    /// Requests and replies are told apart here: a server that says nothing shows what it received.
    #[tokio::test]
    async fn lost_replies_let_requests_through_and_lost_requests_do_not() {
        for (link, is_heard) in [(Link::RepliesLost, true), (Link::RequestsLost, false), (Link::HalfOpen, false)] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port of the system's choice");
            let proxy = Proxy::start(listener.local_addr().expect("the listener is bound")).await;
            let mut from = TcpStream::connect(proxy.address()).await.expect("the proxy listens");
            let (mut to, _) = listener.accept().await.expect("the proxy connects");
            proxy.set(link);
            from.write_u8(7).await.expect("the proxy reads");
            let heard = timeout(SOON, to.read_u8()).await;
            assert_eq!(heard.is_ok_and(|byte| byte.is_ok_and(|byte| byte == 7)), is_heard, "{link:?}");
        }
    }

    #[tokio::test]
    async fn a_delayed_byte_is_not_there_at_once() {
        let (server, _serving) = start_server().await;
        let proxy = Proxy::start(server).await;
        proxy.set(Link::Delay(SOON));
        let mut stream = TcpStream::connect(proxy.address()).await.expect("the proxy listens");
        // The request and its reply are each half a second late.
        assert_eq!(ask(&mut stream, 1).await, Reply::Silence);
        assert_eq!(timeout(SOON * 10, stream.read_u8()).await.expect("it comes").expect("it is connected"), 2);
    }
}
