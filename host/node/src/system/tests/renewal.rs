//! A cluster over real sockets whose nodes take new certificates while clients' commands continue. The old
//! certificates expire, and their authority is replaced in two steps.
//!
//! In: three nodes, two authorities, a load. Out: commands that are carried out at every step, money that is all
//! there, and refusals of callers whose certificates are no longer worth anything.

use super::load::{Told, balance};
use super::sockets::{Authority, Sockets, write};
use super::*;
use crate::peer::{Call, GroupName, Network, PeerTls, Topic};
use crate::router::answer::Consistency;
use crate::system::PeerTlsFiles;
use crate::system::logic::SYSTEM;

const ENOUGH: usize = 30;

/// The same files, except that all of these authorities are trusted.
fn trusting(files: PeerTls, authorities: &[&Authority]) -> PeerTls {
    let text = |authority: &&Authority| std::fs::read_to_string(authority.sign(NodeId(9)).ca).expect("it is there");
    let ca = files.certificate.with_extension("trusted.pem");
    write(&ca, &authorities.iter().map(text).collect::<String>());
    PeerTls { ca, ..files }
}

/// Copies the files to names of their own, because this node's next files replace those that it has.
fn kept(files: &PeerTls) -> PeerTls {
    let copy = |path: &Path, ending: &str| {
        let kept = path.with_extension(ending);
        std::fs::copy(path, &kept).expect("there is room");
        kept
    };
    let (certificate, key) = (copy(&files.certificate, "kept.pem"), copy(&files.key, "kept.key"));
    PeerTls { ca: files.ca.clone(), certificate, key }
}

fn files(of: &PeerTls) -> PeerTlsFiles {
    let PeerTls { ca, certificate, key } = of.clone();
    PeerTlsFiles { ca, certificate, key }
}

/// Has one node after the other take its new files, with commands in between.
async fn renew(sockets: &Sockets, load: &mut Load, new: impl Fn(NodeId) -> PeerTls) {
    for (node, running) in &sockets.nodes {
        let renewal = running.certificate_renewal().expect("it has certificates");
        let read = renewal.read(files(&new(*node))).expect("they are good");
        renewal.replace(&read);
        load.more(ENOUGH / 3).await;
    }
    load.more(ENOUGH).await;
}

/// What node 1 answers a caller that has these files and speaks in the name of node 3.
async fn ask(sockets: &Sockets, files: PeerTls) -> Result<bytes::Bytes, crate::consensus::PeerError> {
    let group = Some(GroupName::new(SYSTEM, PartitionId(0)));
    let call = Call { topic: Topic::Seen, group, body: bytes::Bytes::new() };
    sockets.caller_with(NODES[2], Some(files)).call(NODES[0], call, PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_on_while_certificates_expire_and_their_authority_is_replaced() {
    let new = Authority::new();
    let sockets = Sockets::found(Some(Authority::new())).await;
    let old = sockets.authority.as_ref().expect("it has signed");
    let router = sockets.nodes[&NODES[0]].router().clone();
    let bank = Bank::open_by(&router, 7).await;
    let doors = sockets.nodes.iter().map(|(node, running)| (*node, running.router().clone())).collect();
    let mut load = Load::start(Arc::new(Mutex::new(doors)), bank.accounts.clone(), 7);
    load.more(ENOUGH).await;

    // Node 3 takes a certificate that ends soon, and another one before that ends.
    let renewal = sockets.nodes[&NODES[2]].certificate_renewal().expect("it has certificates");
    let sign = || kept(&old.sign_until(NODES[2], Some(Micros(SystemClock.now().0 + 6_000_000))));
    let taken = || {
        let short = sign();
        let read = renewal.read(files(&short)).ok()?;
        renewal.replace(&read);
        Some(short)
    };
    let short = eventually("it is taken before it ends", taken).await;
    load.more(ENOUGH).await;
    renew(&sockets, &mut load, |node| old.sign(node)).await;
    let refused = eventually("it expires", || renewal.read(files(&short)).err()).await;
    assert!(refused.to_string().contains("would refuse it"), "{refused}");
    load.more(ENOUGH).await;
    let answer = ask(&sockets, short).await;
    assert!(answer.is_err(), "what has expired opens nothing: {answer:?}");

    // First all nodes trust both authorities and get certificates of the new one; then they trust the new one alone.
    let both = [old, &new];
    renew(&sockets, &mut load, |node| trusting(old.sign(node), &both)).await;
    renew(&sockets, &mut load, |node| trusting(new.sign(node), &both)).await;
    ask(&sockets, trusting(old.sign(NODES[2]), &both)).await.expect("both are trusted");
    renew(&sockets, &mut load, |node| new.sign(node)).await;
    let answer = ask(&sockets, trusting(old.sign(NODES[2]), &both)).await;
    assert!(answer.is_err(), "the old authority is trusted no more: {answer:?}");
    ask(&sockets, new.sign(NODES[2])).await.expect("the new one is");

    let attempts = load.stop().await;
    let is_definite = |attempt: &&Attempt| matches!(attempt.told, Told::Done(_) | Told::Rejected(..));
    let definite = attempts.iter().filter(is_definite).count();
    println!("{definite} of {} commands have an outcome", attempts.len());
    let mut sum = 0;
    for account in bank.accounts.iter().take(bank.accounts.len() - 1) {
        sum += balance(&router, account, Consistency::Linearizable).await.expect("it is led");
    }
    assert_eq!(sum, 10_000 * (bank.accounts.len() as i128 - 1), "no money is made or lost");
    for (_, node) in sockets.nodes {
        node.close().await.expect("it stops");
    }
}
