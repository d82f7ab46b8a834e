//! Somebody opens more than there is room for: connections without a word, bodies that do not end, streams for ever.
//! Existing clients continue, new ones are let in, and no partition halts.
//!
//! This file does not know how the host chooses. It counts, and waits for what must end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use statehouse_tests::hold::{PATIENCE, eventually};
use statehouse_tests::host::{Host, Start};
use statehouse_tests::http::{Client, Request};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::skipped::skipped;
use statehouse_tests::wallet;
use statehouse_tests::workload::{TransferOutcome, Workload};
use tempfile::tempdir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;

const SOCKETS: usize = 2_000;
/// The usual limit of a shell, and of a service.
const DESCRIPTORS: u64 = 1_024;
const CLIENTS: usize = 4;
const BATCHES: usize = 3;
const BATCH: usize = 8_000;
const BATCH_PATH: &str = "/v1/wallet/batch";

/// Raises this process's own limit, because the other ends of all these connections are here.
fn raise_own_descriptors(wanted: u64) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|error| error.to_string())?;
    match limit.current {
        Some(limit) if limit < wanted => Err(format!("{wanted} open files are needed, and {limit} are allowed")),
        _ => Ok(()),
    }
}

/// A connection from this address of the loopback network.
async fn connect_from(last: u8, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
    socket.connect(to).await
}

/// Sends what may be part of a request, and reads until `end` has arrived or the host closes the connection.
async fn exchange(stream: &mut TcpStream, bytes: &str, end: &str) -> String {
    let exchanging = async {
        // If the host has closed the connection, reading from it says so.
        stream.write_all(bytes.as_bytes()).await.ok();
        let (mut answer, mut piece) = (String::new(), [0; 4096]);
        while !answer.contains(end) {
            match stream.read(&mut piece).await {
                Ok(count) if count > 0 => answer.push_str(&String::from_utf8_lossy(&piece[..count])),
                _ => break,
            }
        }
        answer
    };
    tokio::time::timeout(PATIENCE, exchanging).await.expect("the host answers or closes")
}

/// Sends transfers back and forth, each of which must succeed. An even number leaves the balances as they were.
async fn send_batch(client: &mut Client, accounts: &[String], count: usize) {
    let line = |number: usize| {
        let (from, to) = (&accounts[number % 2], &accounts[1 - number % 2]);
        let body = wallet::transfer_body(&Uuid::new_v4().to_string(), from, to, "0.01");
        json!({"command": "balance_transfer", "body": body}).to_string()
    };
    let body = (0..count).map(line).collect::<Vec<_>>().join("\n").into_bytes();
    let headers = vec![("content-type", "application/x-ndjson"), ("statehouse-deadline", "30000")];
    let answer = client.send(Request { method: "POST", path: BATCH_PATH, headers, body }).await.expect("an answer");
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(text.matches("\"status\":200").count(), count, "{answer:?}");
}

/// Where a process may have 1,024 files open, 1,020 idle sockets used to halt a partition, and nobody new was let in.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nobody_out_and_halt_no_partition() {
    if let Err(reason) = raise_own_descriptors(SOCKETS as u64 + 500) {
        return skipped(&reason);
    }
    let data = tempdir().expect("a temporary folder");
    let start = Start { descriptors: Some(DESCRIPTORS), ..Start::on(data.path()) };
    let host = Host::start_with(&start).await.expect("the host starts");
    assert!(host.output().contains("the limit of open files is low"), "{}", host.output());
    let mut known = host.client();
    let ledger = Ledger::open(&mut known, 4, 1_000_000).await;
    let (theirs, own) = ledger.accounts.split_at(2);
    let workload = Workload::start(host.address(), theirs, CLIENTS, 1);

    let mut flood = Vec::new();
    for _ in 0..SOCKETS {
        flood.push(TcpStream::connect(host.address()).await.expect("the system takes it, whatever the host does"));
    }
    let before = workload.done_count();
    // These are enough for the log to need new files meanwhile.
    for _ in 0..BATCHES {
        send_batch(&mut known, own, BATCH).await;
    }
    assert!(1 < segment_count(data.path()), "the log has gone on in another file");
    eventually("those who were there go on", async || (before + 100 <= workload.done_count()).then_some(())).await;
    let open = host.descriptor_count();
    println!("{} sockets, {open} files open", flood.len());
    assert!((open as u64) < DESCRIPTORS - 100, "{open} files are open, so that some are left");
    let newcomer = host.client().get("/v1/machines").await.expect("a newcomer takes the place of a silent one");
    assert_eq!(newcomer.status, 200, "{newcomer:?}");

    drop(flood);
    eventually("newcomers are served after the flood", async || {
        let answer = host.client().get("/v1/machines").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;

    let attempts = workload.stop().await;
    let odd: Vec<_> = attempts
        .iter()
        .filter(|(_, told)| matches!(told, TransferOutcome::Unknown | TransferOutcome::NotAccepted))
        .collect();
    assert!(odd.is_empty(), "nobody who was there was cut off or refused: {odd:?}");
    assert!(!host.output().contains("halted"), "{}", host.output());
    ledger.check(&mut known, &attempts).await;
    host.kill();
    check_audit(data.path());
}

/// The number of files of the largest log below this folder.
fn segment_count(folder: &Path) -> usize {
    let (mut here, mut below) = (0, 0);
    for entry in std::fs::read_dir(folder).expect("the host's folder").flatten() {
        if entry.path().is_dir() {
            below = segment_count(&entry.path()).max(below);
        } else if entry.file_name().to_string_lossy().ends_with(".log") {
            here += 1;
        }
    }
    here.max(below)
}

/// 16 bodies that had begun and did not continue used to hold all places for batches.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_takes_no_place() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 1_000_000).await;
    let head = format!(
        "POST {BATCH_PATH} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\n\
         Content-Length: 1000000\r\n\r\n{{",
        host.address()
    );
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(host.address()).await.expect("the host listens");
        stream.write_all(head.as_bytes()).await.expect("the host reads");
        stalled.push(stream);
    }
    // An answer on each connection would mean that it was refused.
    for _ in 0..20 {
        send_batch(&mut client, &ledger.accounts, 10).await;
    }
    for stream in &stalled {
        let mut byte = [0];
        assert!(stream.try_read(&mut byte).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_its_share_and_leaves_the_rest_to_others() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::serve(data.path(), 1, "http_connections = 12\nevent_readers = 4").await;
    let address = host.address();
    assert_eq!(address.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let request = format!("GET /v1/wallet/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut held = Vec::new();
    // This reads the head of the answer, and the stream's first word.
    for (from, expected) in [(1, "200 OK"), (1, "200 OK"), (1, "200 OK"), (1, "429 "), (2, "200 OK"), (3, "503 ")] {
        let mut stream = connect_from(from, address).await.expect("the host listens");
        let answer = exchange(&mut stream, &request, if expected == "200 OK" { "\n\n" } else { "}" }).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "from {from}: {answer}");
        assert_eq!(answer.contains("too_many_at_once"), expected == "429 ", "{answer}");
        if expected == "200 OK" {
            held.push(stream);
        }
    }
    // One address may have nine of the twelve connections. Connections that wait for a body are not idle.
    let begun = format!(
        "POST {BATCH_PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/x-ndjson\r\n\
         Content-Length: 9\r\n\r\n{{"
    );
    let full = eventually("the address has its share", async || {
        let mut stream = connect_from(1, address).await.expect("the host listens");
        stream.write_all(begun.as_bytes()).await.ok();
        // The next connection is accepted after this one, which has then shown that it is not idle.
        let mut next = connect_from(1, address).await.expect("the host listens");
        let health = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let answer = exchange(&mut next, &health, "never").await;
        held.push(stream);
        answer.starts_with("HTTP/1.1 503").then_some(answer)
    });
    let answer = full.await;
    assert!(answer.contains("Retry-After: 1"), "{answer}");
    let mut other = connect_from(2, address).await.expect("the host listens");
    let answer = exchange(&mut other, &format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n"), "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
