//! All nodes are killed at the same time, as when the power fails: the cluster comes back on its own with everything.

use statehouse_tests::trial::Trial;

use crate::{alone, rounds};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_killed_as_a_whole_comes_back_with_everything() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    for _ in 0..rounds(2, 10) {
        for id in trial.cluster.ids() {
            trial.cluster.kill(id);
        }
        for id in trial.cluster.ids() {
            trial.cluster.restart(id).await;
        }
        trial.cluster.ready().await;
        trial.progress().await;
    }
    trial.finish().await;
}
