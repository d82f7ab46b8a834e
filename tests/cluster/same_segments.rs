//! Journal segments are the same files from every replica, whatever each has lived through.
//!
//! Leaders are killed on the way, so logs have void entries, other terms and other segments. The exported files must
//! not show this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use statehouse_kernel::ids::NodeId;
use statehouse_tests::cluster::Cluster;
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::process::{argument, cli};
use statehouse_tests::trial::{SHAPE, Trial, partitions};
use tempfile::tempdir;

use crate::alone;

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_exports_the_same_files() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    for partition in partitions(SHAPE) {
        let leader = trial.cluster.leader(partition).await;
        trial.cluster.kill(leader);
        trial.progress().await;
        trial.cluster.restart(leader).await;
        trial.cluster.ready_on(leader).await;
    }
    let Trial { mut cluster, load, .. } = trial;
    cluster.ready().await;
    println!("{}", load.stop().await.summary());
    cluster.settle().await;
    // Followers learn a little later than the leader what is committed.
    let same = within(PATIENCE, "all replicas export the same", async || {
        let exported: Vec<BTreeMap<PathBuf, Vec<u8>>> =
            cluster.ids().into_iter().map(|id| export(&cluster, id)).collect();
        exported.iter().all(|files| *files == exported[0]).then(|| exported[0].clone())
    });
    let segments = same.await.into_keys().filter(|path| path.extension().is_some_and(|ending| ending == "journal"));
    assert!(SHAPE.partitions as usize <= segments.count());
}

/// The files that a node's folder exports, by path.
fn export(cluster: &Cluster, id: NodeId) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = tempdir().expect("a temporary folder");
    let exported = cli(["audit", "log", "--data", argument(cluster.data(id)), "--export", argument(folder.path())]);
    assert_eq!(exported.code, Some(0), "node {id}: {exported:?}");
    let verified = cli(["audit", "verify", "--data", argument(folder.path())]);
    assert_eq!(verified.code, Some(0), "node {id}: {verified:?}");
    let mut files = BTreeMap::new();
    collect(folder.path(), folder.path(), &mut files);
    files
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for file in std::fs::read_dir(folder).expect("the folder can be listed") {
        let path = file.expect("the folder can be listed").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).expect("it is below").to_owned();
            files.insert(name, std::fs::read(&path).expect("it can be read"));
        }
    }
}
