//! The faults of a swarm test. Each fault is one variant that says everything about itself. It is drawn from a seed
//! before anything runs, begins with `apply` and is over after `end`.
//!
//! Nodes are named by their place or their role when a fault is drawn, and are chosen when it is applied. This file
//! does not know what a cluster must do about a fault.

use rand::seq::SliceRandom;

use super::super::load::{Told, burst};
use super::super::*;
use super::Swarm;
use crate::disk::SimOp;
use crate::ids::CommandId;

const HOUR: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);
/// The most operations of a disk before it fails.
const OPERATIONS_MAX: f64 = 300.0;
/// The size of a command in a burst that fills the queue of a partition.
const LARGE: usize = 700 << 10;

/// Which node is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The leader of the first partition.
    Leader,
    /// A place among the nodes in order; counting wraps around.
    Place(usize),
    Node(NodeId),
}

/// What a node is doing when its disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    Nothing,
    Snapshot,
    Activation,
    /// The node starts.
    Start,
}

/// Which direction between two nodes is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Out,
    In,
    Both,
}

/// What happens to messages on their way. The counts are out of 1,000 messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways {
    delay: Duration,
    spread: Duration,
    reordered: u32,
    doubled: u32,
    calls_lost: u32,
    replies_lost: u32,
}

#[derive(Clone, Debug)]
pub enum Fault {
    /// Nodes stop in order, one after the other, and start again one after the other.
    Restart { stop: Vec<Who>, start: Vec<Who> },
    /// Nodes lose power at once, and get it back one after the other.
    PowerCut { nodes: Vec<Who> },
    /// One kind of a disk's operations fails after this many have succeeded.
    DiskError { node: Who, op: SimOp, after: u64, busy: Busy },
    /// Syncs do not return, and then fail.
    DiskHang { node: Who, busy: Busy },
    /// Bits flip in the logs of nodes that are down, each in a different entry. The places are in 1,000ths of the
    /// entries that all these nodes have.
    Damage { nodes: Vec<Who>, group: usize, places: Vec<usize> },
    /// Messages between all nodes are late, lost or doubled.
    Messages(Ways),
    /// The connection between one node and another one, or all others, is cut.
    Cut { node: Who, other: Option<Who>, direction: Direction },
    /// Wall clocks leap ahead, and back.
    Clocks { nodes: Vec<Who>, ahead: Duration },
    /// This many transfers arrive at once. If they are large, they are more than a queue has room for.
    Overload { node: Who, count: usize, are_large: bool },
    /// A node is added and another one removed, and in between a third one loses power.
    Replacement { removed: Who, dies: Who },
    /// A disk is an older copy of itself when all nodes get their power back. One peer was away meanwhile, and the
    /// third node starts last.
    SetBack { node: Who, away: Who, away_is_first: bool, forgets_state: bool },
}

impl Fault {
    /// Draws one fault of each kind, in any order.
    pub fn draw_each_kind(random: &mut StdRng) -> Vec<Self> {
        let draws: [fn(&mut StdRng) -> Self; 11] = [
            |random| Self::Restart { stop: some_of(random), start: all_of(random) },
            |random| Self::PowerCut { nodes: some_of(random) },
            draw_disk_error,
            draw_disk_hang,
            draw_damage,
            draw_messages,
            draw_cut,
            |random| Self::Clocks { nodes: some_of(random), ahead: HOUR },
            draw_overload,
            |random| Self::Replacement { removed: Who::Leader, dies: who(random) },
            draw_set_back,
        ];
        // The last kind takes longer than all others, and tests of its own cover it in every run.
        let drawn = if is_chaos() { draws.len() } else { draws.len() - 1 };
        let mut faults: Vec<Self> = draws.into_iter().take(drawn).map(|draw| draw(random)).collect();
        faults.shuffle(random);
        faults
    }

    /// Whether nothing else may be wrong meanwhile: together with another fault, what a recovery needs may rightly be
    /// gone.
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::Damage { .. } | Self::Replacement { .. } | Self::SetBack { .. })
    }

    /// Settles which nodes are meant, given the current state of the cluster.
    pub fn choose(&mut self, cluster: &Cluster) {
        let choose = |who: &mut Who| *who = Who::Node(cluster.choose(*who));
        let choose_all = |all: &mut Vec<Who>| {
            all.iter_mut().for_each(choose);
            let chosen = all.clone();
            let mut place = 0..;
            all.retain(|who| place.next().is_some_and(|at| !chosen[..at].contains(who)));
        };
        match self {
            Self::Restart { stop, start } => {
                choose_all(stop);
                choose_all(start);
            }
            Self::PowerCut { nodes } | Self::Damage { nodes, .. } | Self::Clocks { nodes, .. } => choose_all(nodes),
            Self::DiskError { node, .. } | Self::DiskHang { node, .. } | Self::Overload { node, .. } => choose(node),
            Self::Messages(_) => {}
            Self::Cut { node, other, .. } => {
                choose(node);
                other.iter_mut().for_each(choose);
                let is_same = *other == Some(*node);
                *other = if is_same { Some(Who::Node(cluster.next_to(node.node()))) } else { *other };
            }
            Self::Replacement { removed: one, dies: other } | Self::SetBack { node: one, away: other, .. } => {
                choose(one);
                choose(other);
                if one == other {
                    *other = Who::Node(cluster.next_to(one.node()));
                }
            }
        }
    }

    pub async fn apply(&self, swarm: &mut Swarm) {
        match self {
            Self::Restart { stop, .. } => swarm.stop_each(&nodes(stop)).await,
            Self::PowerCut { nodes: all } => swarm.cut_power(&nodes(all)).await,
            Self::DiskError { node, op, after, busy } => swarm.fail_disk(node.node(), *op, *after, *busy).await,
            Self::DiskHang { node, busy } => swarm.hang_disk(node.node(), *busy).await,
            Self::Damage { nodes: all, group, places } => swarm.damage(&nodes(all), *group, places).await,
            Self::Messages(ways) => swarm.cluster.set_ways(*ways),
            Self::Cut { node, other, direction } => {
                swarm.cluster.each_way(*node, *other, *direction, |from, to| swarm.cluster.network.cut(from, to));
            }
            Self::Clocks { nodes: all, ahead } => swarm.leap(&nodes(all), *ahead).await,
            Self::Overload { node, count, are_large } => {
                swarm.begin_burst(node.node(), *count, if *are_large { LARGE } else { 1 });
            }
            Self::Replacement { removed, dies } => swarm.replace(removed.node(), dies.node()).await,
            Self::SetBack { node, away, away_is_first, forgets_state } => {
                swarm.set_back(node.node(), away.node(), *away_is_first, *forgets_state).await;
            }
        }
    }

    pub async fn end(&self, swarm: &mut Swarm) {
        match self {
            Self::Restart { start: all, .. } | Self::PowerCut { nodes: all } | Self::Damage { nodes: all, .. } => {
                swarm.start_each(&nodes(all)).await;
            }
            Self::DiskError { node, .. } | Self::DiskHang { node, .. } => swarm.mend_disk(node.node()).await,
            Self::Messages(_) => swarm.cluster.set_ways(Ways::default()),
            Self::Cut { node, other, direction } => {
                let network = swarm.cluster.network.clone();
                swarm.cluster.each_way(*node, *other, *direction, |from, to| network.reconnect(from, to));
            }
            Self::Clocks { nodes: all, .. } => swarm.leap(&nodes(all), Duration::ZERO).await,
            // An overload is over when all clients have an answer.
            Self::Overload { .. } => {}
            Self::Replacement { removed, dies } => swarm.end_replacement(removed.node(), dies.node()).await,
            Self::SetBack { .. } => {
                let all = swarm.cluster.members.keys().copied().collect::<Vec<_>>();
                swarm.start_each(&all).await;
            }
        }
    }
}

impl Who {
    fn node(self) -> NodeId {
        let Self::Node(node) = self else { panic!("{self:?}: nodes are chosen before a fault is applied") };
        node
    }
}

fn nodes(all: &[Who]) -> Vec<NodeId> {
    all.iter().map(|who| who.node()).collect()
}

/// Draws the leader more often than another node.
fn who(random: &mut StdRng) -> Who {
    if random.random_bool(0.4) { Who::Leader } else { Who::Place(random.random_range(0..NODES.len())) }
}

fn all_of(random: &mut StdRng) -> Vec<Who> {
    let mut all: Vec<Who> = (0..NODES.len()).map(Who::Place).collect();
    all.shuffle(random);
    all
}

/// Draws one, two or all nodes, each number as often as the others.
fn some_of(random: &mut StdRng) -> Vec<Who> {
    let mut all = all_of(random);
    all.truncate(random.random_range(1..=NODES.len()));
    if all.len() == 1 {
        all[0] = who(random);
    }
    all
}

fn one_of<T: Copy>(random: &mut StdRng, all: &[T]) -> T {
    all[random.random_range(0..all.len())]
}

/// Draws small numbers as often as large ones.
fn log_uniform(random: &mut StdRng, max: f64) -> u64 {
    random.random_range(0.0..max.ln()).exp() as u64
}

fn draw_disk_error(random: &mut StdRng) -> Fault {
    let op = one_of(random, &[SimOp::Read, SimOp::Write, SimOp::Sync]);
    let busy = one_of(random, &[Busy::Nothing, Busy::Snapshot, Busy::Start]);
    Fault::DiskError { node: who(random), op, after: log_uniform(random, OPERATIONS_MAX), busy }
}

fn draw_disk_hang(random: &mut StdRng) -> Fault {
    // All nodes need a while to prepare another module.
    let all = [Busy::Nothing, Busy::Snapshot, Busy::Activation];
    let busy = one_of(random, if is_chaos() { &all[..] } else { &all[..2] });
    Fault::DiskHang { node: who(random), busy }
}

fn draw_damage(random: &mut StdRng) -> Fault {
    let nodes = some_of(random);
    // The newest entries are left out: older ones are in no node's tail any more, except on a node that was away.
    let places = nodes.iter().map(|_| random.random_range(0..950)).collect();
    Fault::Damage { nodes, group: random.random_range(0..1 + PARTITIONS as usize), places }
}

fn draw_messages(random: &mut StdRng) -> Fault {
    let delay = u32::try_from(log_uniform(random, 100.0)).expect("100 at most");
    Fault::Messages(Ways {
        delay: delay * MS,
        spread: random.random_range(0..=delay) * MS,
        reordered: random.random_range(0..300),
        doubled: random.random_range(0..300),
        calls_lost: random.random_range(0..100),
        replies_lost: random.random_range(0..100),
    })
}

fn draw_cut(random: &mut StdRng) -> Fault {
    let other = random.random_bool(0.4).then(|| Who::Place(random.random_range(0..NODES.len())));
    let direction = one_of(random, &[Direction::Out, Direction::In, Direction::Both]);
    Fault::Cut { node: who(random), other, direction }
}

fn draw_overload(random: &mut StdRng) -> Fault {
    // Large transfers take much of this machine's memory.
    let are_large = random.random_bool(0.3) && is_chaos();
    let count = if are_large { 110 } else { random.random_range(200..600) };
    Fault::Overload { node: who(random), count, are_large }
}

fn draw_set_back(random: &mut StdRng) -> Fault {
    let (away_is_first, forgets_state) = (random.random_bool(0.5), random.random_bool(0.7));
    Fault::SetBack { node: who(random), away: who(random), away_is_first, forgets_state }
}

impl Cluster {
    fn choose(&self, who: Who) -> NodeId {
        let all: Vec<NodeId> = self.members.keys().copied().collect();
        let leads = |node: &NodeId| {
            let life = self.members[node].life.as_ref();
            life.and_then(|life| find_replica(life.router())).is_some_and(|replica| replica.is_leader())
        };
        match who {
            Who::Leader => all.iter().copied().find(leads).unwrap_or(all[0]),
            Who::Place(place) => all[place % all.len()],
            Who::Node(node) => node,
        }
    }

    fn next_to(&self, node: NodeId) -> NodeId {
        let mut after = self.members.keys().copied().filter(|other| node < *other);
        after.next().unwrap_or_else(|| *self.members.keys().next().expect("there are nodes"))
    }

    fn set_ways(&self, ways: Ways) {
        let Ways { delay, spread, reordered, doubled, calls_lost, replies_lost } = ways;
        let all = || self.members.keys().copied();
        for (from, to) in all().flat_map(|from| all().map(move |to| (from, to))).filter(|(from, to)| from != to) {
            self.network.delay(from, to, delay..=delay + spread);
            self.network.reorder(from, to, reordered);
            self.network.double_calls(from, to, doubled);
            self.network.lose_calls(from, to, calls_lost);
            self.network.lose_replies(from, to, replies_lost);
        }
    }

    /// Acts on each direction that a cut is about.
    fn each_way(&self, node: Who, other: Option<Who>, direction: Direction, act: impl Fn(NodeId, NodeId)) {
        let node = node.node();
        let is_meant = |with: &NodeId| *with != node && other.is_none_or(|other| other.node() == *with);
        for with in self.members.keys().copied().filter(is_meant) {
            if direction != Direction::In {
                act(node, with);
            }
            if direction != Direction::Out {
                act(with, node);
            }
        }
    }
}

impl Swarm {
    /// Sets wall clocks this far ahead, and waits until most nodes have had time to see it.
    async fn leap(&mut self, nodes: &[NodeId], ahead: Duration) {
        nodes.iter().for_each(|node| self.cluster.members[node].clock.leap_to(ahead));
        for _ in 0..10 {
            let sees = |node: &NodeId| {
                let life = self.cluster.members[node].life.as_ref();
                life.is_none_or(|life| life.context.clocks.leap().is_some() == (ahead != Duration::ZERO))
            };
            if nodes.iter().all(sees) {
                break;
            }
            self.some().await;
        }
    }

    /// Asks a node for many transfers at once, if it runs.
    fn begin_burst(&mut self, node: NodeId, count: usize, padding: usize) {
        let Some(door) = self.cluster.doors.lock().get(&node).cloned() else { return };
        let accounts = self.cluster.bank.accounts.clone();
        let mut random = StdRng::seed_from_u64(self.cluster.random.random());
        // The last account was never opened, and the one before it is watched: neither takes part.
        let open = accounts.len() - 2;
        let draw = |_| {
            let from = random.random_range(0..open);
            let to = (from + random.random_range(1..open)) % open;
            let (id, is_tcc) = (CommandId(random.random()), random.random_bool(0.5));
            Attempt { id, from, to, amount: random.random_range(1..100), is_tcc, told: Told::Unknown }
        };
        let attempts = (0..count).map(draw).collect();
        self.bursts.push(tokio::spawn(burst(door, accounts, attempts, padding)));
    }
}
