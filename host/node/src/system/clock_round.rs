//! The clock round: every half second each node asks every other one what time it is there. With that they tell each
//! other what the rest of the host remembers: addresses, feature levels, what their logs hold, how they voted, whether
//! they stop.
//!
//! In: a question or an answer of another node. Out: what it says, handed to the parts that keep it. It does not know
//! what time is believed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::features::{self, FeatureLevel};
use crate::ids::{LogIndex, Micros, NodeId, PartitionId, Term};
use crate::log::EntryId;
use crate::partition::Partition;
use crate::peer::{Call, GroupName, Topic};
use crate::system::clocks::{Heard, Look};
use crate::system::context::NodeContext;
use crate::system::messages::{decode, encode};
use crate::system::pulse::{GroupVote, VoteTold};
use crate::system::{cluster_founding, peer_permissions};

/// The body of [`Topic::Clock`] from a node that is about to stop; nodes of earlier releases do not look at it.
const LEAVING: &[u8] = b"leaving";
/// The body of a clock question by a node that only wants to know the level: it relies on nothing that the asked node
/// may have lost.
pub const LEVEL_ONLY: &[u8] = b"level";

/// The answer to [`Topic::Clock`].
#[derive(Clone, Debug, Encode, Decode)]
pub struct ClockAnswer {
    #[n(0)]
    pub time: i64,
    #[n(1)]
    pub http: Option<String>,
    /// What this node's logs hold, for the others to remember. A leader learns it with every append; but nobody else
    /// would learn what a leader holds itself.
    #[n(2)]
    pub held: Vec<HeldEntry>,
    /// The highest feature level that this node understands; nodes of the first release do not say it.
    #[n(3)]
    pub feature_level_max: Option<u32>,
    /// Whether this node knows who is in the cluster now; nodes of the first release do not say it.
    #[n(4)]
    pub is_level: Option<bool>,
    /// Whether this node is about to stop, so that it must not be asked to lead; nodes of earlier releases do not say
    /// it.
    #[n(5)]
    pub is_stopping: Option<bool>,
    /// What its wall clock shows, where `time` is what it believes; nodes below the level of `TIMELINES` do not say it.
    #[n(6)]
    pub wall: Option<i64>,
    /// What time it is in the journals that it leads; nodes below that level do not say it.
    #[n(7)]
    pub journals: Option<Vec<JournalTime>>,
    /// This node's counter (see `pulse`), once the cluster has reached [`features::LOSSES`] and all replicas are open
    /// here.
    #[n(8)]
    pub pulse: Option<u64>,
    /// Whether this node belongs to a cluster: a member that does not has lost its data. Nodes of earlier releases do
    /// not say it.
    #[n(9)]
    pub is_of_cluster: Option<bool>,
    /// The partitions whose log is damaged here, so that another node should lead them, if there are any; nodes of
    /// earlier releases do not say it.
    #[n(10)]
    damaged: Option<Vec<DamagedReplica>>,
}

/// A partition whose log is damaged on the node that says it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct DamagedReplica {
    #[n(0)]
    machine: String,
    #[n(1)]
    partition: u32,
}

/// What time it is in a journal, as its leader says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JournalTime {
    #[n(0)]
    pub machine: String,
    #[n(1)]
    pub partition: u32,
    #[n(2)]
    pub time: i64,
}

/// The body of [`Topic::Clock`] from [`features::LOSSES`] on: the node that asks tells the same about itself.
#[derive(Clone, Debug, Encode, Decode)]
struct ClockQuestion {
    #[n(0)]
    is_stopping: bool,
    #[n(1)]
    held: Vec<HeldEntry>,
    #[n(2)]
    pulse: Option<u64>,
}

impl ClockAnswer {
    pub fn understands(&self) -> FeatureLevel {
        self.feature_level_max.map_or(features::BASE, FeatureLevel)
    }
}

/// The last durable entry of a group.
#[derive(Clone, Debug, Encode, Decode)]
pub struct HeldEntry {
    #[n(0)]
    machine: String,
    #[n(1)]
    partition: u32,
    /// Term, node and index.
    #[n(2)]
    last: (u64, u64, u64),
    /// How the node has voted; from [`features::LOSSES`] on.
    #[n(3)]
    vote: Option<VoteTold>,
}

/// Answers [`Topic::Clock`].
pub fn answer(context: &NodeContext, from: NodeId, body: &[u8]) -> Bytes {
    if body != LEVEL_ONLY {
        note_lost_data(context, from);
    }
    let question = decode::<ClockQuestion>(body).ok();
    if body == LEAVING || question.as_ref().is_some_and(|question| question.is_stopping) {
        context.clocks.on_leaving(from);
    }
    if let Some(ClockQuestion { held, pulse, .. }) = question {
        on_told(context, from, held, pulse);
    }
    encode(&clock_answer(context))
}

fn clock_answer(context: &NodeContext) -> ClockAnswer {
    let (look, says_times) = (context.clocks.look(), context.opening.features.has(features::TIMELINES));
    ClockAnswer {
        time: look.believed.0,
        http: context.http.clone(),
        held: held(context),
        feature_level_max: Some(context.level.max().0),
        is_level: Some(context.is_level()),
        is_stopping: Some(context.leaving.is_cancelled()),
        wall: says_times.then_some(look.wall.0),
        journals: says_times.then(|| journals_led(context)),
        pulse: pulse_told(context),
        is_of_cluster: Some(context.folder.identity().is_some()),
        damaged: Some(damaged(context)).filter(|damaged| !damaged.is_empty()),
    }
}

fn damaged(context: &NodeContext) -> Vec<DamagedReplica> {
    let damaged = context.replicas().into_iter().filter(|(_, replica)| replica.log().is_damaged());
    let name = |(group, _): (GroupName, _)| DamagedReplica {
        machine: group.machine.to_string(),
        partition: group.partition.0,
    };
    damaged.map(name).collect()
}

fn journals_led(context: &NodeContext) -> Vec<JournalTime> {
    let led = context.replicas().into_iter().filter(|(_, replica)| replica.is_leader());
    let time = |(group, replica): (GroupName, Arc<Partition>)| JournalTime {
        machine: group.machine.to_string(),
        partition: group.partition.0,
        time: replica.present().0,
    };
    led.map(time).collect()
}

/// Asks another node what time it is there, and tells the clocks.
pub async fn ask_clock(context: &NodeContext, node: NodeId, patience: Duration) {
    let is_stopping = context.leaving.is_cancelled();
    let body = if context.opening.features.has(features::LOSSES) {
        encode(&ClockQuestion { is_stopping, held: held(context), pulse: pulse_told(context) })
    } else {
        Bytes::from_static(if is_stopping { LEAVING } else { b"" })
    };
    let call = Call { topic: Topic::Clock, group: None, body };
    let asked = context.clocks.look();
    let answer = match context.network.call(node, call, patience).await {
        Ok(answer) => answer,
        Err(error) if peer_permissions::says_removed(&error) => return context.directory_requests.on_removed(),
        Err(_) => return,
    };
    let Ok(answer) = decode::<ClockAnswer>(&answer) else { return };
    let feature_level_max = answer.understands();
    let ClockAnswer { time, http, held, is_level, is_stopping, wall, journals, pulse, is_of_cluster, damaged, .. } =
        answer;
    let look = Look { wall: Micros(wall.unwrap_or(time)), believed: Micros(time) };
    let name = |DamagedReplica { machine, partition }| GroupName::new(machine.as_str(), PartitionId(partition));
    let damaged = damaged.into_iter().flatten().map(name).collect();
    let heard = Heard { look, http, feature_level_max, is_stopping: is_stopping == Some(true), damaged };
    context.clocks.on_answer(node, heard, asked, context.clocks.look());
    for JournalTime { machine, partition, time } in journals.into_iter().flatten() {
        if let Some(machine) = context.find_machine(&machine) {
            machine.on_journal_time(PartitionId(partition), Micros(time));
        }
    }
    on_told(context, node, held, pulse);
    // A member that belongs to no cluster has lost everything: what it is told would make it a member again.
    if is_level == Some(false) && is_of_cluster != Some(false) {
        cluster_founding::tell_who_is_in(context, node).await;
    }
}

/// Notes what another node tells about its logs.
fn on_told(context: &NodeContext, node: NodeId, held: Vec<HeldEntry>, pulse: Option<u64>) {
    let mut votes = Vec::new();
    for HeldEntry { machine, partition, last: (term, by, index), vote } in held {
        let last = EntryId { term: Term(term), node: NodeId(by), index: LogIndex(index) };
        let group = GroupName::new(machine.as_str(), PartitionId(partition));
        context.seen.on_told(node, &group, last);
        votes.extend(vote.map(|vote| GroupVote { machine, partition, vote }));
    }
    // The counter comes after the entries, so that what was heard is never on disk before what was seen.
    if let Some(pulse) = pulse {
        context.pulse.on_told(node, pulse, votes);
    }
}

fn held(context: &NodeContext) -> Vec<HeldEntry> {
    let tells_votes = context.opening.features.has(features::LOSSES);
    let of = |(group, replica): (GroupName, Arc<Partition>)| {
        let EntryId { term, node, index } = replica.log().durable()?;
        let (machine, partition) = (group.machine.to_string(), group.partition.0);
        let vote = context.pulse.own_vote(&group).filter(|_| tells_votes).map(VoteTold::from);
        Some(HeldEntry { machine, partition, last: (term.0, node.0, index.0), vote })
    };
    context.replicas().into_iter().filter_map(of).collect()
}

/// Reports that this node has lost its data. Only members of a cluster ask each other for the time, so a node that asks
/// one without a cluster counts on what that one has lost. For a moment between the founding of a cluster and the
/// invitation this is said too early; joining takes it back.
fn note_lost_data(context: &NodeContext, from: NodeId) {
    if context.folder.identity().is_some() {
        return;
    }
    let node = context.node;
    context.router.set_not_ready(vec![format!(
        "node {from} expects this node to be node {node} of its cluster, but its data folder is empty: the data was \
         lost, and with it what the others rely on; remove node {node} with `statehouse cluster remove`, and add \
         this one under a new id"
    )]);
}

/// The counter for the others to remember; `None` while they would read more into it than it says.
fn pulse_told(context: &NodeContext) -> Option<u64> {
    let may_tell =
        context.opening.features.has(features::LOSSES) && context.is_all_open() && !context.pulse.is_behind();
    may_tell.then(|| context.pulse.tell())
}
