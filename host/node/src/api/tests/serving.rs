//! Serving over real sockets: the host's pages, refused connections, a graceful end.

use std::net::SocketAddr;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::api::{Acceptor, ApiError, Descriptors, LiveLimits, Places, serve};
use crate::config::LimitsConfig;

struct TestServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), ApiError>>,
}

async fn start(service: axum::Router, connections_max: usize) -> TestServer {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { stopped.await.expect("the test says when to stop") };
    let limits = LimitsConfig { http_connections: connections_max, share_percent: 100, ..LimitsConfig::default() };
    let places = Places::new(LiveLimits::new(limits), Descriptors::new(None));
    let ended = tokio::spawn(serve(listener, Acceptor::Plaintext, service, places, shutdown));
    TestServer { address, stop, ended }
}

/// Sends a request and reads until the server closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test]
async fn requests_in_hand_are_finished_and_no_others_are_taken() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (begun.clone(), go_on.clone());
    let slow = get(async move || {
        tell.notify_one();
        wait.notified().await;
        "done"
    });
    let TestServer { address, stop, ended } = start(axum::Router::new().route("/", slow), 8).await;
    let exchanged = tokio::spawn(exchange(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    begun.notified().await;
    stop.send(()).expect("it serves");
    // The listener is dropped before requests in hand are waited for, so connecting fails from some moment on.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!ended.is_finished());
    go_on.notify_one();
    let answer = exchanged.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    ended.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_unless_another_one_is_idle() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (begun.clone(), go_on.clone());
    let slow = get(async move || {
        tell.notify_one();
        wait.notified().await;
        "done"
    });
    let TestServer { address, stop, ended } = start(axum::Router::new().route("/", slow), 1).await;
    let mut idle = TcpStream::connect(address).await.expect("it listens");
    let busy = tokio::spawn(exchange(address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    begun.notified().await;
    assert_eq!(idle.read(&mut [0]).await.expect("it is closed"), 0, "the idle one has given its place");
    let mut third = TcpStream::connect(address).await.expect("it listens");
    let mut answer = String::new();
    third.read_to_string(&mut answer).await.expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After: 1"), "{answer}");
    go_on.notify_one();
    let answer = busy.await.expect("no panic");
    assert!(answer.ends_with("done"), "{answer}");
    stop.send(()).expect("it serves");
    ended.await.expect("no panic").expect("a clean end");
}
