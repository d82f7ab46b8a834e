//! The connections that this node opens to others with its certificates: how one is made, and what ends it.
//!
//! In: an address, and the node that should be there. Out: the stream that HTTP/2 runs over. It is made with the
//! certificates in force at that time. Once they are replaced, it stays only if the new ones trust the node, too. It
//! does not know what is said, nor when a connection is wanted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::Uri;
use tower::Service;

use super::tls::{self, PeerCertificates, ShownCertificate};
use crate::ids::NodeId;
use crate::limits;

/// Opens connections to one node.
#[derive(Clone)]
pub struct Dial {
    pub node: NodeId,
    /// `host:port`.
    pub address: String,
    pub certificates: PeerCertificates,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<DialedStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        async move { this.open().await.map(TokioIo::new) }.boxed()
    }
}

impl Dial {
    async fn open(self) -> io::Result<DialedStream> {
        let socket = connect(&self.address).await?;
        socket.set_nodelay(true)?;
        let (connector, replaced) = self.certificates.connector();
        let shaking = connector.connect(tls::server_name(self.node), socket);
        let stream = in_time(shaking, "it does not shake hands").await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(tls::HTTP_2) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP/2"));
        }
        let (node, shown) = (self.node, ShownCertificate::now(session.peer_certificates()));
        let replaced = Box::pin(replaced.cancelled_owned());
        Ok(DialedStream { stream, node, shown, certificates: self.certificates, replaced, is_over: false })
    }
}

/// Connects to the first of the name's addresses that answers. Each has a time limit of its own, so one that swallows
/// what is sent to it does not keep the others from being tried.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for found in in_time(lookup_host(address), "its name is not resolved").await? {
        match in_time(TcpStream::connect(found), "it does not answer").await {
            Ok(socket) => return Ok(socket),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>, what: &'static str) -> io::Result<T> {
    let done = timeout(limits::PEER_CONNECT_MAX, work).await;
    done.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, what)))
}

/// What HTTP/2 runs over.
pub struct DialedStream {
    stream: TlsStream<TcpStream>,
    node: NodeId,
    shown: ShownCertificate,
    certificates: PeerCertificates,
    replaced: Pin<Box<WaitForCancellationFutureOwned>>,
    is_over: bool,
}

impl DialedStream {
    /// An error once the node is not trusted any more; otherwise the waiting task is woken when that may have changed.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.is_over && self.replaced.as_mut().poll(cx).is_ready() {
            // Take the new token first, so that a replacement during this check is checked as well.
            self.replaced = Box::pin(self.certificates.replaced().cancelled_owned());
            self.is_over = !self.certificates.is_trusted_node(self.node, &self.shown);
            if self.is_over {
                tracing::info!(
                    node = %self.node,
                    "a node's certificate is no longer trusted: the connection to it is closed"
                );
            }
        }
        if self.is_over { Err(trusted_no_more()) } else { Ok(()) }
    }
}

fn trusted_no_more() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the node's certificate is no longer trusted")
}

impl AsyncRead for DialedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for DialedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Ready(Err(trusted_no_more()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Ready(Err(trusted_no_more()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
