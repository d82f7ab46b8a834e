//! From one node to another, over the real network and the simulated one: complete, in pieces, after a break, and with
//! a wrong byte.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use rand::RngCore;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::consensus::{AppendReply, PeerReply, PeerRequest};
use crate::ids::ClusterId;
use crate::limits;
use crate::peer::{
    Call, GroupName, Grpc, Identity, Links, Network, PeerOptions, Routes, Service, ServiceError, SimNetwork,
    serve_peers,
};

const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);
const ALL: usize = usize::MAX;

fn group() -> GroupName {
    GroupName::new("wallet", PartitionId(3))
}

/// A node that has a snapshot to send.
struct Sender {
    snapshots: Arc<Snapshots>,
    /// The connection breaks after this many pieces.
    pieces_left: AtomicUsize,
    /// The first byte of the piece with this number, counted back from `pieces_left`, is wrong.
    wrong_at: AtomicUsize,
    /// The requests so far.
    asked: Mutex<Vec<Bytes>>,
}

impl Service for Sender {
    fn raft(&self, _: NodeId, group: GroupName, _: PeerRequest) -> BoxFuture<'static, Result<PeerReply, ServiceError>> {
        async move { Err(ServiceError::NoGroup(group)) }.boxed()
    }

    fn appends(
        &self,
        _: NodeId,
        group: GroupName,
        _: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, ServiceError>> {
        stream::once(async move { Err(ServiceError::NoGroup(group)) }).boxed()
    }

    fn call(&self, _: NodeId, _: Call, _: std::time::Duration) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        async move { Err(ServiceError::Failed("nothing is asked so".to_owned())) }.boxed()
    }

    fn fetch(
        &self,
        _: NodeId,
        call: Call,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError>> {
        self.asked.lock().push(call.body.clone());
        let pieces = serve(&self.snapshots, &call.body);
        let pieces = pieces.map(|pieces| {
            let left = self.pieces_left.load(Ordering::Relaxed);
            let wrong_at = self.wrong_at.load(Ordering::Relaxed);
            let spoil = move |(number, piece): (usize, Result<Bytes, ServiceError>)| {
                if left <= number {
                    return Err(ServiceError::Failed("the way is cut".to_owned()));
                }
                let mut piece = piece?.to_vec();
                assert!(piece.len() <= limits::SNAPSHOT_PIECE_BYTES);
                if number == wrong_at {
                    piece[0] ^= 1;
                }
                Ok(Bytes::from(piece))
            };
            pieces.enumerate().map(spoil).boxed()
        });
        async move { pieces }.boxed()
    }
}

/// A node with a snapshot at 9 of about 3 MiB, and another node's connection to it.
struct Pair {
    sender: Arc<Sender>,
    network: Arc<dyn Network>,
    receiver: TempDir,
    _source: Replica,
    _stop: Option<DropGuard>,
}

impl Pair {
    fn new(make: impl FnOnce(Arc<Sender>) -> (Arc<dyn Network>, Option<DropGuard>)) -> Self {
        let source = Replica::new();
        // The row cannot be compressed.
        let mut row = vec![0; 3 * limits::SNAPSHOT_PIECE_BYTES];
        rand::rng().fill_bytes(&mut row);
        source.apply(9, &row);
        let snapshots = open(source.path());
        source.snapshot(&snapshots);
        let sender = Arc::new(Sender {
            snapshots: Arc::new(snapshots),
            pieces_left: AtomicUsize::new(ALL),
            wrong_at: AtomicUsize::new(ALL),
            asked: Mutex::default(),
        });
        let (network, stop) = make(sender.clone());
        let replica = Replica::new();
        replica.apply(4, b"old");
        Self { sender, network, receiver: replica.close(), _source: source, _stop: stop }
    }

    fn simulated() -> Self {
        Self::new(|sender| {
            let network = SimNetwork::new(1);
            network.join(THERE, sender.clone());
            (network.join(HERE, sender), None)
        })
    }

    async fn real() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let cluster = ClusterId([7; 16]);
        Self::new(|sender| {
            let stop = CancellationToken::new();
            let options =
                PeerOptions { identity: Identity::member(THERE, cluster), certificates: None, links: Links::default() };
            tokio::spawn(serve_peers(listener, options, sender, stop.clone().cancelled_owned()));
            let routes = Routes::default();
            routes.set(THERE, address.to_string());
            let network = Grpc::new(Identity::member(HERE, cluster), routes, None);
            (Arc::new(network), Some(stop.drop_guard()))
        })
    }

    async fn receive(&self) -> Result<(), TransferError> {
        let offer = self.sender.snapshots.newest().expect("it was made").offer.clone();
        let incoming = IncomingSnapshot::open(Arc::new(RealDisk), self.receiver.path(), &stream().to_string(), &offer)
            .expect("it is an offer");
        receive(&*self.network, THERE, &group(), incoming).await
    }

    /// The requests since the last call.
    fn asked(&self) -> Vec<Bytes> {
        std::mem::take(&mut *self.sender.asked.lock())
    }

    fn check_received(&self) {
        let offered = &self.sender.snapshots.newest().expect("it was made").manifest;
        for file in &offered.files {
            let received = install_folder(self.receiver.path()).join(&file.name);
            assert_eq!(files::hash(&RealDisk, &received).expect("it is there"), file.hash, "{}", file.name);
        }
        assert_eq!(finish(self.receiver.path()), Some(id(9)));
        let (applied, row, ids, is_known) = content(self.receiver.path());
        assert_eq!((applied, ids, is_known), (Some(LogIndex(9)), JournalIndex(9), true));
        assert!(row.is_some_and(|row| limits::SNAPSHOT_PIECE_BYTES < row.len()));
    }
}

async fn a_snapshot_arrives_whole(pair: Pair) {
    pair.receive().await.expect("nothing is in the way");
    assert_eq!(pair.asked().len(), pair.sender.snapshots.newest().expect("there is one").manifest.files.len());
    pair.check_received();
}

async fn after_a_cut_it_goes_on_where_it_was(pair: Pair) {
    pair.sender.pieces_left.store(1, Ordering::Relaxed);
    let error = pair.receive().await.expect_err("the way is cut").to_string();
    assert!(error.contains("the way is cut"), "{error}");
    let first = pair.asked();
    pair.sender.pieces_left.store(ALL, Ordering::Relaxed);
    pair.receive().await.expect("the way is healed");
    let second = pair.asked();
    let cut = first.last().expect("it asked");
    assert!(!second.contains(cut), "nothing is fetched twice from its beginning");
    assert!(first[..first.len() - 1].iter().all(|whole| !second.contains(whole)), "what was whole is not asked again");
    pair.check_received();
}

async fn a_wrong_byte_is_refused_and_fetched_again(pair: Pair) {
    // The byte is in the second piece, so in the one file that has several.
    pair.sender.wrong_at.store(1, Ordering::Relaxed);
    let error = pair.receive().await.expect_err("a byte is wrong").to_string();
    assert!(error.contains("is not what its manifest says"), "{error}");
    assert!(!install_folder(pair.receiver.path()).exists());
    let first = pair.asked();
    pair.sender.wrong_at.store(ALL, Ordering::Relaxed);
    pair.receive().await.expect("all bytes are right");
    assert_eq!(pair.asked()[0], *first.last().expect("it asked"), "that file is fetched again, from its beginning");
    pair.check_received();
}

async fn another_offer_begins_anew(pair: Pair) {
    pair.sender.pieces_left.store(1, Ordering::Relaxed);
    pair.receive().await.expect_err("the way is cut");
    pair.sender.pieces_left.store(ALL, Ordering::Relaxed);
    pair.asked();
    pair._source.apply(11, b"later");
    pair._source.snapshot(&pair.sender.snapshots);
    pair.receive().await.expect("nothing is in the way");
    assert_eq!(pair.asked().len(), pair.sender.snapshots.newest().expect("there is one").manifest.files.len());
    assert_eq!(finish(pair.receiver.path()), Some(id(11)));
}

macro_rules! over_both {
    ($($promise:ident => $real:ident, $simulated:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $real() {
                $promise(Pair::real().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $simulated() {
                $promise(Pair::simulated()).await;
            }
        )*
    };
}

over_both! {
    a_snapshot_arrives_whole => whole_over_sockets, whole_in_simulation;
    after_a_cut_it_goes_on_where_it_was => cut_over_sockets, cut_in_simulation;
    a_wrong_byte_is_refused_and_fetched_again => wrong_byte_over_sockets, wrong_byte_in_simulation;
    another_offer_begins_anew => another_offer_over_sockets, another_offer_in_simulation;
}
