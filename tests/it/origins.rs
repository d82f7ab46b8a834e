//! A host without tokens answers only programs of its own machine: what a web page can have sent is refused, on every
//! route.
//!
//! It knows the routes from the host's own description of them, and sends bytes: what the kit's client adds on its
//! own is left out here. `browser.rs` shows that a browser really sends what is sent here.

use std::net::SocketAddr;

use serde_json::{Value, json};
use statehouse_tests::hold::PATIENCE;
use statehouse_tests::host::{Host, argument, cli};
use statehouse_tests::wallet;
use tempfile::tempdir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends bytes, and reads until the host closes the connection or `end` has arrived.
async fn exchange(address: SocketAddr, bytes: &[u8], end: Option<&str>) -> String {
    let exchanging = async {
        let mut stream = TcpStream::connect(address).await.expect("the host listens");
        stream.write_all(bytes).await.expect("the host reads");
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut piece).await.expect("the host answers");
            answer.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&answer);
            if count == 0 || end.is_some_and(|end| text.contains(end)) {
                return text.into_owned();
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchanging).await.expect("the host answers at all")
}

/// The answer to a request without a body.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n");
    exchange(address, request.as_bytes(), None).await
}

#[track_caller]
fn check(answer: &str, status: u16, code: &str, of: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{of}: {answer}");
    assert!(answer.contains(&format!("urn:statehouse:problem:{code}\"")), "{of}: {answer}");
}

/// Every route of the host and of its machine, as method and path.
async fn routes(host: &Host) -> Vec<(String, String)> {
    let openapi = host.client().get("/openapi.json").await.expect("the host answers").json();
    let paths = openapi["paths"].as_object().expect("a document has paths");
    let mut routes = Vec::new();
    for (path, methods) in paths {
        for method in methods.as_object().expect("a path has methods").keys() {
            routes.push((method.to_uppercase(), path.replace(['{', '}'], "")));
        }
    }
    assert!(routes.len() > 50, "the host describes all that it has: {}", routes.len());
    routes
}

/// How far the wallet's journal goes.
async fn positions(host: &Host) -> Value {
    let page = host.client().get("/v1/machines/wallet").await.expect("the host answers").json();
    assert!(page["partitions"][0]["position"].is_string(), "{page}");
    page["partitions"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_web_page_can_send_is_refused_on_every_route() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    wallet::open(&mut client, "account").await;
    let address = host.address();
    let own = format!("Host: {address}");
    let before = positions(&host).await;
    let mut changes = 0;
    for (method, path) in routes(&host).await {
        let of = format!("{method} {path}");
        // The name leads here: this is DNS rebinding.
        let rebound =
            ask(address, &method, &path, &["Host: evil.example:8080", "Content-Type: application/json"]).await;
        check(&rebound, 403, "foreign_host", &of);
        check(&ask(address, &method, &path, &[]).await, 403, "foreign_host", &of);
        for foreign in ["Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
            let answer = ask(address, &method, &path, &[&own, foreign, "Content-Type: application/json"]).await;
            check(&answer, 403, "foreign_origin", &of);
        }
        let packed = ask(address, &method, &path, &[&own, "Content-Encoding: gzip"]).await;
        check(&packed, 415, "wrong_content_encoding", &of);
        if method == "POST" {
            // An old browser may not say where a form is.
            for form in
                [None, Some("Content-Type: text/plain"), Some("Content-Type: application/x-www-form-urlencoded")]
            {
                let headers: Vec<&str> = std::iter::once(own.as_str()).chain(form).collect();
                check(&ask(address, &method, &path, &headers).await, 415, "wrong_content_type", &of);
            }
            changes += 1;
        }
    }
    assert!(changes > 20, "{changes} routes change something");
    assert_eq!(positions(&host).await, before, "nothing of it was recorded");

    // The same requests are accepted with what every program can add.
    let freeze = "/v1/wallet/accounts/account/freeze";
    let frozen = ask(address, "POST", freeze, &[&own, "Content-Type: application/json"]).await;
    assert!(frozen.starts_with("HTTP/1.1 200 "), "{frozen}");
    let id = "Idempotency-Key: 018f0000-0000-7000-8000-000000000001";
    let unfrozen = ask(address, "POST", "/v1/wallet/accounts/account/unfreeze", &[&own, id]).await;
    assert!(unfrozen.starts_with("HTTP/1.1 200 "), "{unfrozen}");
    for host in [format!("Host: localhost:{}", address.port()), "Host: [::1]".to_owned()] {
        let answer = ask(address, "GET", "/healthz", &[&host, "Sec-Fetch-Site: none"]).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    let own_origin = format!("Origin: http://{address}");
    let answer = ask(address, "GET", "/healthz", &[&own, &own_origin, "Sec-Fetch-Site: same-origin"]).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// A literal header of HPACK, without its name in a table and without Huffman coding.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_http_2_is_a_host_as_well() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let own = host.address().to_string();
    // `not_found` shows that the request got through to the routes.
    for (authority, end) in [("evil.example", "foreign_host"), (own.as_str(), "not_found")] {
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/nowhere"), (":authority", authority)];
        let block = fields.map(|(name, value)| literal(name, value)).concat();
        // A SETTINGS frame without any setting comes first, then HEADERS that end their block and the stream, which
        // is number 1.
        let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        let headers = [0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
        let request = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings, &headers, &block].concat();
        let answer = exchange(host.address(), &request, Some(end)).await;
        assert!(answer.contains(end), "{authority}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_named_and_not_sent_back() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let long = "x".repeat(40_000);
    for path in [format!("/{long}"), format!("/v1/{long}/accounts/a"), format!("/v1/wallet/{long}")] {
        let answer = host.client().get(&path).await.expect("the host answers");
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.body.len() < 4_000, "{} bytes", answer.body.len());
        answer.problem();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_without_tokens_says_that_it_is_meant() {
    let folder = tempdir().expect("a temporary folder");
    let config = folder.path().join("node.toml");
    let node = json!(argument(&folder.path().join("node")));
    let text = |auth: &str| format!("[node]\nid = 1\ndata = {node}\n[http]\nlisten = \"127.0.0.1:0\"\n{auth}");
    for (auth, expected) in [
        ("", "write `open = true` below [auth] if that is intended"),
        ("[auth]\nopen = false\n", "write `open = true` below [auth] if that is intended"),
        (
            "[auth]\nopen = true\n[[auth.tokens]]\nname = \"a\"\nroles = [\"client\"]\nblake3 = \"00\"\n",
            "`auth.open` contradicts [[auth.tokens]]",
        ),
    ] {
        std::fs::write(&config, text(auth)).expect("a new file");
        let refused = cli(["serve", "--config", argument(&config)]);
        assert_eq!(refused.code, Some(2), "{auth}: {refused:?}");
        assert!(refused.stderr.contains(expected), "{auth}: {refused:?}");
    }
}
