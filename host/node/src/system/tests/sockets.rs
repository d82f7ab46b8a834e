//! The peer port itself, over real sockets, with certificates and without. A caller that is no node of the cluster
//! gets nothing there, whatever certificate it has.
//!
//! In: three nodes, and a caller with the files of a node that was removed, or of one that never existed. Out:
//! refusals with a reason, closed connections, and terms that stay.

use std::path::Path;

use futures_util::{StreamExt, stream};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::net::TcpListener;

use super::peers::{check_all_refused, terms, vote};
use super::*;
use crate::ids::{ClusterId, Micros};
use crate::peer::{Call, GroupName, Grpc, Identity, Network, PeerCertificates, PeerTls, Routes, Topic};
use crate::system::PeerTlsFiles;
use crate::system::logic::SYSTEM;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
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

    /// Signs a certificate that ends at this time; without a time, it ends in some thousands of years.
    pub fn sign_until(&self, node: NodeId, end: Option<Micros>) -> PeerTls {
        let key = KeyPair::generate().expect("there is chance");
        let mut params = CertificateParams::new([format!("node-{node}")]).expect("it is a name");
        if let Some(end) = end {
            params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_micros(end.0.unsigned_abs());
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let at = |name: String| self.folder.path().join(name);
        let (certificate_path, key_path) = (at(format!("{node}.pem")), at(format!("{node}.key")));
        write(&certificate_path, &certificate.pem());
        write(&key_path, &key.serialize_pem());
        PeerTls { ca: at("ca.pem".to_owned()), certificate: certificate_path, key: key_path }
    }
}

pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("there is room");
}

/// Three nodes on loopback sockets.
pub struct Sockets {
    pub authority: Option<Authority>,
    addresses: BTreeMap<NodeId, String>,
    pub nodes: BTreeMap<NodeId, Node>,
    folder: TempDir,
}

impl Sockets {
    pub async fn found(authority: Option<Authority>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let mut listeners = BTreeMap::new();
        for node in NODES {
            listeners.insert(node, TcpListener::bind("127.0.0.1:0").await.expect("a port is free"));
        }
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();
        let addresses: BTreeMap<NodeId, String> =
            listeners.iter().map(|(node, listener)| (*node, address(listener))).collect();
        let mut sockets = Self { authority, addresses, nodes: BTreeMap::new(), folder };
        for (node, listener) in listeners {
            let opened = sockets.open(node, listener).await;
            sockets.nodes.insert(node, opened);
        }
        let cluster = sockets.nodes[&NODES[0]].cluster();
        cluster.init(sockets.addresses.clone(), soon()).await.expect("all three are there");
        for node in sockets.nodes.values() {
            machines::wait_until_served(&node.context, soon()).await.expect("it serves");
        }
        sockets
    }

    async fn open(&self, node: NodeId, listener: TcpListener) -> Node {
        let tls = self.authority.as_ref().map(|authority| {
            let PeerTls { ca, certificate, key } = authority.sign(node);
            PeerTlsFiles { ca, certificate, key }
        });
        let peer = PeerOptions {
            way: PeerWay::Listen { listener, tls },
            advertise: self.addresses[&node].clone(),
            routes: BTreeMap::new(),
            clock_skew_max: CLOCK_SKEW_MAX,
        };
        let data = self.folder.path().join(node.to_string());
        let options = NodeOptions { peer: Some(peer), ..node_options(data, node) };
        lend_compiled(&options.data);
        Node::open(options).await.unwrap_or_else(|error| panic!("node {node} starts: {error}"))
    }

    /// A caller in the name of a node, with a certificate of that node.
    fn caller(&self, node: NodeId) -> Grpc {
        let files = self.authority.as_ref().map(|authority| authority.sign(node));
        self.caller_with(node, files)
    }

    pub fn caller_with(&self, node: NodeId, files: Option<PeerTls>) -> Grpc {
        let cluster = self.nodes[&NODES[0]].context.identity.cluster.get().copied();
        let cluster: ClusterId = cluster.expect("it was founded");
        let routes = Routes::default();
        for (node, address) in &self.addresses {
            routes.set(*node, address.clone());
        }
        let certificates = files.map(PeerCertificates::read).transpose().expect("the authority has signed");
        Grpc::new(Identity::member(node, cluster), routes, certificates)
    }
}

async fn check(authority: Option<Authority>) {
    let mut sockets = Sockets::found(authority).await;
    let [one, two, gone] = NODES;
    sockets.nodes.remove(&gone).expect("it runs").close().await.expect("it stops");
    // While it is a node of the cluster, it is heard and its stream stays open.
    let caller = sockets.caller(gone);
    let system = GroupName::new(SYSTEM, PartitionId(0));
    let mut open = caller.appends(one, &system, stream::pending().boxed());
    let seen = Call { topic: Topic::Seen, group: Some(system.clone()), body: bytes::Bytes::new() };
    caller.call(one, seen.clone(), PATIENCE).await.expect("it is one of the cluster");

    let cluster = sockets.nodes[&one].cluster();
    cluster.remove(gone, soon()).await.expect("two of three are there");
    for node in [one, two] {
        let context = &sockets.nodes[&node].context;
        let knows = || context.directory().retired.contains(&gone).then_some(());
        eventually("a removal is known", knows).await;
    }
    let ended = tokio::time::timeout(PATIENCE, open.next()).await.expect("its open stream ends");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
    // Its connections end as well.
    let context = sockets.nodes[&one].context.clone();
    eventually("its connections are closed", || (context.links.count_of(gone) == 0).then_some(())).await;
    let before: Vec<_> = [one, two].map(|node| terms(&sockets.nodes[&node])).into();
    let stranger = NodeId(77);
    for (impostor, words) in [(gone, "node 3 was removed"), (stranger, "node 77 is not in this cluster")] {
        let caller = sockets.caller(impostor);
        for node in [one, two] {
            check_all_refused(&caller, node, vote(u64::MAX, impostor), words).await;
        }
    }
    for (node, before) in [one, two].into_iter().zip(before) {
        let context = &sockets.nodes[&node].context;
        for (group, (term, ..)) in terms(&sockets.nodes[&node]) {
            assert!(term.0 < before[&group].0.0 + 1000, "{group} on node {node} is in term {term}");
        }
        let partition = context.find_replica(&system).expect("it runs");
        partition.read_linearizable(soon()).await.expect("it is led");
    }
    drop(context);
    for (_, node) in sockets.nodes {
        node.close().await.expect("it stops");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_a_node_that_was_removed_or_never_was_is_worth_nothing() {
    check(Some(Authority::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_certificates_a_caller_that_is_no_node_gets_nothing() {
    check(None).await;
}
