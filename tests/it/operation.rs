//! What an operator asks of a host: whether it is alive, what it does, and whether it refuses what it cannot keep.
//!
//! It knows the host's own routes and the flags of `statehouse dev`.

use statehouse_tests::host::{Host, argument, cli};
use statehouse_tests::oracle::Ledger;
use tempfile::tempdir;

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_own_routes_answer() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    Ledger::open(&mut client, 2, 100).await;
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/machines"] {
        let answer = client.get(path).await.expect("the host answers");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let openapi = client.get("/openapi.json").await.expect("the host answers").json();
    assert_eq!(openapi["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    assert!(openapi["paths"]["/v1/wallet/balance_transfer"]["post"].is_object(), "the module's routes are declared");
    let metrics = client.get("/metrics").await.expect("the host answers");
    assert!(String::from_utf8_lossy(&metrics.body).contains("statehouse_"), "metrics carry our prefix");

    let written = std::fs::read_to_string(data.path().join("http.addr")).expect("the address is written down");
    assert_eq!(written.trim(), host.address().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_problem_that_says_so() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    for path in ["/nowhere", "/v1/nothing/commands/x", "/v1/wallet/nowhere", "/v1/wallet/accounts/nobody"] {
        let answer = client.get(path).await.expect("the host answers");
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        answer.problem();
    }
    let answer = client.get("/v1/wallet/balance_transfer").await.expect("the host answers");
    assert_eq!((answer.status, answer.problem().as_str()), (405, "method_not_allowed"));
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_one_node_is_not_that_of_a_cluster() {
    let data = tempdir().expect("a temporary folder");
    Host::start(data.path()).await.terminate().await;
    let refused = cli(["dev", "--data", argument(data.path()), "--http", "127.0.0.1:0", "--nodes", "3"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("start with --nodes 1"), "the refusal says what works: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_commands_ask_the_node_and_say_what_it_says() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let url = format!("http://{}", host.address());
    let refused = cli(["cluster", "init", "--node", "1=127.0.0.1:7001", "--url", &url]);
    assert_eq!(refused.code, Some(2), "a node without `[peer]` founds nothing: {refused:?}");
    assert!(refused.stderr.contains("[peer]") || refused.stderr.contains("cluster"), "{refused:?}");
    let status = cli(["cluster", "status", "--json", "--url", &url]);
    let page: serde_json::Value = serde_json::from_str(&status.stdout).expect("--json prints JSON");
    assert_eq!(page["node"], 1, "{page}");
    assert_eq!(page["is_ready"], true, "{page}");
    host.kill();
    let gone = cli(["cluster", "status", "--url", &url]);
    assert_eq!(gone.code, Some(2), "{gone:?}");
    assert!(gone.stderr.contains("no node answers"), "{gone:?}");
}

#[test]
fn an_address_that_others_reach_is_refused_without_tokens() {
    let data = tempdir().expect("a temporary folder");
    // This address is of the block for documentation, which no machine has.
    let refused = cli(["dev", "--data", argument(data.path()), "--http", "192.0.2.1:8080"]);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    assert!(refused.stderr.contains("token"), "the refusal asks for tokens: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_served_by_one_process_at_a_time() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let refused = cli(["dev", "--data", argument(data.path()), "--http", "127.0.0.1:0", "--nodes", "1"]);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    let alive = host.client().get("/readyz").await.expect("the host answers");
    assert_eq!(alive.status, 200, "the first is not disturbed");
}
