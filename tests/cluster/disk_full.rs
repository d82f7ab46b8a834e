//! The disk of one node fills up: the others continue, and the node catches up on its own when there is space again.
//!
//! It needs a small file system of its own and is skipped, with the reason printed, where mounting is not permitted.

use statehouse_kernel::ids::NodeId;
use statehouse_tests::cluster::Cluster;
use statehouse_tests::disk::Disk;
use statehouse_tests::skipped::skipped;
use statehouse_tests::trial::{SHAPE, Trial};

use crate::alone;

const FULL: NodeId = NodeId(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_full_disk_holds_nobody_up_and_catches_up() {
    let _alone = alone().await;
    let disk = match Disk::mount() {
        Ok(disk) => disk,
        Err(reason) => return skipped(&format!("no file system of its own can be mounted here: {reason}")),
    };
    let trial = Trial::of(Cluster::start_with_folder(SHAPE, FULL, disk.path()).await).await;
    disk.fill();
    // This is more than fits into the segments that are already there.
    for _ in 0..10 {
        trial.progress().await;
    }
    println!("full: {:?} without a successful write", trial.load.take_gap());
    disk.free();
    trial.progress().await;
    trial.finish().await;
}
