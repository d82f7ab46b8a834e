//! The peer port as a stranger sees it, and the certificates of `statehouse cluster certificates`.
//!
//! In: an address, and the certificate that is shown there. Out: whether anybody there speaks HTTP/2 with such a
//! client. This file knows the names of files and of nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{argument, cli};
use crate::secure::{Pair, Trust};

/// The beginning of what a client of HTTP/2 sends: the preface, and settings that change nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The size of a frame's header in HTTP/2.
const HEADER_BYTES: usize = 9;
const TYPE_SETTINGS: u8 = 4;
/// Longer than a node leaves an idle connection open.
const PATIENCE: Duration = Duration::from_secs(180);

/// Makes or renews the certificates of these nodes in a folder.
pub fn make(folder: &Path, nodes: &[u64], is_renewal: bool) {
    let ids: Vec<String> = nodes.iter().map(u64::to_string).collect();
    let nodes = ids.iter().flat_map(|id| ["--node", id]);
    let renew = is_renewal.then_some("--renew");
    let made = cli(["cluster", "certificates", "--out", argument(folder)].into_iter().chain(nodes).chain(renew));
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stdout.contains("node-1.pem"), "{made:?}");
}

/// The files of a node.
pub fn pair(folder: &Path, node: u64) -> Pair {
    Pair { certificate: folder.join(format!("node-{node}.pem")), key: folder.join(format!("node-{node}.key")) }
}

/// Whether the peer port of a node speaks with a client that shows these certificates.
pub async fn speaks_with(trust: &Trust, address: SocketAddr, node: u64) -> bool {
    let connected = trust.clone().speaking(&["h2"]).connect_as(address, &format!("node-{node}")).await;
    match connected {
        Ok(stream) => speaks_http(stream).await,
        Err(_) => false,
    }
}

/// Whether the peer port speaks without TLS, with a client that shows nothing.
pub async fn speaks_in_clear(address: SocketAddr) -> bool {
    speaks_http(TcpStream::connect(address).await.expect("it listens")).await
}

async fn speaks_http(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> bool {
    let mut header = [0; HEADER_BYTES];
    let spoken = async {
        stream.write_all(PREFACE).await?;
        stream.read_exact(&mut header).await
    };
    let spoken = tokio::time::timeout(PATIENCE, spoken).await.expect("it answers, or closes the connection");
    spoken.is_ok() && header[3] == TYPE_SETTINGS
}
