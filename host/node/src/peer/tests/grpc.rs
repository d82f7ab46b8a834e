//! What only the real network has: sockets that close, addresses that change, strangers, and certificates.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::conformance::{Pair, conformance};
use super::fake::{self, Fake};
use super::{ANSWERER, CALLER, CLUSTER, LONG, SHORT, group, question, told};
use crate::consensus::PeerError;
use crate::ids::{ClusterId, Micros, NodeId};
use crate::peer::grpc::wire::peer_client::PeerClient;
use crate::peer::grpc::{handshake, wire};
use crate::peer::{
    Call, Grpc, Identity, LinkLimits, Links, Network, PeerCertificates, PeerOptions, PeerSetupError, PeerTls, Routes,
    Topic, serve_peers,
};

/// A node that answers.
pub struct ServingNode {
    pub address: SocketAddr,
    service: Arc<Fake>,
    pub certificates: Option<PeerCertificates>,
    pub links: Links,
    stop: DropGuard,
    served: JoinHandle<Result<(), PeerSetupError>>,
}

impl ServingNode {
    pub async fn start(identity: Identity, tls: Option<PeerTls>) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("it is an address"), identity, tls).await
    }

    async fn start_at(address: SocketAddr, identity: Identity, tls: Option<PeerTls>) -> Self {
        Self::start_within(address, identity, tls, LinkLimits::default()).await
    }

    async fn start_within(address: SocketAddr, identity: Identity, tls: Option<PeerTls>, limits: LinkLimits) -> Self {
        let links = Links::within(limits);
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let (service, stop) = (Fake::new(), CancellationToken::new());
        let certificates = tls.map(|tls| PeerCertificates::read(tls).expect("the files are there"));
        let options = PeerOptions { identity, certificates: certificates.clone(), links: links.clone() };
        let serving = serve_peers(listener, options, service.clone(), stop.clone().cancelled_owned());
        Self { address, service, certificates, links, stop: stop.drop_guard(), served: tokio::spawn(serving) }
    }

    /// Stops it, and waits until its port is closed.
    async fn stop(self) {
        drop(self.stop);
        let served = self.served.await.expect("it does not panic");
        assert!(served.is_ok(), "{served:?}");
    }
}

pub fn member(node: NodeId) -> Identity {
    Identity::member(node, CLUSTER)
}

fn caller(identity: Identity, address: SocketAddr) -> Grpc {
    let routes = Routes::default();
    routes.set(ANSWERER, address.to_string());
    Grpc::new(identity, routes, None)
}

async fn pair() -> Pair {
    let serving = ServingNode::start(member(ANSWERER), None).await;
    let network = caller(member(CALLER), serving.address);
    Pair { network: Arc::new(network), service: serving.service.clone(), _alive: Box::new(serving) }
}

conformance!(pair);

/// What a call of `topic` brings back.
pub async fn ask(network: &Grpc, topic: Topic) -> String {
    told(network.call(ANSWERER, question(topic, "hello"), LONG).await)
}

pub const ANSWERED: &str = r#"b"hello""#;

#[tokio::test]
async fn a_stranger_is_only_told_what_strangers_may_know() {
    let cases = [
        (Identity::stranger(ANSWERER), member(CALLER), "node 2 refused: this node belongs to no cluster yet"),
        (
            Identity::stranger(ANSWERER),
            Identity::stranger(CALLER),
            "node 2 refused: this node belongs to no cluster yet",
        ),
        (
            member(ANSWERER),
            Identity::stranger(CALLER),
            "node 2 refused: this node belongs to cluster 07070707-0707-0707-0707-070707070707, the caller to none",
        ),
    ];
    for (answerer, asker, refusal) in cases {
        let serving = ServingNode::start(answerer, None).await;
        let network = caller(asker, serving.address);
        for topic in Topic::ALL {
            let is_open = [Topic::Join, Topic::Clock, Topic::Status].contains(&topic);
            assert_eq!(ask(&network, topic).await, if is_open { ANSWERED } else { refusal }, "{topic:?}");
        }
        let replies = network.appends(ANSWERER, &group(0), stream::pending().boxed());
        assert_eq!(replies.map(told).collect::<Vec<_>>().await, [refusal]);
        let fetched = network.fetch(ANSWERER, question(Topic::Module, "x"), LONG).await;
        assert_eq!(told(fetched.map(|_| ())), refusal);
        assert_eq!(serving.service.calls_heard.lock().len(), 3, "what is refused reaches no service");
    }
}

#[tokio::test]
async fn a_node_that_joins_is_a_member_from_then_on() {
    let (answerer, asker) = (Identity::stranger(ANSWERER), Identity::stranger(CALLER));
    let serving = ServingNode::start(answerer.clone(), None).await;
    let network = caller(asker.clone(), serving.address);
    assert!(ask(&network, Topic::Submit).await.contains("refused"));
    answerer.cluster.set(CLUSTER).expect("it had none");
    asker.cluster.set(CLUSTER).expect("it had none");
    assert_eq!(ask(&network, Topic::Submit).await, ANSWERED);
}

#[tokio::test]
async fn another_cluster_is_refused_even_what_strangers_may_ask() {
    let serving = ServingNode::start(member(ANSWERER), None).await;
    let network = caller(Identity::member(CALLER, ClusterId([8; 16])), serving.address);
    for topic in [Topic::Submit, Topic::Join] {
        assert_eq!(
            ask(&network, topic).await,
            "node 2 refused: this node belongs to cluster 07070707-0707-0707-0707-070707070707, \
             the caller to 08080808-0808-0808-0808-080808080808"
        );
    }
}

#[tokio::test]
async fn a_request_for_another_node_is_refused() {
    let serving = ServingNode::start(member(NodeId(5)), None).await;
    let network = caller(member(CALLER), serving.address);
    assert_eq!(ask(&network, Topic::Status).await, "node 2 refused: this is node 5, not node 2");
}

#[tokio::test]
async fn a_request_that_does_not_say_what_it_must_is_refused() {
    let serving = ServingNode::start(member(ANSWERER), None).await;
    let mut client = PeerClient::connect(format!("http://{}", serving.address)).await.expect("it listens");
    for (key, value, refusal) in [
        ("sh-format", Some("2"), "format 2 is unknown, this node speaks 1"),
        ("sh-format", None, "`sh-format` is missing or not a number"),
        ("sh-from", Some("-1"), "`sh-from` is missing or not a number"),
        ("sh-to", None, "`sh-to` is missing or not a number"),
        ("sh-cluster", Some("ours"), "`sh-cluster` is not a cluster"),
    ] {
        let call = wire::CallRequest { topic: Topic::Clock as u32, group: None, body: "x".into() };
        let mut request = handshake::stamp(&member(CALLER), ANSWERER, call, Some(LONG));
        request.metadata_mut().remove(key);
        if let Some(value) = value {
            request.metadata_mut().insert(key, value.parse().expect("it is text"));
        }
        let status = client.call(request).await.expect_err("it is refused");
        assert_eq!((status.code(), status.message()), (tonic::Code::FailedPrecondition, refusal));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_words() {
    let serving = ServingNode::start(member(ANSWERER), None).await;
    let mut client = PeerClient::connect(format!("http://{}", serving.address)).await.expect("it listens");
    let call = wire::CallRequest { topic: 4711, group: None, body: "x".into() };
    let status = client.call(handshake::stamp(&member(CALLER), ANSWERER, call, None)).await;
    assert_eq!(status.expect_err("no such topic").message(), "the question cannot be read: its topic is unknown");
    let empty = wire::RaftRequest { group: Some(wire::Group::default()), message: None };
    let status = client.raft(handshake::stamp(&member(CALLER), ANSWERER, empty, None)).await;
    let expected = "the question cannot be read: it holds no message that is known";
    assert_eq!(status.expect_err("it is empty").message(), expected);
    let group = wire::appends_request::Message::Group(wire::Group { machine: "wallet".into(), partition: fake::EACH });
    let append = wire::appends_request::Message::Append(wire::Append::default());
    let messages = [group, append].map(|message| wire::AppendsRequest { message: Some(message) });
    let replies = client.appends(handshake::stamp(&member(CALLER), ANSWERER, stream::iter(messages), None)).await;
    let status = replies.expect("it opens").into_inner().message().await.expect_err("the append is not one");
    assert_eq!(status.message(), "the question cannot be read: it carries no vote");
}

#[tokio::test]
async fn a_node_that_is_down_fails_at_once_and_is_found_again_when_it_is_back() {
    let serving = ServingNode::start(member(ANSWERER), None).await;
    let address = serving.address;
    let network = caller(member(CALLER), address);
    assert_eq!(ask(&network, Topic::Clock).await, ANSWERED);
    let mut replies = network.appends(ANSWERER, &group(fake::EACH), stream::pending().boxed());
    let waiting = network.call(ANSWERER, question(Topic::Submit, "hang"), LONG);
    let (waited, ended, ()) = tokio::join!(waiting, replies.next(), serving.stop());
    assert!(matches!(waited, Err(PeerError::Failed { .. })), "{waited:?}");
    assert!(matches!(ended, Some(Err(PeerError::Failed { .. }))), "{ended:?}");
    for _ in 0..2 {
        let answer = network.call(ANSWERER, question(Topic::Clock, "hello"), LONG).await;
        assert!(matches!(&answer, Err(PeerError::Failed { .. })), "{answer:?}");
    }
    let _back = ServingNode::start_at(address, member(ANSWERER), None).await;
    assert_eq!(ask(&network, Topic::Clock).await, ANSWERED);
}

#[tokio::test]
async fn a_node_that_never_says_a_word_costs_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let network = caller(member(CALLER), silent.local_addr().expect("it is bound"));
    let answer = network.call(ANSWERER, question(Topic::Clock, "x"), SHORT).await;
    assert_eq!(told(answer), "node 2 did not answer in time");
    let answer = network.fetch(ANSWERER, question(Topic::Module, "x"), SHORT).await;
    assert_eq!(told(answer.map(|_| ())), "node 2 did not answer in time");
    // A stream has no deadline: the probes find out.
    let mut replies = network.appends(ANSWERER, &group(0), stream::pending().boxed());
    let ended = replies.next().await.expect("the failure is told");
    assert!(matches!(&ended, Err(PeerError::Failed { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_route_decides_where_a_node_is_reached() {
    let (old, new) =
        (ServingNode::start(member(ANSWERER), None).await, ServingNode::start(member(ANSWERER), None).await);
    let routes = Routes::default();
    let network = Grpc::new(member(CALLER), routes.clone(), None);
    for serving in [&old, &new, &old] {
        routes.set(ANSWERER, serving.address.to_string());
        assert_eq!(routes.find(ANSWERER), Some(serving.address.to_string()));
        assert_eq!(ask(&network, Topic::Clock).await, ANSWERED);
    }
    assert_eq!((old.service.calls_heard.lock().len(), new.service.calls_heard.lock().len()), (2, 1));
    routes.remove(ANSWERER);
    assert_eq!(ask(&network, Topic::Clock).await, "no route to node 2");
    routes.set(ANSWERER, "not an address".to_owned());
    let told = ask(&network, Topic::Clock).await;
    assert!(told.starts_with("node 2 failed: cannot be reached at `not an address`"), "{told}");
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_an_error_and_no_end_of_the_connection() {
    let serving = ServingNode::start(member(ANSWERER), None).await;
    let network = caller(member(CALLER), serving.address);
    let body = vec![1; crate::limits::PEER_MESSAGE_BYTES_MAX + 1].into();
    let answer = network.call(ANSWERER, Call { topic: Topic::Submit, group: None, body }, LONG).await;
    assert!(matches!(&answer, Err(PeerError::Failed { detail, .. }) if detail.contains("too large")), "{answer:?}");
    assert_eq!(ask(&network, Topic::Submit).await, ANSWERED);
}

/// An authority in a folder, and the certificates that it signed.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        let key = KeyPair::generate().expect("there is chance");
        let mut params = CertificateParams::new([]).expect("no name is wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("it signs itself");
        write(&folder.path().join("ca.pem"), &certificate.pem());
        Self { issuer: Issuer::new(params, key), folder }
    }

    pub fn sign(&self, node: NodeId) -> PeerTls {
        self.sign_until(node, None)
    }

    /// Signs a certificate that expires at `end`; without `end`, in some thousands of years.
    pub fn sign_until(&self, node: NodeId, end: Option<Micros>) -> PeerTls {
        let key = KeyPair::generate().expect("there is chance");
        let mut params = CertificateParams::new([format!("node-{node}")]).expect("it is a name");
        if let Some(end) = end {
            params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_micros(end.0.unsigned_abs());
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let at = |name: String| self.folder.path().join(name);
        let tls = PeerTls {
            ca: at("ca.pem".to_owned()),
            certificate: at(format!("{node}.pem")),
            key: at(format!("{node}.key")),
        };
        write(&tls.certificate, &certificate.pem());
        write(&tls.key, &key.serialize_pem());
        tls
    }
}

pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("there is room");
}

pub fn read(tls: &PeerTls) -> PeerCertificates {
    PeerCertificates::read(tls.clone()).expect("the files are there")
}

/// What a caller with these files hears from `serving`.
pub async fn ask_with(serving: &ServingNode, tls: Option<&PeerTls>) -> Result<bytes::Bytes, PeerError> {
    let routes = Routes::default();
    routes.set(ANSWERER, serving.address.to_string());
    let network = Grpc::new(member(CALLER), routes, tls.map(read));
    network.call(ANSWERER, question(Topic::Clock, "hello"), LONG).await
}

#[tokio::test]
async fn with_certificates_both_sides_are_who_they_say() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let serving = ServingNode::start(member(ANSWERER), Some(ours.sign(ANSWERER))).await;
    assert_eq!(told(ask_with(&serving, Some(&ours.sign(CALLER))).await), ANSWERED);
    serving.service.calls_heard.lock().clear();

    let of_another = ask_with(&serving, Some(&ours.sign(NodeId(3)))).await;
    assert_eq!(told(of_another), "node 2 refused: the certificate is not that of node 1");
    let unsigned = PeerTls { ca: ours.sign(CALLER).ca, ..theirs.sign(CALLER) };
    for tls in [None, Some(&unsigned), Some(&theirs.sign(CALLER))] {
        let answer = ask_with(&serving, tls).await;
        assert!(matches!(&answer, Err(PeerError::Failed { .. })), "{answer:?}");
    }
    assert!(serving.service.calls_heard.lock().is_empty(), "nothing of it reached the service");

    let impostor = ServingNode::start(member(ANSWERER), Some(ours.sign(NodeId(3)))).await;
    let answer = ask_with(&impostor, Some(&ours.sign(CALLER))).await;
    assert!(matches!(&answer, Err(PeerError::Failed { .. })), "{answer:?}");
    assert!(impostor.service.calls_heard.lock().is_empty(), "nothing is said to a node with another's certificate");
}

#[test]
fn files_that_are_no_certificates_are_an_error_in_words() {
    let authority = Authority::new();
    let good = authority.sign(CALLER);
    let text = good.ca.with_file_name("text.pem");
    write(&text, "no certificate");
    let other = authority.sign(ANSWERER);
    for (tls, words) in [
        (PeerTls { key: good.ca.with_file_name("missing.key"), ..good.clone() }, "missing.key"),
        (PeerTls { ca: text.clone(), ..good.clone() }, "text.pem: it has no certificate in it"),
        (PeerTls { certificate: text.clone(), ..good.clone() }, "text.pem: it has no certificate in it"),
        (PeerTls { key: text, ..good.clone() }, "text.pem"),
        (PeerTls { key: other.key, ..good }, "1.pem"),
    ] {
        let error = PeerCertificates::read(tls).err().expect("it is refused").to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_no_node_out() {
    const COUNT: usize = 8;
    let limits = LinkLimits { count: COUNT, unknown: 10 * SHORT, idle: LONG };
    let address = "127.0.0.1:0".parse().expect("it is an address");
    let serving = ServingNode::start_within(address, member(ANSWERER), None, limits).await;
    let known = caller(member(CALLER), serving.address);
    assert_eq!(ask(&known, Topic::Clock).await, ANSWERED);
    let mut silent = Vec::new();
    for _ in 0..5 * COUNT {
        silent.push(TcpStream::connect(serving.address).await.expect("it listens"));
        assert!(serving.links.count() <= COUNT);
    }
    assert_eq!(ask(&known, Topic::Clock).await, ANSWERED, "its connection has stayed");
    let new = caller(member(NodeId(3)), serving.address);
    assert_eq!(ask(&new, Topic::Clock).await, ANSWERED, "there is room for one more node");
    // All connections that never said a word are closed.
    for mut silent in silent {
        let mut bytes = [0; 64];
        while matches!(tokio::time::timeout(LONG, silent.read(&mut bytes)).await.expect("it is closed"), Ok(1..)) {}
    }
    assert_eq!(serving.links.count(), 2);
    assert_eq!(ask(&known, Topic::Clock).await, ANSWERED);
}

#[tokio::test]
async fn a_connection_is_one_nodes() {
    let serving = ServingNode::start(member(ANSWERER), None).await;
    let mut client = PeerClient::connect(format!("http://{}", serving.address)).await.expect("it listens");
    let call = || wire::CallRequest { topic: Topic::Clock as u32, group: None, body: "x".into() };
    client.call(handshake::stamp(&member(CALLER), ANSWERER, call(), Some(LONG))).await.expect("it is a node");
    let status = client.call(handshake::stamp(&member(NodeId(3)), ANSWERER, call(), Some(LONG))).await;
    let expected = "another node than node 3 has opened this connection";
    assert_eq!(status.expect_err("it is another one's").message(), expected);
}
