//! The cost of idle nodes: their share of a core, from `/proc`.
//!
//! In: process ids. Out: percent of one core each, over some seconds. It starts no process and asks no node.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::sleep;

/// The unit of the times in `/proc/<pid>/stat` on every architecture of Linux that the host runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Percent of one core for each process, over this many seconds.
pub async fn percent_of_a_core(pids: &[u32], seconds: u64) -> anyhow::Result<Vec<f64>> {
    let before = ticks(pids)?;
    let started = Instant::now();
    sleep(Duration::from_secs(seconds)).await;
    let after = ticks(pids)?;
    let all = started.elapsed().as_secs_f64() * TICKS_PER_SECOND;
    Ok(before.iter().zip(after).map(|(before, after)| (after - before) as f64 * 100.0 / all).collect())
}

fn ticks(pids: &[u32]) -> anyhow::Result<Vec<u64>> {
    let read = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("a node is not running any more")?;
        ticks_of(&stat).with_context(|| format!("/proc/{pid}/stat is not as expected: {stat}"))
    };
    pids.iter().map(read).collect()
}

/// User and system time. The program's name may hold blanks and brackets, so fields are counted after its last bracket.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 1 0 123 45 6 7 20 0 9 0 100 0 0";
        assert_eq!(ticks_of(stat), Some(168));
        assert_eq!(ticks_of("42 (cut) S 1"), None);
        assert_eq!(ticks_of(""), None);
    }
}
