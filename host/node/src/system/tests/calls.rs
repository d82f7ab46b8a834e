//! Commands that began before all nodes understood calls by content (feature level 2). They end as they began, while
//! later commands begin in the new way.
//!
//! In: a cluster in which one node is held back, and commands that are stranded between its partitions. Out: what the
//! journals say of these commands once all nodes understand the higher level. This file does not know how the level
//! rises.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::*;
use crate::ids::CommandId;
use crate::machine::entry::Part;
use crate::saga::Derivation;

/// Attempts at finding a command in flight on all nodes.
const ROUNDS_MAX: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_began_at_the_first_level_ends_at_the_next() {
    let mut cluster = Cluster::found_with(Options { held_back: Some(NODES[2]), ..Options::default() }).await;
    let mut load = cluster.load();
    let mut stranded = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        load.more(10).await;
        NODES.into_iter().for_each(|node| cluster.cut_off(node));
        stranded = in_flight_everywhere(&cluster);
        if !stranded.is_empty() {
            break;
        }
        cluster.network.heal();
    }
    assert!(!stranded.is_empty(), "commands are in flight when nothing gets through");
    cluster.cut_power(&NODES);
    for node in NODES {
        cluster.bury(node).await;
        cluster.members.get_mut(&node).expect("it is a node").level_max = features::HIGHEST;
    }
    cluster.network.heal();
    for node in NODES {
        cluster.start(node).await;
    }
    cluster.served().await;
    while Journaled::read(&cluster).started.values().all(|derivation| *derivation == Derivation::ById) {
        load.more(10).await;
    }
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
    let Journaled { started, ended } = Journaled::read(&cluster);
    assert_eq!(started, ended, "what begins ends, and under the ids that it began with");
    for id in &stranded {
        assert_eq!(ended.get(id), Some(&Derivation::ById), "{id} began at the first level");
    }
    println!("{} stranded commands of {}", stranded.len(), started.len());
}

/// The commands that all nodes have in flight.
fn in_flight_everywhere(cluster: &Cluster) -> BTreeSet<CommandId> {
    let on = |node| -> BTreeSet<CommandId> {
        let replicas = cluster.replicas(node);
        let listed = replicas.iter().flat_map(|replica| replica.list_in_flight().expect("it runs"));
        listed.map(|saga| saga.command.id()).collect()
    };
    NODES.into_iter().map(on).reduce(|all, more| all.intersection(&more).copied().collect()).unwrap_or_default()
}

/// How the ids of commands on several partitions are derived, according to their starts and to their ends.
#[derive(Default)]
struct Journaled {
    started: BTreeMap<CommandId, Derivation>,
    ended: BTreeMap<CommandId, Derivation>,
}

impl Journaled {
    fn read(cluster: &Cluster) -> Self {
        let mut found = Self::default();
        for replica in cluster.replicas(NODES[0]) {
            let point = replica.read_stale().expect("it runs");
            let walked = replica.walk_back(&point, |recorded| {
                let entry = &recorded.entry;
                for number in 0..entry.batch().map_or(0, |batch| batch.command_count()) as u32 {
                    let Some(identity) = entry.identity(number, replica.id()) else { continue };
                    match entry.part(number) {
                        Part::Start => drop(found.started.insert(identity.command, identity.derivation)),
                        Part::End => drop(found.ended.insert(identity.command, identity.derivation)),
                        Part::Call(_) | Part::Whole => {}
                    }
                }
                ControlFlow::Continue(())
            });
            walked.expect("the whole journal is here");
        }
        found
    }
}
