//! Certificates that are replaced while nodes talk: requests under way continue, new ones take new connections, and a
//! node that is not trusted any more is cut off.
//!
//! In: certificates of an old authority and of a new one. Out: which connections there are, and what becomes of
//! requests and streams on them.

use std::path::Path;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, stream};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Endpoint, Uri};

use super::conformance::append;
use super::fake;
use super::grpc::{ANSWERED, Authority, ServingNode, ask, ask_with, member, read, write};
use super::{ANSWERER, CALLER, LONG, entry_id, group, question, told};
use crate::clock::{Clock, SystemClock};
use crate::consensus::{AppendReply, PeerError};
use crate::ids::{Micros, NodeId};
use crate::peer::grpc::wire::peer_client::PeerClient;
use crate::peer::grpc::{handshake, wire};
use crate::peer::{Grpc, Links, Network, PeerRenewal, PeerTls, Pieces, Routes, Topic};

/// A node that asks, and what replaces its certificates.
struct Caller {
    network: Grpc,
    renewal: PeerRenewal,
}

impl Caller {
    fn of(serving: &ServingNode, files: &PeerTls) -> Self {
        let (routes, certificates) = (Routes::default(), read(files));
        routes.set(ANSWERER, serving.address.to_string());
        let network = Grpc::new(member(CALLER), routes.clone(), Some(certificates.clone()));
        Self { network, renewal: PeerRenewal { certificates, routes, links: Links::default() } }
    }

    /// A stream on which one append was answered.
    async fn stream(&self) -> BoxStream<'static, Result<AppendReply, PeerError>> {
        let requests = stream::iter([append(1..3)]).chain(stream::pending()).boxed();
        let mut replies = self.network.appends(ANSWERER, &group(fake::EACH), requests);
        let reply = replies.next().await.expect("it is answered");
        assert_eq!(told(reply), told(Ok(AppendReply::Partial(Some(entry_id(2))))));
        replies
    }

    /// A fetch that has begun, and does not end on its own.
    async fn endless(&self) -> Pieces {
        let fetched = self.network.fetch(ANSWERER, question(Topic::Module, "hang"), LONG).await;
        let mut pieces = fetched.expect("it begins");
        assert_eq!(pieces.next().await.map(told), Some("b\"first\"".to_owned()));
        pieces
    }
}

fn renewal(serving: &ServingNode) -> PeerRenewal {
    let certificates = serving.certificates.clone().expect("it has some");
    PeerRenewal { certificates, routes: Routes::default(), links: serving.links.clone() }
}

/// The same files, with all of these authorities trusted.
fn trusting(files: PeerTls, authorities: &[&Authority]) -> PeerTls {
    let text = |path: &Path| std::fs::read_to_string(path).expect("it is there");
    let all: String = authorities.iter().map(|authority| text(&authority.sign(CALLER).ca)).collect();
    let ca = files.certificate.with_extension("trusted.pem");
    write(&ca, &all);
    PeerTls { ca, ..files }
}

/// Asks until there are so many connections.
async fn until_count(caller: &Caller, serving: &ServingNode, count: usize) {
    let asking = async {
        while serving.links.count() != count {
            assert_eq!(ask(&caller.network, Topic::Clock).await, ANSWERED);
        }
    };
    tokio::time::timeout(LONG, asking).await.expect("a connection without requests ends");
}

#[tokio::test]
async fn a_renewal_of_both_sides_loses_nothing_that_is_under_way() {
    let authority = Authority::new();
    let serving = ServingNode::start(member(ANSWERER), Some(authority.sign(ANSWERER))).await;
    let caller = Caller::of(&serving, &authority.sign(CALLER));
    let (mut stream, mut endless) = (caller.stream().await, caller.endless().await);
    assert_eq!(serving.links.count(), 1);

    assert_eq!(renewal(&serving).replace(&read(&authority.sign(ANSWERER))), 0);
    assert_eq!(caller.renewal.replace(&read(&authority.sign(CALLER))), 0);
    let ended = tokio::time::timeout(LONG, stream.next()).await.expect("the stream moves");
    assert!(ended.is_none(), "all that was sent is answered, so it ends well: {ended:?}");
    assert_eq!(ask(&caller.network, Topic::Clock).await, ANSWERED);
    let moved = caller.stream().await;
    assert_eq!(serving.links.count_of(CALLER), 2, "what is new goes over a new connection");
    assert!(endless.next().now_or_never().is_none(), "what is under way goes on over the old one");

    drop(endless);
    until_count(&caller, &serving, 1).await;
    drop(moved);
}

#[tokio::test]
async fn a_certificate_may_expire_once_it_is_renewed() {
    let authority = Authority::new();
    let serving = ServingNode::start(member(ANSWERER), Some(authority.sign(ANSWERER))).await;
    let end = Micros(SystemClock.now().0 + 3_000_000);
    let expiring = read(&authority.sign_until(CALLER, Some(end)));
    let caller = Caller::of(&serving, &authority.sign(CALLER));
    caller.renewal.replace(&expiring);
    // On a very slow machine it has expired by now, and there is nothing to check.
    let mut open = caller.network.fetch(ANSWERER, question(Topic::Module, "hang"), LONG).await.ok();
    if let Some(open) = &mut open {
        assert_eq!(open.next().await.map(told), Some("b\"first\"".to_owned()));
    }
    caller.renewal.replace(&read(&authority.sign(CALLER)));
    let expired = async {
        while expiring.check(CALLER).is_ok() {
            assert_eq!(ask(&caller.network, Topic::Clock).await, ANSWERED);
        }
    };
    tokio::time::timeout(LONG, expired).await.expect("a certificate ends");
    let error = expiring.check(CALLER).expect_err("it has expired").to_string();
    assert!(error.contains("would refuse it"), "{error}");
    // It opens no connection any more, but what it has opened is not cut off.
    let late = Caller::of(&serving, &authority.sign(CALLER));
    late.renewal.replace(&expiring);
    let answer = late.network.call(ANSWERER, question(Topic::Clock, "hello"), LONG).await;
    assert!(matches!(&answer, Err(PeerError::Failed { .. })), "{answer:?}");
    assert_eq!(renewal(&serving).replace(&read(&authority.sign(ANSWERER))), 0);
    if let Some(open) = &mut open {
        assert!(open.next().now_or_never().is_none(), "what it has opened goes on");
    }
    assert_eq!(ask(&caller.network, Topic::Clock).await, ANSWERED);
}

#[tokio::test]
async fn an_authority_is_replaced_in_two_steps_and_a_caller_that_missed_them_is_cut_off() {
    let (old, new) = (Authority::new(), Authority::new());
    let serving = ServingNode::start(member(ANSWERER), Some(old.sign(ANSWERER))).await;
    let caller = Caller::of(&serving, &old.sign(CALLER));
    let mut missing = Caller::of(&serving, &old.sign(CALLER)).endless().await;
    let mut open = caller.endless().await;

    // Both are trusted for a while: nothing is cut off, and each side may show either.
    let both = [&old, &new];
    assert_eq!(renewal(&serving).replace(&read(&trusting(old.sign(ANSWERER), &both))), 0);
    assert_eq!(ask(&caller.network, Topic::Clock).await, ANSWERED);
    caller.renewal.replace(&read(&trusting(new.sign(CALLER), &both)));
    assert_eq!(ask(&caller.network, Topic::Clock).await, ANSWERED);
    assert_eq!(renewal(&serving).replace(&read(&trusting(new.sign(ANSWERER), &both))), 0);
    assert!(open.next().now_or_never().is_none() && missing.next().now_or_never().is_none());
    drop(open);
    until_count(&caller, &serving, 2).await;
    let mut moved = caller.endless().await;

    assert_eq!(renewal(&serving).replace(&read(&new.sign(ANSWERER))), 1, "that of the caller that missed it");
    let ended = tokio::time::timeout(LONG, missing.next()).await.expect("its connection is closed");
    assert!(matches!(ended, Some(Err(_))), "{ended:?}");
    caller.renewal.replace(&read(&new.sign(CALLER)));
    assert!(moved.next().now_or_never().is_none(), "what is trusted stays open");
    assert_eq!(ask(&caller.network, Topic::Clock).await, ANSWERED);
    let answer = ask_with(&serving, Some(&trusting(old.sign(CALLER), &both))).await;
    assert!(matches!(&answer, Err(PeerError::Failed { .. })), "the old authority is trusted no more: {answer:?}");
}

#[tokio::test]
async fn a_node_that_is_trusted_no_more_is_left_at_once() {
    let (old, new) = (Authority::new(), Authority::new());
    let both = [&old, &new];
    let serving = ServingNode::start(member(ANSWERER), Some(trusting(old.sign(ANSWERER), &both))).await;
    let caller = Caller::of(&serving, &trusting(new.sign(CALLER), &both));
    let (mut stream, mut endless) = (caller.stream().await, caller.endless().await);

    caller.renewal.replace(&read(&new.sign(CALLER)));
    let ended = tokio::time::timeout(LONG, endless.next()).await.expect("nothing more is taken from it");
    assert!(matches!(ended, Some(Err(_))), "{ended:?}");
    let ended = tokio::time::timeout(LONG, stream.next()).await.expect("nothing more is sent to it");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
    let answer = caller.network.call(ANSWERER, question(Topic::Clock, "hello"), LONG).await;
    assert!(matches!(&answer, Err(PeerError::Failed { .. })), "{answer:?}");

    renewal(&serving).replace(&read(&new.sign(ANSWERER)));
    assert_eq!(ask(&caller.network, Topic::Clock).await, ANSWERED);
}

/// The handshake began with the old certificates in force; the caller is not let in once it has shown its own.
#[tokio::test]
async fn who_shakes_hands_while_its_authority_is_removed_is_not_let_in() {
    let (old, new) = (Authority::new(), Authority::new());
    let serving = ServingNode::start(member(ANSWERER), Some(old.sign(ANSWERER))).await;
    let socket = TcpStream::connect(serving.address).await.expect("it listens");
    while serving.links.count() == 0 {
        tokio::task::yield_now().await;
    }
    // The node waits for the first message of the handshake, with the old certificates.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    renewal(&serving).replace(&read(&new.sign(ANSWERER)));

    let Ok(stream) = by_hand(&old.sign(CALLER)).connect(name(ANSWERER), socket).await else { return };
    let mut stream = Some(TokioIo::new(stream));
    let dial = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("there is one connection"));
        std::future::ready(stream)
    });
    let endpoint = Endpoint::from_static("http://node").connect_with_connector_lazy(dial);
    let call = wire::CallRequest { topic: Topic::Clock as u32, group: None, body: "x".into() };
    let asked = handshake::stamp(&member(CALLER), ANSWERER, call, Some(LONG));
    let answer = PeerClient::new(endpoint).call(asked).await;
    assert!(answer.is_err(), "{answer:?}");
}

/// TLS as a node's client speaks it.
fn by_hand(files: &PeerTls) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).expect("a certificate")).expect("an authority");
    let chain = vec![CertificateDer::from_pem_file(&files.certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has them");
    let config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key);
    let mut config = config.expect("a key of the certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn name(node: NodeId) -> ServerName<'static> {
    ServerName::try_from(format!("node-{node}")).expect("it is a name")
}

#[test]
fn a_certificate_that_the_others_would_not_believe_is_told() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let good = ours.sign(CALLER);
    assert!(read(&good).check(CALLER).is_ok());
    let check = |files: PeerTls, node, words: &str| {
        let error = read(&files).check(node).expect_err("nobody would believe it").to_string();
        assert!(error.contains(words), "{error}");
    };
    check(good.clone(), ANSWERER, "1.pem: it is not valid for the name `node-2`");
    check(PeerTls { ca: theirs.sign(CALLER).ca, ..good }, CALLER, "a node that trusts the authorities in");
    let expired = ours.sign_until(CALLER, Some(Micros(1)));
    check(expired, CALLER, "a node that trusts the authorities in");
}
