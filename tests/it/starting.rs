//! A node that has just started, as clients see it that do not wait for `/readyz`. What is not there yet is
//! temporary, and never denied for good.
//!
//! It knows the wallet's routes, those of its view `statements`, and what a browser does with an event stream.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use statehouse_tests::feed::EventSource;
use statehouse_tests::hold::PATIENCE;
use statehouse_tests::host::{Host, Start};
use statehouse_tests::http::Client;
use statehouse_tests::wallet;
use tempfile::tempdir;

const STATEMENT: &str = "/v1/wallet/accounts/alice/statement";
const KILLS: usize = 5;

async fn start(data: &Path, http: Option<SocketAddr>, has_views: bool) -> Host {
    let start = Start::on(data);
    let start = Start { http: http.unwrap_or(start.http), has_views, ..start };
    Host::start_with(&start).await.expect("the host starts")
}

/// These routes used to answer 404 for up to seconds after `/readyz` said 200, and the document lacked them.
#[tokio::test(flavor = "multi_thread")]
async fn routes_of_views_are_never_denied_while_a_node_starts() {
    let data = tempdir().expect("a temporary folder");
    let mut host = start(data.path(), None, true).await;
    let mut client = host.client();
    check_document(&mut client, "at the first start").await;
    wallet::open(&mut client, "alice").await;
    for kill in 0..KILLS {
        let address = host.address();
        host.kill();
        let is_over = Arc::new(AtomicBool::new(false));
        let asking = tokio::spawn(ask_until(address, is_over.clone()));
        host = start(data.path(), Some(address), true).await;
        let mut client = host.client();
        check_document(&mut client, "as soon as it is ready").await;
        is_over.store(true, Ordering::Relaxed);
        let (denied, count) = asking.await.expect("it asks");
        assert_eq!(denied, Vec::<u16>::new(), "start {kill}, {count} answers");
        assert!(0 < count, "it was asked");
        let unknown = client.get("/v1/wallet/accounts/alice/nothing").await.expect("the host answers");
        assert_eq!(unknown.status, 404, "what is no route is denied again: {unknown:?}");
    }
}

/// Checks that the document has the view's routes.
async fn check_document(client: &mut Client, when: &str) {
    let document = client.get("/openapi.json").await.expect("the host answers");
    assert_eq!(document.status, 200, "{when}: {document:?}");
    let path = "/v1/wallet/accounts/{account}/statement";
    assert!(document.json()["paths"][path]["get"].is_object(), "{when} it lacks {path}");
    let answer = client.get(STATEMENT).await.expect("the host answers");
    assert!(answer.status != 404 || answer.problem() == "account_not_found", "{when}: {answer:?}");
}

/// Asks without a pause for the statement and the document. Returns the statuses that were not temporary, and the
/// number of answers.
async fn ask_until(address: SocketAddr, is_over: Arc<AtomicBool>) -> (Vec<u16>, usize) {
    let (mut client, mut denied, mut count) = (Client::to(address), Vec::new(), 0);
    while !is_over.load(Ordering::Relaxed) {
        for path in [STATEMENT, "/openapi.json"] {
            let Ok(answer) = client.get(path).await else {
                tokio::task::yield_now().await;
                continue;
            };
            count += 1;
            let is_whole =
                path == STATEMENT || answer.json()["paths"]["/v1/wallet/accounts/{account}/statement"].is_object();
            match answer.status {
                200 if is_whole => {}
                // The view says that it is not as far as the machine.
                404 if answer.problem() == "account_not_found" => {}
                503 => assert!(answer.header("retry-after").is_some(), "it says when to come back: {answer:?}"),
                status => denied.push(status),
            }
        }
    }
    (denied, count)
}

/// A browser gives up for good at a 503, which it used to get from a node that listened and was not ready.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_survives_a_starting_node() {
    let data = tempdir().expect("a temporary folder");
    let mut host = start(data.path(), None, false).await;
    let mut source = EventSource::new(host.address(), "/v1/wallet/events?after=start");
    wallet::open(&mut host.client(), "alice").await;
    for kill in 0..KILLS {
        let address = host.address();
        let before = source.seen.len();
        let reading = async {
            while source.seen.len() <= before {
                source.step().await.unwrap_or_else(|answer| panic!("kill {kill}: it gives up at {answer:?}"));
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("events come");
        host.kill();
        let starting = start(data.path(), Some(address), false);
        tokio::pin!(starting);
        host = loop {
            tokio::select! {
                host = &mut starting => break host,
                stepped = source.step() =>
                    stepped.unwrap_or_else(|answer| panic!("kill {kill}: it gives up at {answer:?}")),
            }
        };
        wallet::deposit(&mut host.client(), "alice", 100).await;
    }
    let reading = async {
        while source.seen.len() < 1 + KILLS {
            source.step().await.unwrap_or_else(|answer| panic!("it gives up at {answer:?}"));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("events come");
    let mut once = source.seen.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), source.seen.len(), "none comes twice: {:?}", source.seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_without_a_place_comes_again_and_one_that_asks_wrongly_does_not() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::serve(data.path(), 1, "event_readers = 1").await;
    let mut first = EventSource::new(host.address(), "/v1/wallet/events");
    first.step().await.expect("it has the place");
    let mut second = EventSource::new(host.address(), "/v1/wallet/events");
    let coming = async {
        while second.closed.len() < 3 {
            second.step().await.unwrap_or_else(|answer| panic!("it gives up at {answer:?}"));
        }
    };
    tokio::time::timeout(PATIENCE, coming).await.expect("it is told each time");
    assert!(second.closed.iter().all(|code| code == "overloaded"), "{:?}", second.closed);
    let plain = host.client().get("/v1/wallet/events").await.expect("the host answers");
    assert_eq!((plain.status, plain.problem().as_str()), (503, "overloaded"));
    for (path, status) in [("/v1/wallet/events?after=nonsense", 400), ("/v1/purse/events", 404)] {
        let answer = EventSource::new(host.address(), path).step().await.expect_err("it is wrong for good");
        assert_eq!(answer.status, status, "{answer:?}");
    }
}
