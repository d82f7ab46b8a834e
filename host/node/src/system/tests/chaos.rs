//! Messages that arrive late or out of order, or whose answers are lost, under load.
//!
//! In: faults on every connection, drawn from the seed. Out: the judge's verdict. No connection is cut here.

use super::*;

const MS: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_lost_and_reordered_messages_double_nothing_and_lose_nothing() {
    let mut cluster = Cluster::found().await;
    let mut load = cluster.load();
    for _ in 0..rounds(3, 60) {
        for (from, to) in NODES.into_iter().flat_map(|from| others(from).map(move |to| (from, to))) {
            let (network, random) = (&cluster.network, &mut cluster.random);
            let delay = random.random_range(0..15);
            network.delay(from, to, delay * MS..=(delay + random.random_range(0..15)) * MS);
            network.reorder(from, to, random.random_range(0..200));
            network.lose_replies(from, to, random.random_range(0..100));
        }
        load.more(60).await;
    }
    let attempts = load.stop().await;
    cluster.judge_recovered(attempts).await;
}
