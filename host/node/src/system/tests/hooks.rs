//! Webhooks on three nodes: rows and secrets reach every node, also one that was cut off, and outlive the node that
//! delivers.
//!
//! In: what an operator asks, and what the delivering node reports. Out: rows, secrets, refusals. Nothing is sent here.

use statehouse_abi::role;

use super::*;
use crate::ids::{JournalIndex, Position};
use crate::records::command::DeliveryNote;
use crate::records::rejection::RejectionCode;
use crate::router::answer::Caller;
use crate::system::ClusterError;
use crate::system::submit::Wanting;
use crate::system::webhook_row::{LaneRow, RowPosition};
use crate::system::webhooks::{WebhookSettings, WebhookStep};

const SECRET: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];

fn wanting() -> Wanting {
    let caller = Arc::new(Caller::unbound("op", role::ALL));
    Wanting { caller, request_id: "r-1".into(), deadline: soon() }
}

fn at(partition: u32, index: u64) -> RowPosition {
    RowPosition { partition, index, n: 0, head8: [1, 2, 3, 4] }
}

fn settings() -> WebhookSettings {
    let begin: Vec<Position> = (0..PARTITIONS).map(|partition| at(partition, 0).position()).collect();
    let url = "https://example.com/in".to_owned();
    WebhookSettings { url, keys: Vec::new(), kinds: Vec::new(), batch: 1, secret: SECRET.to_vec(), begin }
}

impl Cluster {
    fn hooks(&self, node: NodeId) -> super::super::Cluster {
        self.node(node).cluster()
    }

    async fn leader_of_system(&self, among: &[NodeId]) -> NodeId {
        eventually("one of the nodes leads", || {
            among.iter().copied().find(|node| self.hooks(*node).delivers_webhooks())
        })
        .await
    }

    /// Reports how far the first partition is delivered.
    async fn note(&self, by: NodeId, epoch: u64, index: u64) -> Result<(), ClusterError> {
        let lanes = vec![LaneRow { at: at(0, index), failing: None }];
        let note = DeliveryNote::Progress { lanes, problem: None };
        self.hooks(by).note_webhook(MACHINE, "till", epoch, note, soon()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leads_next_knows_how_far_it_is_and_by_what_it_signs() {
    let mut cluster = Cluster::found().await;
    let away = NODES[2];
    let [first, second] = [NODES[0], NODES[1]];
    cluster.cut_off(away);
    cluster.leader_of_system(&[first, second]).await;
    let row = cluster.hooks(first).create_webhook(MACHINE, "till", settings(), &wanting()).await;
    let row = row.expect("a majority is there");
    assert_eq!(row.by, "op");
    cluster.network.heal();
    let fingerprint = row.secrets[0];
    for node in NODES {
        let known = || cluster.hooks(node).webhooks().get(&(MACHINE.to_owned(), "till".to_owned())).cloned();
        let known = eventually("the row is there", || known().filter(|known| known.secrets == row.secrets)).await;
        assert_eq!(known, row);
        let found = cluster.hooks(node).webhook_secret(fingerprint).await;
        assert_eq!(found.as_deref(), Some(SECRET.as_slice()), "node {node}");
    }
    assert_eq!(cluster.hooks(away).webhook_secret([9; 32]).await, None);

    let leader = cluster.leader_of_system(&NODES).await;
    cluster.note(leader, row.epoch, 5).await.expect("it leads");
    cluster.crash(leader).await;
    let staying: Vec<NodeId> = others(leader).collect();
    let next = cluster.leader_of_system(&staying).await;
    let now = cluster.hooks(next).webhook_now(MACHINE, "till", soon()).await.expect("it is there");
    assert_eq!(now.lanes[0].at.index, 5);
    let step = WebhookStep::Replay(vec![at(0, 2).position()]);
    let replayed = cluster.hooks(next).change_webhook(MACHINE, "till", step, &wanting()).await;
    let replayed = replayed.expect("a majority is there").expect("it is not dropped");
    assert_eq!((replayed.lanes[0].at.index, replayed.secrets.len()), (2, 1));
    let late = cluster.note(next, row.epoch, 9).await.expect_err("this is from before the replay");
    assert!(matches!(&late, ClusterError::Rejected { code: Some(RejectionCode::OutOfDate), .. }), "{late}");
    cluster.note(next, replayed.epoch, 3).await.expect("this is not");

    // A node that was down when the secret changed gets it from a node that has it.
    let step = WebhookStep::Rotate(OTHER.to_vec());
    let rotated = cluster.hooks(next).change_webhook(MACHINE, "till", step, &wanting()).await;
    let rotated = rotated.expect("a majority is there").expect("it is not dropped");
    assert_eq!((rotated.secrets.len(), rotated.lanes[0].at.position().index), (2, JournalIndex(3)));
    cluster.start(leader).await;
    cluster.served().await;
    let mut unnamed = BTreeMap::new();
    let hooks = cluster.hooks(leader);
    eventually("the row is there", || hooks.webhooks().values().any(|row| row.secrets.len() == 2).then_some(())).await;
    hooks.tend_webhook_secrets(&mut unnamed, Duration::ZERO).await;
    assert_eq!(hooks.webhook_secret(rotated.secrets[0]).await.as_deref(), Some(OTHER.as_slice()));
    let dropped = hooks.change_webhook(MACHINE, "till", WebhookStep::Drop, &wanting()).await;
    assert!(dropped.expect("all are there").is_none());
    let folder = cluster.folder.path().join(leader.to_string()).join("webhook-secrets");
    let count = || std::fs::read_dir(&folder).expect("it was made").count();
    hooks.tend_webhook_secrets(&mut unnamed, PATIENCE).await;
    assert_eq!((count(), unnamed.len()), (2, 2), "it may be about to be recorded");
    hooks.tend_webhook_secrets(&mut unnamed, Duration::ZERO).await;
    assert_eq!(count(), 0, "what signs nothing is not kept");
    drop(hooks);
    cluster.judge(&[]).await;
}

/// Such a node used to delete secrets that the others had named since, and kept sending while it was cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_deletes_no_secret_and_delivers_nothing() {
    let cluster = Cluster::found().await;
    let row = cluster.hooks(NODES[0]).create_webhook(MACHINE, "till", settings(), &wanting()).await;
    row.expect("all are there");
    let away = cluster.leader_of_system(&NODES).await;
    let hooks = cluster.hooks(away);
    eventually("the row is there", || Some(hooks.webhooks()).filter(|rows| !rows.is_empty())).await;
    cluster.cut_off(away);
    let staying: Vec<NodeId> = others(away).collect();
    eventually("it says that it delivers no more", || (!hooks.delivers_webhooks()).then_some(())).await;
    let next = cluster.leader_of_system(&staying).await;
    let step = WebhookStep::Rotate(OTHER.to_vec());
    let rotated = cluster.hooks(next).change_webhook(MACHINE, "till", step, &wanting()).await;
    let rotated = rotated.expect("a majority is there").expect("it is not dropped");
    // The state is as if the secret had been stored here before the cut, and recorded after it.
    let folder = cluster.folder.path().join(away.to_string()).join("webhook-secrets");
    let file = folder.join(blake3::Hash::from_bytes(rotated.secrets[0]).to_hex().as_str());
    std::fs::write(&file, OTHER).expect("the folder is there");
    let mut unnamed = BTreeMap::new();
    hooks.tend_webhook_secrets(&mut unnamed, Duration::ZERO).await;
    assert!(file.exists(), "it does not know what is named now");
    cluster.network.heal();
    cluster.served().await;
    hooks.tend_webhook_secrets(&mut unnamed, Duration::ZERO).await;
    assert!(file.exists(), "it is named");
    drop(hooks);
    cluster.judge(&[]).await;
}
