//! TLS for clients: who is let in, what each of the others hears, and that the command line speaks TLS as well.
//!
//! It knows the configuration file, the command line and TLS. What a reload changes is tested in `reload.rs`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use statehouse_tests::artefacts;
use statehouse_tests::cluster::release;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::http::Client;
use statehouse_tests::process::{Process, binary};
use statehouse_tests::secure::{Authority, Pair, Trust};
use statehouse_tests::wallet;
use tempfile::{TempDir, tempdir};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The tokens that nodes of these tests know, each named by its role.
pub const ROLES: [&str; 4] = ["client", "admin", "auditor", "monitor"];

/// A node with the wallet, and with a configuration of its own.
pub struct Node {
    pub process: Process,
    pub folder: TempDir,
}

/// The token of a role.
pub fn token(role: &str) -> String {
    format!("the token of {role}")
}

/// The part of a configuration that has the tokens of these roles.
pub fn tokens(roles: &[&str]) -> String {
    let one = |role: &&str| {
        let hash = blake3::hash(token(role).as_bytes()).to_hex();
        format!("[[auth.tokens]]\nname = \"{role}\"\nroles = [\"{role}\"]\nblake3 = \"{hash}\"\n")
    };
    roles.iter().map(one).collect()
}

/// `[http] tls` with this certificate, and more keys.
pub fn tls(pair: &Pair, more: &str) -> String {
    let (certificate, key) = (argument(&pair.certificate), argument(&pair.key));
    format!("tls = {{ certificate = {certificate:?}, key = {key:?}{more} }}")
}

/// The whole configuration of a node with its data in this folder.
pub fn configuration(folder: &Path, http: &str, rest: &str) -> String {
    let (node, module) = (folder.join("node"), release("wallet-1.0.1.wasm"));
    let (node, module) = (argument(&node), argument(&module));
    format!(
        "[node]\nid = 1\ndata = {node:?}\n\n[http]\nlisten = \"127.0.0.1:0\"\n{http}\n\n\
         [machines.wallet]\nmodule = {module:?}\n\n{rest}"
    )
}

impl Node {
    /// Starts a node and waits until it is ready. `http` and `rest` are parts of its configuration.
    pub async fn start(folder: TempDir, http: &str, rest: &str, trust: &Trust) -> Self {
        artefacts::lend(&folder.path().join("node"));
        let config = folder.path().join("node.toml");
        std::fs::write(&config, configuration(folder.path(), http, rest)).expect("a new file");
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(&config);
        let process = Process::start("the node", command).await.expect("the node starts");
        let node = Self { process, folder };
        let mut client = node.client(trust);
        eventually("the node is ready", async || {
            let answer = client.get("/readyz").await;
            answer.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
        artefacts::keep(&node.folder.path().join("node"));
        node
    }

    pub fn address(&self) -> SocketAddr {
        self.process.address()
    }

    pub fn client(&self, trust: &Trust) -> Client {
        Client::to(self.address()).over(trust)
    }

    /// The sum of a metric over its labels that have this text.
    pub async fn metric(&self, trust: &Trust, name: &str, label: &str) -> f64 {
        let mut client = self.client(trust).with_token(&token("monitor"));
        let answer = client.get("/metrics").await.expect("the node answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = String::from_utf8(answer.body.to_vec()).expect("metrics are text");
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")).sum()
    }
}

/// Runs the command line with a token in a file.
fn ask(node: &Node, role: &str, arguments: &[&str]) -> CommandOutput {
    let file = node.folder.path().join("token");
    std::fs::write(&file, format!("{}\n", token(role))).expect("a file");
    cli(arguments.iter().copied().chain(["--token-file", argument(&file)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_speak_https_and_hear_what_is_wrong_where_they_do_not() {
    let folder = tempdir().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "ca");
    let stranger = Authority::make(folder.path(), "stranger");
    let trust = authority.trust();
    let pair = authority.issue("node");
    let node = Node::start(folder, &tls(&pair, ""), &tokens(&ROLES), &trust).await;

    let both = trust.clone().speaking(&["h2", "http/1.1"]).connect(node.address()).await.expect("TLS is spoken");
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 is the better one");
    let (mut h2, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(both)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = hyper::Request::get("https://localhost/healthz").body(Empty::<Bytes>::new()).expect("a request");
    let answer = h2.send_request(request).await.expect("the node answers");
    assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "ok\n");

    let old = trust.clone().old().connect(node.address()).await.expect_err("1.2 is refused");
    assert!(old.to_string().contains("ProtocolVersion"), "{old}");
    stranger.trust().connect(node.address()).await.expect_err("the client trusts another authority");

    let mut plain = TcpStream::connect(node.address()).await.expect("the node listens");
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("the node reads");
    let mut said = String::new();
    plain.read_to_string(&mut said).await.expect("the connection ends well");
    assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("https_required"), "{said}");

    let (url, ca) = (format!("https://{}", node.address()), argument(&authority.ca).to_owned());
    let status = ask(&node, "monitor", &["cluster", "status", "--json", "--url", &url, "--ca", &ca]);
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(status.stdout.contains(&format!("\"http\": \"{url}\"")), "others are told of https: {status:?}");
    for command in [["module", "log"], ["view", "list"], ["webhook", "list"], ["snapshot", "list"]] {
        let done = ask(&node, "auditor", &[&command[..], &["--url", &url, "--ca", &ca]].concat());
        assert_eq!(done.code, Some(0), "{command:?}: {done:?}");
    }
    wallet::open(&mut node.client(&trust).with_token(&token("client")), "alice").await;
    let replay = ["audit", "replay", "--candidate", "1.0.1", "--url", &url, "--ca", &ca];
    let replay = ask(&node, "admin", &replay);
    assert_eq!(replay.code, Some(0), "a replay over https: {replay:?}");

    let refused = |arguments: &[&str], expected: &str| {
        let refused = ask(&node, "admin", &[&["cluster", "status"], arguments].concat());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(expected), "{refused:?}");
    };
    refused(&["--url", &url, "--ca", argument(&stranger.ca)], "not signed by an authority that is trusted here");
    refused(&["--url", &url], "not signed by an authority that is trusted here");
    refused(&["--url", &format!("http://{}", node.address())], "this address speaks https");
    refused(&["--url", &url, "--ca", argument(&pair.key)], "there is no certificate in it");
    assert!(1.0 <= node.metric(&trust, "statehouse_tls_refused_total", "plaintext").await, "it is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_node_says_so_to_a_client_of_tls() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let refused = cli(["cluster", "status", "--url", &format!("https://{}", host.address())]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("does not speak TLS there; ask by http://"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_where_one_is_required() {
    let folder = tempdir().expect("a temporary folder");
    let (authority, of_clients) = (Authority::make(folder.path(), "ca"), Authority::make(folder.path(), "clients"));
    let (pair, own) = (authority.issue("node"), of_clients.issue("own"));
    let foreign = authority.issue("foreign");
    let more = |authority: &Authority, wanted: &str| {
        format!(", client_ca = {:?}, client_certificates = \"{wanted}\"", argument(&authority.ca))
    };
    let trust = authority.trust().showing(own.clone());
    let http = tls(&pair, &more(&of_clients, "required"));
    let node = Node::start(folder, &http, &tokens(&ROLES), &trust).await;

    let url = format!("https://{}", node.address());
    let known = ["cluster", "status", "--url", &url, "--ca", argument(&authority.ca)];
    let showing = |pair: &Pair| {
        let shown = ["--client-certificate", argument(&pair.certificate), "--client-key", argument(&pair.key)];
        ask(&node, "monitor", &[&known[..], &shown].concat())
    };
    assert_eq!(showing(&own).code, Some(0));
    let none = ask(&node, "monitor", &known);
    assert_eq!(none.code, Some(2), "{none:?}");
    assert!(none.stderr.contains("give yours with --client-certificate and --client-key"), "{none:?}");
    let other = showing(&foreign);
    assert_eq!(other.code, Some(2), "{other:?}");
    assert!(other.stderr.contains("use one that its `client_ca` has signed"), "{other:?}");

    // A certificate is not a token.
    let answer = node.client(&trust).get("/metrics").await.expect("the node answers");
    assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthenticated"));

    // From now on only clients of the other authority are let in, and a client that the first one let in is asked to
    // leave.
    let mut open = node.client(&trust).with_token(&token("monitor"));
    assert_eq!(open.get("/v1/cluster").await.expect("the node answers").status, 200);
    let http = tls(&pair, &more(&authority, "optional"));
    std::fs::write(node.folder.path().join("node.toml"), configuration(node.folder.path(), &http, &tokens(&ROLES)))
        .expect("a file");
    node.process.hang_up();
    let bare = authority.trust();
    eventually("the node has read it", async || {
        node.client(&bare).get("/healthz").await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    let again = node.client(&trust).get("/healthz").await;
    assert!(again.is_err(), "the first authority counts for nothing now: {again:?}");
    eventually("the open connection ends", async || open.is_closed().then_some(())).await;
    assert_eq!(showing(&foreign).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dev_node_makes_an_authority_of_its_own() {
    let data = tempdir().expect("a temporary folder");
    let ca = data.path().join("tls/ca.pem");
    let arguments = vec!["--tls".to_owned()];
    let start = Start { arguments, authority: Some(ca.clone()), ..Start::on(data.path()) };
    let mut first = Vec::new();
    for _ in 0..2 {
        let host = Host::start_with(&start).await.expect("the host starts");
        let now = std::fs::read(&ca).expect("the authority is there");
        assert!(first.is_empty() || first == now, "it stays");
        first = now;
        let said = format!("curl --cacert {} -sX POST https://{}/v1/wallet", ca.display(), host.address());
        eventually("it says how to ask it", async || host.output().contains(&said).then_some(())).await;
        host.terminate().await;
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(data.path().join("tls/ca.key")).expect("a key"));
    assert_eq!(mode & 0o777, 0o600, "the key is for its owner alone");
}
