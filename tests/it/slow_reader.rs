//! Readers that do not read: they cost the host a bounded amount, lose their place, and can continue where they were.
//!
//! What is in the kernel's buffers counts for nobody, so more is written than fits there.

use serde_json::{Value, json};
use statehouse_tests::feed::Stream;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::Host;
use statehouse_tests::http::{Client, Request};
use statehouse_tests::wallet;
use tempfile::tempdir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use uuid::Uuid;

const BATCH: usize = 4_000;
/// Some 40 MB of events: more than both ends of a connection buffer.
const BATCHES: usize = 8;
const DEAF_READERS: usize = 40;
/// The most that so many readers may cost beside what they share. All that was sent to them would be many times that.
const MEMORY_MAX: u64 = 300 << 20;

async fn transfer(client: &mut Client) {
    let line = |_| {
        let body = wallet::transfer_body(&Uuid::new_v4().to_string(), "alice", "bob", "0.01");
        json!({"command": "balance_transfer", "body": body}).to_string()
    };
    let body = (0..BATCH).map(line).collect::<Vec<_>>().join("\n").into_bytes();
    let headers = vec![("content-type", "application/x-ndjson")];
    let answer = client.send(Request { method: "POST", path: "/v1/wallet/batch", headers, body }).await;
    let answer = answer.expect("the host answers");
    let text = String::from_utf8(answer.body.to_vec()).expect("answers are UTF-8");
    let done = text.lines().filter(|line| {
        let line: Value = serde_json::from_str(line).expect("each line is JSON");
        line["status"] == 200
    });
    assert_eq!(done.count(), BATCH);
}

/// How many readers the host says it has.
async fn reader_count(client: &mut Client) -> Option<u64> {
    let metrics = client.get("/metrics").await.ok()?;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("statehouse_event_readers "))?;
    line.trim().parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_dropped_and_costs_little() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::serve(data.path(), 1, "event_patience_ms = 1000\nevent_heartbeat_ms = 200").await;
    let mut client = host.client();
    for account in ["alice", "bob"] {
        wallet::open(&mut client, account).await;
    }
    wallet::deposit(&mut client, "alice", 100_000_000).await;
    let mut quick = Stream::open(host.address(), "/v1/wallet/events", None).await.expect("it begins");
    let mut slow = Stream::open(host.address(), "/v1/wallet/events", None).await.expect("it begins");
    let reading = tokio::spawn(async move {
        let mut positions = Vec::new();
        while positions.len() < 2 * BATCH * BATCHES {
            positions.push(quick.next_event().await.expect("it reads, so it is not dropped").position());
        }
        positions
    });
    transfer(&mut client).await;
    let before = host.memory_bytes();
    let mut deaf = Vec::new();
    for _ in 0..DEAF_READERS {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(8 << 10).expect("a small buffer");
        let mut connection = socket.connect(host.address()).await.expect("the host listens");
        connection.write_all(b"GET /v1/wallet/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("it listens");
        deaf.push(connection);
    }
    eventually("all of them are readers", async || {
        (DEAF_READERS as u64 <= reader_count(&mut client).await?).then_some(())
    })
    .await;
    for _ in 1..BATCHES {
        transfer(&mut client).await;
    }
    let all = reading.await.expect("no panic");
    let grown = host.memory_bytes().saturating_sub(before);
    println!("{DEAF_READERS} readers that read nothing: {} MiB more than before", grown >> 20);
    assert!(grown < MEMORY_MAX, "{} MiB", grown >> 20);
    eventually("those who read nothing are dropped", async || (reader_count(&mut client).await? == 0).then_some(()))
        .await;

    // The slow reader reads at last: what was on its way, why no more comes, and how to continue.
    let mut seen = Vec::new();
    let cursor = loop {
        match slow.next_event().await {
            Some(message) if message.event.as_deref() == Some("closed") => {
                assert_eq!(message.text("code"), "slow_reader");
                break message.text("cursor");
            }
            Some(message) => seen.push((message.position(), message.id.expect("an event has an id"))),
            // The reader has not even received the reason. The last message that it has still says where to continue.
            None => break seen.last().map(|(_, id)| id.clone()).expect("it has had something"),
        }
    };
    assert!(!seen.is_empty() && seen.len() < all.len(), "{} of {}", seen.len(), all.len());
    let mut positions: Vec<String> = seen.into_iter().map(|(position, _)| position).collect();
    let mut rest = Stream::open(host.address(), "/v1/wallet/events", Some(&cursor)).await.expect("it goes on");
    while positions.len() < all.len() {
        positions.push(rest.next_event().await.expect("it reads now").position());
    }
    assert!(positions == all, "nothing is missing and nothing is there twice");
    drop(deaf);
}
