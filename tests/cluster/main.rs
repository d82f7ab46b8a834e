//! Every test that needs a cluster, in one binary: each starts three real nodes, and runs alone.
//!
//! In: the REST contract, `statehouse serve` and `statehouse cluster`. Out: what holds, whatever fails. It does not
//! know what is inside the host.

mod planted;
mod dev;
mod renewed;
mod leader_moved;
mod leader_killed;
mod partitioned;
mod minority;
mod paused;
mod all_killed;
mod rolling;
mod activated;
mod last_unit;
mod clock_ahead;
mod disk_full;
mod flipped_bits;
mod lost_data;
mod set_back;
mod majority_wiped;
mod released_log;
mod same_segments;
mod followed;
mod views;
mod webhooks;

use tokio::sync::{Mutex, MutexGuard};

/// Three processes, their clients and an oracle are enough for one machine: every test holds this while it runs.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// How often something is done: a few times in `make test`, many times in `make chaos`.
fn rounds(few: usize, many: usize) -> usize {
    if std::env::var_os("STATEHOUSE_CHAOS").is_some() { many } else { few }
}
