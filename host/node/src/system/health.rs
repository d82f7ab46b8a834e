//! Health: what a node with peers checks at regular intervals, whichever node leads.
//!
//! In: the other nodes. Out: how far their clocks are from this one, hence whether this node may lead; what was seen of
//! their logs, on disk; whether this node's journals are those of their leaders. A journal that differs stops its
//! partition here, for good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::features;
use crate::ids::NodeId;
use crate::partition::Partition;
use crate::peer::GroupName;
use crate::system::clock_anchor::AnchorFile;
use crate::system::clock_round::ask_clock;
use crate::system::clocks::Clocks;
use crate::system::context::NodeContext;
use crate::system::divergence;
use crate::system::error::NodeError;
use crate::system::pulse::Mark;
use crate::system::timekeeping;

/// How often the others are asked for the time, and how long each may take.
const CLOCK_ROUND: Duration = Duration::from_millis(500);
const CLOCK_PATIENCE: Duration = Duration::from_millis(400);
/// Clock rounds between two looks at the journals, and between two beats of this node's pulse.
const ROUNDS_PER_LOOK: u64 = 10;
const ROUNDS_PER_BEAT: u64 = 2;

/// What this task alone writes. It stays if the task is started again.
pub struct Vigil {
    /// What this node believes about its clock, kept for the next process.
    anchor_file: AnchorFile,
    /// The other nodes that have answered lately.
    answering: watch::Sender<BTreeSet<NodeId>>,
}

impl Vigil {
    pub fn new(anchor_file: AnchorFile) -> Self {
        Self { anchor_file, answering: watch::Sender::default() }
    }

    pub fn answering(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.answering.subscribe()
    }

    /// Makes durable what is believed about the clock, if that has changed. Blocks.
    fn keep_anchor(&self, clocks: &Clocks) {
        let Some(anchor) = clocks.anchor() else { return };
        if let Err(error) = self.anchor_file.keep(anchor) {
            tracing::warn!(
                %error,
                "the state of this node's clock could not be written: after a restart the node may know less"
            );
        }
    }
}

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>, vigil: Arc<Vigil>) {
    let mut writing: Option<JoinHandle<()>> = None;
    for round in 0_u64.. {
        // What was seen is written before the others are told of it. A disk that hangs does not hold up the clock
        // round.
        if writing.as_ref().is_none_or(JoinHandle::is_finished) {
            writing = Some(write_what_was_seen(&context, &vigil, round % ROUNDS_PER_BEAT == 0));
        }
        if let Some(writing) = &mut writing {
            drop(tokio::time::timeout(CLOCK_PATIENCE, writing).await);
        }
        let others = context.others();
        let others_count = others.len();
        let asking = others.into_iter().map(|node| ask_clock(&context, node, CLOCK_PATIENCE));
        join_all(asking).await;
        // A node that is about to stop does not stand, because it would have to hand over again at once.
        let may_lead = context.clocks.on_round(others_count);
        let replicas = context.replicas();
        for (_, partition) in &replicas {
            partition.group().stand(may_lead && !context.leaving.is_cancelled());
        }
        let led = replicas.iter().filter(|(_, partition)| partition.is_leader()).count();
        timekeeping::show(&context);
        metrics::gauge!("statehouse_partitions_led").set(led as f64);
        let answering: BTreeSet<NodeId> = context.clocks.samples().into_keys().collect();
        metrics::gauge!("statehouse_nodes_answering").set(answering.len() as f64);
        vigil.answering.send_replace(answering);
        if round % ROUNDS_PER_LOOK == 0 {
            let following = context.replicas().into_iter().filter(|(_, partition)| !partition.is_leader());
            let comparing = following.map(|(group, partition)| divergence::compare(&context, group, partition));
            join_all(comparing).await;
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(CLOCK_ROUND) => {}
        }
    }
}

/// What a node without peers does: it follows its own clock.
pub async fn watch_clock(context: Arc<NodeContext>, vigil: Arc<Vigil>) {
    let mut writing: Option<JoinHandle<()>> = None;
    while !context.stopping.is_cancelled() {
        context.clocks.on_round(0);
        if writing.as_ref().is_none_or(JoinHandle::is_finished) {
            let (clocks, vigil) = (context.clocks.clone(), vigil.clone());
            writing = Some(tokio::task::spawn_blocking(move || vigil.keep_anchor(&clocks)));
        }
        timekeeping::show(&context);
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(CLOCK_ROUND) => {}
        }
    }
}

/// Makes durable what was seen and heard of the others, and lets this node's pulse beat if `beats` says so.
fn write_what_was_seen(context: &Arc<NodeContext>, vigil: &Arc<Vigil>, beats: bool) -> JoinHandle<()> {
    let mark = |(group, replica): (GroupName, Arc<Partition>)| {
        let mark: Mark = (replica.log().durable(), replica.log().vote());
        (group, mark)
    };
    let marks: BTreeMap<GroupName, Mark> = context.replicas().into_iter().map(mark).collect();
    context.pulse.on_round(&marks);
    let counts = context.opening.features.has(features::LOSSES);
    let (context, vigil, is_mended) = (context.clone(), vigil.clone(), counts && context.is_all_open());
    tokio::task::spawn_blocking(move || {
        let flush_seen = || context.seen.flush().map_err(NodeError::from);
        let written = context.pulse.write(Some(&marks).filter(|_| counts && beats), is_mended, flush_seen);
        if let Err(error) = written {
            tracing::warn!(%error, "the record of other nodes' logs, or this node's counter, could not be written");
        }
        vigil.keep_anchor(&context.clocks);
    })
}
