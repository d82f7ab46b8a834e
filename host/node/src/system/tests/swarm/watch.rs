//! A client that checks that reads are linearizable. It alone pays into an account, one cent each time, and it reads
//! the account at every node.
//!
//! In: the nodes' routers. Out: what the client asked and was told, or a panic at the first read that misses a
//! payment which was acknowledged before the read began, or which an earlier read has seen. It does not judge
//! payments that were never read.

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::load::{Attempt, Told, ask, balance, open_door};
use super::super::{Doors, LOOK};
use crate::ids::CommandId;
use crate::router::answer::Consistency;

/// The account that pays.
const PAYER: usize = 0;

pub struct Watch {
    stopping: CancellationToken,
    client: JoinHandle<Vec<Attempt>>,
}

impl Watch {
    /// Watches the account with this number, which nobody else pays from or into.
    pub fn start(doors: Doors, accounts: Vec<String>, watched: usize, seed: u64) -> Self {
        let stopping = CancellationToken::new();
        let random = StdRng::seed_from_u64(!seed);
        Self { client: tokio::spawn(watch(doors, accounts, watched, random, stopping.clone())), stopping }
    }

    /// Whether a read has missed something.
    pub fn has_failed(&self) -> bool {
        self.client.is_finished()
    }

    pub async fn stop(self) -> Vec<Attempt> {
        self.stopping.cancel();
        self.client.await.expect("every read sees what was acknowledged before it")
    }
}

async fn watch(
    doors: Doors,
    accounts: Vec<String>,
    watched: usize,
    mut random: StdRng,
    stopping: CancellationToken,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    // The least and the most that the account can have; `None` before the first read.
    let mut bounds: Option<(i128, i128)> = None;
    let mut pace = tokio::time::interval(LOOK);
    while !stopping.is_cancelled() {
        pace.tick().await;
        let Some(door) = open_door(&doors, &mut random) else { continue };
        if let Some((least, most)) = &mut bounds {
            let (id, is_tcc) = (CommandId(random.random()), random.random_bool(0.5));
            let mut attempt = Attempt { id, from: PAYER, to: watched, amount: 1, is_tcc, told: Told::Unknown };
            attempt.told = ask(&door, &accounts, &attempt, is_tcc).await;
            *least += i128::from(matches!(attempt.told, Told::Done(_)));
            *most += i128::from(matches!(attempt.told, Told::Done(_) | Told::Unknown));
            attempts.push(attempt);
        }
        let all: Vec<_> = doors.lock().iter().map(|(node, door)| (*node, door.clone())).collect();
        let account = &accounts[watched];
        let reads = all.iter().map(|(_, door)| balance(door, account, Consistency::Linearizable));
        let mut seen_max = 0;
        for ((node, _), read) in all.iter().zip(join_all(reads).await) {
            let Ok(seen) = read else { continue };
            let (least, most) = *bounds.get_or_insert((seen, seen));
            assert!(least <= seen && seen <= most, "node {node} shows {seen}, which is not in {least}..={most}");
            seen_max = seen_max.max(seen);
        }
        if let Some((least, _)) = &mut bounds {
            *least = seen_max.max(*least);
        }
    }
    attempts
}
