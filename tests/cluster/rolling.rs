//! A rolling restart, as for an upgrade: one node after the other is stopped in order and started again, under load.

use statehouse_tests::trial::Trial;

use crate::alone;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_is_no_outage() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    for id in trial.cluster.ids() {
        trial.load.take_gap();
        trial.cluster.terminate(id).await;
        trial.progress().await;
        println!("node {id} stopped: {:?} without a successful write", trial.load.take_gap());
        trial.cluster.restart(id).await;
        trial.cluster.ready_on(id).await;
        trial.progress().await;
    }
    trial.finish().await;
}
