//! A clock that is wrong: its node does not lead, and no entry has its time.
//!
//! In: a clock an hour ahead, then right again. Out: who leads, and the journal's time. It knows nothing of how clocks are compared.

use super::load::Told;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

impl Cluster {
    /// Commits one transfer; its entry's time is one at which it was under way, give or take what clocks may differ.
    async fn check_time(&mut self, attempts: &mut Vec<Attempt>) {
        let before = SystemClock.now();
        let mut attempt = self.new_attempt(0, 1);
        attempt.told = self.ask(NODES[1], &attempt, false).await;
        assert!(matches!(attempt.told, Told::Done(_)), "{attempt:?}");
        let after = SystemClock.now();
        self.replica(NODES[1]).read_linearizable(soon()).await.expect("it is led");
        let time = self.replica(NODES[1]).progress().journal.time;
        let skew = i64::try_from(CLOCK_SKEW_MAX.as_micros()).expect("a second fits");
        assert!(before.0 - skew <= time.0 && time.0 <= after.0 + skew, "{} <= {} <= {}", before.0, time.0, after.0);
        attempts.push(attempt);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_an_hour_ahead_does_not_lead_and_journal_time_neither_jumps_nor_freezes() {
    let mut cluster = Cluster::found().await;
    let mut attempts = Vec::new();
    cluster.check_time(&mut attempts).await;

    let wrong = cluster.leader(&NODES).await;
    cluster.members[&wrong].clock.move_to(HOUR);
    // At once, while it may still lead.
    cluster.check_time(&mut attempts).await;
    let right: Vec<NodeId> = others(wrong).collect();
    cluster.leader(&right).await;
    cluster.check_time(&mut attempts).await;

    // Not even when it is asked to.
    let asked = cluster.leader(&right).await;
    drop(cluster.replica(asked).group().transfer_to(wrong).await);
    cluster.check_time(&mut attempts).await;
    cluster.leader(&right).await;

    cluster.members[&wrong].clock.move_to(Duration::ZERO);
    let host = &cluster.node(wrong).host;
    eventually("the clock is believed again", || host.clocks.may_lead().then_some(())).await;
    cluster.check_time(&mut attempts).await;
    cluster.judge(&attempts).await;
}
