//! Swarm tests: one seed draws a sequence of faults of every kind against a cluster under load. After some of them
//! all faults end, the cluster must recover, and what it has is judged.
//!
//! ```text
//! seed ─▶ plan: steps of one or two faults ─▶ apply ─ commands ─▶ end ─ … ─▶ liveness ─▶ commands again ─▶ the judge
//! ```
//! In: a seed. Out: nothing, or a panic with the seed and the faults so far. The plan is made before anything runs,
//! from the seed alone, and names nodes by their place or their role. A fault waits for answers and states, never for
//! time.

mod disks;
mod faults;
mod members;
mod watch;

use rand::seq::SliceRandom;
use tokio::task::JoinHandle;

use super::load::Manner;
use super::*;
use crate::ids::ModuleId;
use faults::Fault;
use watch::Watch;

/// The seed of every run that asks for no other. The faults are then the same, so a failing run says something about
/// what was changed.
const SEED_USUAL: u64 = 12;
/// The number of faults in one run.
const FAULTS_FEW: usize = 6;
const FAULTS_MANY: usize = 22;
/// The number of faults between two quiet moments, at which nothing is wrong.
const FAULTS_TO_QUIET: usize = 3;
/// The number of transfers while a fault lasts, if the cluster works nevertheless.
const SOME: usize = 30;
/// How long a client waits. Where nobody leads, a fault lasts about as long.
const DEADLINE: Duration = Duration::from_secs(1);
/// The number of transfers that are sent again in a quiet moment.
const AGAIN: usize = 48;
/// The share of the faults that begin while another one lasts, among those that may.
const SHARE_OF_SECONDS: f64 = 0.4;

/// A cluster under load, and what has happened to it so far.
struct Swarm {
    cluster: Cluster,
    /// The clients run except in quiet moments.
    clients: Option<Clients>,
    /// The number of generations of clients so far; each makes random choices of its own.
    generation: u64,
    /// What clients asked, and what they were told.
    attempts: Vec<Attempt>,
    /// What somebody waits for while faults last. The wait must end, no matter how.
    begun: Vec<JoinHandle<()>>,
    bursts: Vec<JoinHandle<Vec<Attempt>>>,
    applied: Applied,
    node_last: NodeId,
    /// The module that decides at first, and the other one, once all nodes have prepared it.
    modules: Option<[ModuleId; 2]>,
}

struct Clients {
    load: Load,
    watch: Watch,
}

/// The faults so far, which are printed when a run fails.
struct Applied {
    seed: u64,
    faults: Vec<String>,
    since_quiet: usize,
}

impl Drop for Applied {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{SEED_VARIABLE}={} failed after these faults:\n  {}", self.seed, self.faults.join("\n  "));
        }
    }
}

/// The plan of a run. The same seed gives the same plan.
fn plan(seed: u64, count: usize) -> Vec<Vec<Fault>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    while faults.len() < count {
        faults.extend(Fault::draw_each_kind(&mut random));
    }
    faults.truncate(count);
    let mut steps: Vec<Vec<Fault>> = Vec::new();
    for fault in faults {
        let is_first = |step: &&mut Vec<Fault>| step.len() == 1 && !fault.is_alone() && !step[0].is_alone();
        match steps.last_mut().filter(is_first) {
            Some(step) if random.random_bool(SHARE_OF_SECONDS) => step.push(fault),
            _ => steps.push(vec![fault]),
        }
    }
    steps
}

impl Swarm {
    async fn found(seed: u64) -> Self {
        let cluster = Cluster::found_as(seed, Options::default()).await;
        cluster.rises(&NODES).await;
        let mut swarm = Self {
            cluster,
            clients: None,
            generation: 0,
            attempts: Vec::new(),
            begun: Vec::new(),
            bursts: Vec::new(),
            applied: Applied { seed, faults: Vec::new(), since_quiet: 0 },
            node_last: NODES[NODES.len() - 1],
            modules: None,
        };
        if is_chaos() {
            swarm.prepare_module().await;
        }
        swarm.start_clients();
        swarm
    }

    async fn run(mut self, steps: Vec<Vec<Fault>>) {
        for mut step in steps {
            let is_alone = step.iter().any(Fault::is_alone);
            if is_alone || FAULTS_TO_QUIET <= self.applied.since_quiet {
                self.quiet().await;
            }
            for fault in &mut step {
                self.some().await;
                fault.choose(&self.cluster);
                println!("{fault:?}");
                self.applied.faults.push(format!("{fault:?}"));
                self.applied.since_quiet += 1;
                fault.apply(&mut self).await;
            }
            for fault in &step {
                self.some().await;
                fault.end(&mut self).await;
            }
            self.some().await;
            if is_alone {
                self.quiet().await;
            }
        }
        self.quiet().await;
    }

    fn start_clients(&mut self) {
        self.generation += 1;
        let (accounts, doors) = (self.cluster.bank.accounts.clone(), self.cluster.doors.clone());
        // The last account was never opened; the one before it is watched.
        let watched = accounts.len() - 2;
        let seed = self.cluster.seed.wrapping_add(self.generation);
        let manner = Manner { left_out: Some(watched), deadline: DEADLINE };
        let load = Load::start_as(doors.clone(), accounts.clone(), manner, seed);
        self.clients = Some(Clients { load, watch: Watch::start(doors, accounts, watched, seed) });
    }

    /// Lets clients run for a while, if there is a node to ask. Any answer counts.
    async fn some(&mut self) {
        let clients = self.clients.as_mut().filter(|_| !self.cluster.doors.lock().is_empty());
        if let Some(clients) = clients {
            clients.load.some(SOME).await;
            assert!(!clients.watch.has_failed(), "every read sees what was acknowledged before it");
        }
    }

    /// Ends all faults and lets the cluster recover. A client that asks again must be told the same, and the judge
    /// must find nothing.
    async fn quiet(&mut self) {
        if self.applied.since_quiet == 0 {
            return;
        }
        self.applied.since_quiet = 0;
        let clients = self.clients.take().expect("they run");
        self.attempts.extend(clients.load.stop().await);
        self.attempts.extend(clients.watch.stop().await);
        for burst in self.bursts.drain(..) {
            self.attempts.extend(burst.await.expect("it is answered"));
        }
        for begun in self.begun.drain(..) {
            let ended = tokio::time::timeout(PATIENCE, begun).await;
            ended.expect("nobody waits for a fault for ever").expect("it does not panic");
        }
        self.attempts.extend(self.cluster.recovers().await);
        let (again, _) = self.attempts.partial_shuffle(&mut self.cluster.random, AGAIN);
        self.cluster.send_all_again(again).await;
        self.cluster.bank.judge(&self.cluster, &self.attempts).await;
        self.start_clients();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_recovers_from_whatever_faults_a_seed_draws_and_no_promise_is_broken() {
    let first = if is_chaos() { seed_of_run() } else { seed_asked().unwrap_or(SEED_USUAL) };
    for round in 0..rounds(1, 4) as u64 {
        // A round that fails is repeated as the first round of its own seed.
        let seed = first.wrapping_add(round);
        Swarm::found(seed).await.run(plan(seed, rounds(FAULTS_FEW, FAULTS_MANY))).await;
    }
}
