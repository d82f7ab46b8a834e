//! SIGHUP: tokens, certificates and limits are replaced while requests are answered, and a configuration that makes
//! no sense changes nothing.
//!
//! It knows the configuration file, the metrics that count reloads, and what the log says. How TLS is refused is
//! tested in `tls.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use statehouse_tests::feed::Stream;
use statehouse_tests::hold::eventually;
use statehouse_tests::http::Client;
use statehouse_tests::secure::{Authority, Trust};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

use crate::tls::{Node, ROLES, configuration, tls, token, tokens};

const CLIENTS: usize = 6;
/// The requests that a connection lives for, so that connections begin while certificates change.
const REQUESTS_OF_CONNECTION: u64 = 20;

/// The requests that are sent while a node is reloaded.
fn request_count() -> u64 {
    if std::env::var_os("STATEHOUSE_CHAOS").is_some() { 100_000 } else { 2_000 }
}

/// Writes another configuration, and waits until the node has taken or refused it.
async fn reload(node: &Node, trust: &Trust, result: &str, http: &str, rest: &str) {
    let before = node.metric(trust, "statehouse_reloads_total", result).await;
    let text = configuration(node.folder.path(), http, rest);
    std::fs::write(node.folder.path().join("node.toml"), text).expect("a file");
    node.process.hang_up();
    eventually("the node has read its configuration again", async || {
        (before < node.metric(trust, "statehouse_reloads_total", result).await).then_some(())
    })
    .await;
}

/// Sends requests until there were enough. Any request that is not answered well ends the test.
async fn load(mut client: Client, from: String, to: String, left: Arc<AtomicU64>, is_enough: Arc<AtomicBool>) -> u64 {
    let mut sent = 0;
    while !is_enough.load(Ordering::Relaxed) || left.load(Ordering::Relaxed) != 0 {
        let answer = if sent % 4 == 0 {
            wallet::transfer(&mut client, Uuid::new_v4(), &from, &to, 1).await
        } else {
            client.get(&format!("/v1/wallet/accounts/{from}")).await
        };
        let answer = answer.unwrap_or_else(|lost| panic!("a request was lost: {lost:?}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        sent += 1;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok();
        if sent % REQUESTS_OF_CONNECTION == 0 {
            client.hang_up();
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_loses_no_request() {
    let folder = tempdir().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "ca");
    let trust = authority.trust();
    let http = tls(&authority.issue("node"), "");
    let node = Node::start(folder, &http, &tokens(&ROLES), &trust).await;
    let mut client = node.client(&trust).with_token(&token("client"));
    let names: Vec<String> = (0..=CLIENTS).map(|number| format!("a{number}")).collect();
    for name in &names {
        wallet::open(&mut client, name).await;
    }
    let mut till = node.client(&trust).with_token(&token("treasury"));
    reload(&node, &trust, "done", &http, &tokens(&["client", "admin", "monitor", "treasury"])).await;
    for name in &names {
        wallet::deposit(&mut till, name, 10_000_000).await;
    }

    let (left, is_enough) = (Arc::new(AtomicU64::new(request_count())), Arc::new(AtomicBool::new(false)));
    let loads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = node.client(&trust).with_token(&token("client"));
            let (from, to) = (names[number].clone(), names[number + 1].clone());
            tokio::spawn(load(client, from, to, left.clone(), is_enough.clone()))
        })
        .collect();
    let mut reloads = 0;
    while left.load(Ordering::Relaxed) != 0 || reloads < 6 {
        let pair = authority.issue(&format!("node-{reloads}"));
        let known: &[&str] = if reloads % 2 == 0 { &["client", "monitor"] } else { &["monitor", "auditor", "client"] };
        reload(&node, &trust, "done", &tls(&pair, ""), &tokens(known)).await;
        let new = trust.connect(node.address()).await.expect("TLS is spoken");
        let shown = new.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|first| first.to_vec());
        assert_eq!(shown, Some(pair.der().to_vec()), "a new connection is shown the new certificate");
        let auditor = node.client(&trust).with_token(&token("auditor")).get("/v1/wallet/accounts/a0").await;
        assert_eq!(auditor.expect("the node answers").status, if reloads % 2 == 0 { 401 } else { 200 });
        reloads += 1;
    }
    is_enough.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for load in loads {
        sent += load.await.expect("no request fails");
    }
    println!("{reloads} reloads under {sent} requests, none of which failed");
    assert!(request_count() <= sent, "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_token_is_none_from_then_on() {
    let folder = tempdir().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "ca");
    let trust = authority.trust();
    let http = tls(&authority.issue("node"), "");
    let node = Node::start(folder, &http, &tokens(&ROLES), &trust).await;
    let reader = |role: &str| node.client(&trust).with_token(&token(role));
    let (mut removed, mut kept) = (reader("client"), reader("auditor"));
    let mut on_removed = Stream::over(&mut removed, "/v1/wallet/events").await.expect("a stream");
    let mut on_kept = Stream::over(&mut kept, "/v1/wallet/events").await.expect("a stream");
    assert!(on_removed.next().await.is_some() && on_kept.next().await.is_some());

    reload(&node, &trust, "done", &http, &tokens(&["admin", "auditor", "monitor"])).await;
    let answer = reader("client").get("/v1/wallet/accounts/a").await.expect("the node answers");
    assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"));
    let last = on_removed.next_event().await.expect("a last word");
    assert_eq!((last.event.as_deref(), last.text("code").as_str()), (Some("closed"), "unauthenticated"), "{last:?}");
    assert_eq!(on_removed.next().await, None);

    // A reader whose token is the same keeps reading: the next reload still finds its stream.
    reload(&node, &trust, "done", &http, &tokens(&["admin", "monitor"])).await;
    let last = on_kept.next_event().await.expect("a last word");
    assert_eq!(last.text("code"), "unauthenticated", "{last:?}");
    eventually("the log says whose", async || {
        node.process.output().contains("tokens_removed=\"auditor\"").then_some(())
    })
    .await;
}

/// This used to need a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_for_other_roles_from_then_on() {
    let folder = tempdir().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "ca");
    let trust = authority.trust();
    let (http, known) = (tls(&authority.issue("node"), ""), tokens(&ROLES));
    let node = Node::start(folder, &http, &known, &trust).await;
    wallet::open(&mut node.client(&trust).with_token(&token("client")), "alice").await;
    let ask = async |role: &str, verb: &str| {
        let mut client = node.client(&trust).with_token(&token(role));
        let path = format!("/v1/wallet/accounts/alice/{verb}");
        client.post(&path, &serde_json::json!({})).await.expect("the node answers").status
    };
    assert_eq!((ask("client", "freeze").await, ask("client", "unfreeze").await), (200, 200));

    let commands = |of: &str| format!("{known}\n[auth.commands.wallet]\n{of}");
    reload(&node, &trust, "done", &http, &commands("freeze = [\"admin\"]\nfreze = [\"admin\"]\n")).await;
    assert_eq!((ask("client", "freeze").await, ask("admin", "freeze").await), (403, 200));
    assert_eq!((ask("client", "unfreeze").await, ask("admin", "unfreeze").await), (200, 403));
    reload(&node, &trust, "refused", &http, &commands("freeze = []\n")).await;
    assert_eq!((ask("client", "freeze").await, ask("admin", "freeze").await), (403, 200));
    reload(&node, &trust, "done", &http, &known).await;
    assert_eq!((ask("admin", "freeze").await, ask("client", "unfreeze").await), (403, 200));
    for words in ["commands_changed=true", "command=\"freze\"", "names no role"] {
        eventually("the log says so", async || node.process.output().contains(words).then_some(())).await;
    }
    assert!(!node.process.output().contains("what=\"auth\""), "it needs no restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_changes_nothing() {
    let folder = tempdir().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "ca");
    let trust = authority.trust();
    let (pair, other) = (authority.issue("node"), authority.issue("other"));
    let (good, known) = (tls(&pair, ""), tokens(&ROLES));
    let node = Node::start(folder, &good, &known, &trust).await;
    let mixed = statehouse_tests::secure::Pair { key: other.key.clone(), ..pair.clone() };
    let missing = statehouse_tests::secure::Pair { certificate: "nowhere.pem".into(), ..pair.clone() };
    let empty = tokens(&["client"]).replace("name = \"client\"", "name = \"\"");
    let wrong = [
        (tls(&mixed, ""), known.clone(), "do not make a certificate with its key"),
        (tls(&missing, ""), known.clone(), "nowhere.pem"),
        (tls(&other, ""), "colour = 1".to_owned(), "unknown field `colour`"),
        (tls(&other, ""), empty, "no name or no role"),
    ];
    for (http, rest, why) in wrong {
        reload(&node, &trust, "refused", &http, &rest).await;
        let shown = trust.connect(node.address()).await.expect("TLS is spoken");
        let shown = shown.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|first| first.to_vec());
        assert_eq!(shown, Some(pair.der().to_vec()), "{why}");
        let answer = node.client(&trust).with_token(&token("auditor")).get("/v1/machines").await;
        assert_eq!(answer.expect("the node answers").status, 200, "{why}");
        eventually("the log says what is wrong", async || node.process.output().contains(why).then_some(())).await;
    }

    // A setting that needs a restart is named, and the rest of that file takes effect.
    let more = "[log]\nkeep_bytes = 1048576\n[limits]\nevent_readers = 1\n";
    let more = format!("{}\n{more}", tokens(&["monitor", "client"]));
    reload(&node, &trust, "done", &tls(&other, ""), &more).await;
    eventually("the log names it", async || node.process.output().contains("what=\"log\"").then_some(())).await;
    let answer = node.client(&trust).with_token(&token("auditor")).get("/v1/machines").await;
    assert_eq!(answer.expect("the node answers").status, 401);
    let [mut one, mut two] = [0; 2].map(|_| node.client(&trust).with_token(&token("client")));
    let held = Stream::over(&mut one, "/v1/wallet/events").await.expect("there is one place");
    let refused = Stream::over(&mut two, "/v1/wallet/events").await.err().expect("and no more");
    assert_eq!(refused.status, 503, "{refused:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_sees_how_the_node_is_and_nothing_in_it() {
    let folder = tempdir().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "ca");
    let trust = authority.trust();
    let node = Node::start(folder, &tls(&authority.issue("node"), ""), &tokens(&ROLES), &trust).await;
    let mut monitor = node.client(&trust).with_token(&token("monitor"));
    let mut status = async |path: &str| monitor.get(path).await.expect("the node answers").status;
    for path in ["/metrics", "/v1/cluster", "/v1/machines", "/v1/machines/wallet", "/healthz", "/readyz"] {
        assert_eq!(status(path).await, 200, "{path}");
    }
    for path in [
        "/v1/wallet/accounts/a",
        "/v1/wallet/events",
        "/v1/wallet/commands?state=in_flight",
        "/v1/machines/wallet/modules",
        "/v1/machines/wallet/webhooks",
    ] {
        assert_eq!(status(path).await, 403, "{path}");
    }
    let mut client = node.client(&trust).with_token(&token("client"));
    assert_eq!(client.get("/metrics").await.expect("the node answers").status, 403);

    let mut stranger = node.client(&trust).with_token("a secret that nobody knows");
    for _ in 0..3 {
        assert_eq!(stranger.get("/metrics").await.expect("the node answers").status, 401);
    }
    assert_eq!(node.metric(&trust, "statehouse_tokens_refused_total", "unknown").await, 3.0);
    assert_eq!(node.metric(&trust, "statehouse_tokens_refused_total", "role").await, 6.0);
    eventually("the log says so", async || node.process.output().contains("a token was refused").then_some(())).await;
    assert!(!node.process.output().contains("secret that nobody knows"), "a token is in no log");
}
