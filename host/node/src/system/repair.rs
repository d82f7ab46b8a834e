//! Self-repair of a replica whose log is damaged, before its group starts here: what cannot be read comes from the
//! other nodes.
//!
//! ```text
//! examine ─▶ who has what? (until enough answer) ─▶ fetch from nodes that have it ─▶ check by hash, rebuild, swap
//! ```
//! In: a group whose log is corrupt below its watermark, or has lost its end. Out: a sound log with a vote that cannot
//! be given twice. Until then the partition neither votes nor serves on this node; all others keep running. Nodes whose
//! log is damaged too are given what can still be read here, so that logs with damage in different entries repair each
//! other. It does not know how a log is rebuilt.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use minicbor::{Decode, Encode};

use crate::consensus::{Leadership, PeerError};
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::{DamagedLog, EntryId, LogEntry, LogError, LogOptions, LogScan, Misfit, Payload, StreamId};
use crate::partition::{Partition, PartitionError};
use crate::peer::{Call, GroupName, ServiceError, Topic};
use crate::router::Machine;
use crate::system::context::NodeContext;
use crate::system::error::NodeError;
use crate::system::log_damage::{LogDamage, advice};
use crate::system::messages::{decode, encode};
use crate::system::replica_states::{ReplicaState, Turn};
use crate::system::snapshot_pull::pull;

/// How long a node may take to say what it has, and to send one piece.
const PATIENCE: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Bytes of entries in one piece; one larger entry goes alone.
const PIECE_BYTES: usize = 1 << 20;

/// The body of a fetch of [`Topic::Records`]: asks for these entries, as far as they are there.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct RepairRange {
    #[n(0)]
    first: u64,
    #[n(1)]
    last: u64,
}

/// One entry, as it is sent.
#[derive(Debug, Encode, Decode)]
struct Record {
    #[n(0)]
    term: u64,
    #[n(1)]
    node: u64,
    #[n(2)]
    index: u64,
    /// 0 blank, 1 entry, 2 membership.
    #[n(3)]
    kind: u8,
    #[cbor(n(4), with = "minicbor::bytes")]
    payload: Vec<u8>,
}

/// The answer to a call of [`Topic::Records`]: how far a node's log of the group goes, and the highest term it has
/// heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Holding {
    /// Term, node and index.
    #[n(0)]
    pub last: Option<(u64, u64, u64)>,
    #[n(1)]
    term: u64,
    /// Its own log is damaged, and it gives what it can still read.
    #[n(2)]
    is_damaged: bool,
    /// If its log is damaged: whether it still knows every vote that it has given. Nodes of earlier releases do not say
    /// it, and then give nothing.
    #[n(3)]
    is_vote_known: Option<bool>,
    /// The term in which it leads, if it does; nodes of earlier releases do not say it.
    #[n(4)]
    pub leads: Option<u64>,
}

impl Holding {
    /// Where that log ends.
    fn end(&self) -> Option<(u64, u64)> {
        self.last.map(|(term, _, index)| (term, index))
    }

    fn knows_end(&self) -> bool {
        !self.is_damaged || self.last.is_some()
    }

    fn knows_vote(&self) -> bool {
        !self.is_damaged || self.is_vote_known == Some(true)
    }
}

/// Answers another node that asks what this one holds.
pub fn holding(partition: &Partition) -> Bytes {
    let last = partition.log().last().or(partition.log().last_purged());
    let voted = partition.log().vote().map_or(Term(0), |vote| vote.term);
    let term = partition.group().metrics().term.max(voted);
    let leads = match *partition.group().leadership().borrow() {
        Leadership::Leader { term } => Some(term.0),
        _ => None,
    };
    encode(&Holding { last: last.map(parts), term: term.0, is_damaged: false, is_vote_known: None, leads })
}

/// The same for a log that nobody has open here.
pub fn holding_unopened(log: &LogScan) -> Bytes {
    let last = log.last();
    let voted = log.vote().map_or(Term(0), |vote| vote.term);
    let term = last.map_or(Term(0), |last| last.term).max(voted);
    encode(&Holding { last: last.map(parts), term: term.0, is_damaged: false, is_vote_known: None, leads: None })
}

/// The same while the log here is damaged.
pub fn holding_damaged(damaged: &DamagedLog) -> Bytes {
    encode(&Holding {
        last: damaged.last_known().map(parts),
        term: damaged.term_known().0,
        is_damaged: true,
        is_vote_known: Some(!damaged.vote_may_be_lost()),
        leads: None,
    })
}

fn parts(id: EntryId) -> (u64, u64, u64) {
    (id.term.0, id.node.0, id.index.0)
}

/// Entries of this node's log for another node.
pub fn records(
    partition: Arc<Partition>,
    body: &[u8],
) -> Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError> {
    stream_of(body, move |first, last| partition.log().read(first..last.next(), PIECE_BYTES))
}

/// The same while the log here is damaged: what can be read of it, so entries may be missing in between.
pub fn records_of_damaged(
    damaged: Arc<DamagedLog>,
    body: &[u8],
) -> Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError> {
    stream_of(body, move |first, last| damaged.read(first..=last, PIECE_BYTES))
}

/// The same for a log that nobody has open here.
pub fn records_unopened(
    log: Arc<LogScan>,
    body: &[u8],
) -> Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError> {
    stream_of(body, move |first, last| log.read_range(first..last.next(), PIECE_BYTES))
}

/// Streams what `read` reads from one index to another, as many entries as fit into a piece at a time.
fn stream_of(
    body: &[u8],
    read: impl Fn(LogIndex, LogIndex) -> Result<Vec<LogEntry>, LogError> + Send + Sync + 'static,
) -> Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError> {
    let RepairRange { first, last } = decode(body)?;
    let (read, last) = (Arc::new(read), LogIndex(last.min(u64::MAX - 1)));
    let pieces = stream::try_unfold(LogIndex(first), move |next| {
        let read = read.clone();
        async move {
            if last < next {
                return Ok(None);
            }
            // This may read from disk, so it does not run on a thread of the runtime.
            let reading = tokio::task::spawn_blocking(move || read(next, last)).await;
            let entries = reading.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            let entries = entries.map_err(|error| ServiceError::Failed(error.to_string()))?;
            let Some(end) = entries.last().map(|entry| entry.id.index.next()) else { return Ok(None) };
            let records: Vec<Record> = entries.into_iter().map(record_of).collect();
            Ok(Some((encode(&records), end)))
        }
    });
    Ok(pieces.boxed())
}

fn record_of(entry: LogEntry) -> Record {
    let kind = match &entry.payload {
        Payload::Blank => 0,
        Payload::Entry(_) => 1,
        Payload::Membership(_) => 2,
    };
    let EntryId { term, node, index } = entry.id;
    Record { term: term.0, node: node.0, index: index.0, kind, payload: entry.payload.bytes().to_vec() }
}

fn entry_of(record: Record) -> Option<LogEntry> {
    let id = EntryId { term: Term(record.term), node: NodeId(record.node), index: LogIndex(record.index) };
    let payload = match record.kind {
        0 if record.payload.is_empty() => Payload::Blank,
        1 => Payload::Entry(record.payload.into()),
        2 => Payload::Membership(record.payload.into()),
        _ => return None,
    };
    Some(LogEntry { id, payload })
}

/// Repairs the log of a group. Waits until the nodes that are needed answer, or an operator says to continue without
/// them.
pub async fn repair_log(
    context: &NodeContext,
    turn: &Turn,
    machine: &Machine,
    damage: &LogDamage,
) -> Result<(), NodeError> {
    let group = &turn.group;
    let folder = context.folder.partition(&group.machine, group.partition);
    let Some(damaged) = examine(context, group, &folder, damage).await? else { return Ok(()) };
    let mut damaged = Arc::new(damaged);
    tracing::error!(
        %group,
        reason = damaged.reason(),
        "the log is damaged, or has lost its end; the other nodes are asked"
    );
    metrics::counter!("statehouse_log_repairs_total").increment(1);
    turn.set(ReplicaState::Repairing(damaged.clone()));
    loop {
        match attempt(context, group, &folder, &damaged, damage).await {
            Ok(()) => return Ok(()),
            Err(reason) => {
                let reason = match damage {
                    LogDamage::Corrupt => {
                        format!("its log is damaged ({}) and is being repaired: {reason}", damaged.reason())
                    }
                    LogDamage::Forgot(_) | LogDamage::Unvouched => {
                        let (what, advice) = (damaged.reason(), advice(context, group));
                        let reason = format!("{what}; it waits until other nodes send it: {reason}; {advice}");
                        turn.set_refusal(reason.clone());
                        reason
                    }
                };
                turn.say_not_served(machine, reason);
            }
        }
        tokio::select! {
            () = context.stopping.cancelled() => return Err(NodeError::Stopping),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
        if damaged.is_unreadable() {
            // The disk may give back by now what it did not before.
            let Some(again) = examine(context, group, &folder, damage).await? else { return Ok(()) };
            damaged = Arc::new(again);
            turn.set(ReplicaState::Repairing(damaged.clone()));
        }
    }
}

/// What is left of the log; `None` if it is no longer damaged.
async fn examine(
    context: &NodeContext,
    group: &GroupName,
    folder: &Path,
    damage: &LogDamage,
) -> Result<Option<DamagedLog>, NodeError> {
    let failed = |error: LogError| NodeError::of_partition(group, PartitionError::Log(error));
    let stream = StreamId::new(&group.machine, group.partition).map_err(failed)?;
    let (disk, dir, of) = (context.opening.disk.clone(), folder.join("log"), damage.clone());
    let examining = tokio::task::spawn_blocking(move || of.examine(disk, &dir, &LogOptions::new(stream))).await;
    examining.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())).map_err(failed)
}

/// Makes one attempt with the nodes that answer now. The error says what stands in the way. The nodes must have the
/// entry that was applied here.
async fn attempt(
    context: &NodeContext,
    group: &GroupName,
    folder: &Path,
    damaged: &Arc<DamagedLog>,
    damage: &LogDamage,
) -> Result<(), String> {
    let is_given_up = context.record.is_given_up(group);
    let (mut holdings, mut silent) = ask_all(context, group).await;
    if !is_given_up {
        check_enough(damaged, context.others().len(), &holdings, &silent)?;
    }
    let heard = holdings.iter().map(|(_, holding)| Term(holding.term));
    let vote_floor = heard.chain([damage.term_voted()]).max().unwrap_or(Term(0));
    // Nodes with a sound log come first, and of these the furthest.
    holdings.sort_by_key(|(_, holding)| Reverse((!holding.is_damaged, holding.end())));
    let mut wanted: Vec<RangeInclusive<LogIndex>> = damaged.missing();
    let mut given: BTreeMap<LogIndex, LogEntry> = BTreeMap::new();
    let mut lost = None;
    if let Some(from) = damaged.lost_from() {
        wanted.retain(|range| *range.start() < from);
        if let Some(last) = wanted.last_mut() {
            *last = *last.start()..=(*last.end()).min(LogIndex(from.0 - 1));
        }
        let applied = damage.applied().filter(|_| !is_given_up);
        lost = take_end(context, group, from, applied, &holdings, &mut given).await?;
    }
    for range in &wanted {
        for (node, _) in &holdings {
            for gap in gaps(range, &given) {
                // Another node may have it; what nobody has is noticed when the log is put together.
                if let Err(reason) = take(context, *node, group, &gap, &mut given).await {
                    silent.push(reason);
                }
            }
        }
    }
    let lacking = wanted.iter().chain(&lost).flat_map(|range| gaps(range, &given));
    let lacking = lacking.map(|gap| *gap.end()).max().unwrap_or_default();
    let entries: Arc<Vec<LogEntry>> = Arc::new(given.into_values().collect());
    // Put together without the first entry of the lost range, the log would hold nothing of it.
    let begins_late = |range: &RangeInclusive<LogIndex>| {
        let first = entries.iter().map(|entry| entry.id.index).find(|index| range.contains(index));
        !range.is_empty() && first != Some(*range.start())
    };
    let mut repaired = match lost.as_ref().filter(|range| begins_late(range)) {
        Some(range) => Err(LogError::Misfit { index: *range.start(), misfit: Misfit::Missing }),
        None => put_together(damaged, &entries, None, vote_floor).await,
    };
    if let Err(LogError::Misfit { misfit: Misfit::Missing, .. }) = repaired {
        // The others have released these entries, or theirs are damaged as well. What these entries led to is in the
        // others' states.
        let manifest = pull(context, group, folder, lacking).await.map_err(|reason| {
            let silent = silent.join("; ");
            format!("entries are missing that no other node has ({silent}), and {reason}")
        })?;
        repaired = put_together(damaged, &entries, Some((manifest.last(), manifest.log_hash)), vote_floor).await;
    }
    repaired.map_err(|error| format!("what the other nodes have does not fit: {error}"))
}

/// What each of the others has, and why the rest did not answer.
async fn ask_all(context: &NodeContext, group: &GroupName) -> (Vec<(NodeId, Holding)>, Vec<String>) {
    let (mut holdings, mut silent) = (Vec::new(), Vec::new());
    for node in context.others() {
        match ask_holding(context, node, group).await {
            Ok(holding) => holdings.push((node, holding)),
            Err(error) => silent.push(error.to_string()),
        }
    }
    (holdings, silent)
}

/// Takes the end of the log, from an index on, from the node that has most of it, which must have what was `applied`
/// here. Returns the range.
async fn take_end(
    context: &NodeContext,
    group: &GroupName,
    from: LogIndex,
    applied: Option<EntryId>,
    holdings: &[(NodeId, Holding)],
    given: &mut BTreeMap<LogIndex, LogEntry>,
) -> Result<Option<RangeInclusive<LogIndex>>, String> {
    let knowing = holdings.iter().filter(|(_, holding)| holding.knows_end());
    let furthest = knowing.max_by_key(|(_, holding)| holding.end());
    if furthest.and_then(|(_, end)| end.end()) < applied.map(|applied| (applied.term.0, applied.index.0)) {
        return Err("none of the nodes that answer has what this node has applied".to_owned());
    }
    let Some((furthest, end)) = furthest else { return Ok(None) };
    let Some((_, _, last)) = end.last else { return Ok(None) };
    // All of it comes from one node, because what is not committed yet may differ on another one.
    let lost = from..=LogIndex(last);
    take(context, *furthest, group, &lost, given).await?;
    if end.is_damaged && !given.contains_key(&LogIndex(last)) {
        return Err(format!("the end of the log of node {furthest}, which is furthest, is damaged too"));
    }
    Ok(Some(lost))
}

async fn put_together(
    damaged: &Arc<DamagedLog>,
    entries: &Arc<Vec<LogEntry>>,
    base: Option<(EntryId, [u8; 32])>,
    vote_floor: Term,
) -> Result<(), LogError> {
    let (damaged, entries) = (damaged.clone(), entries.clone());
    let repairing = tokio::task::spawn_blocking(move || damaged.repair(&entries, base, vote_floor)).await;
    repairing.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())).map(drop)
}

/// Checks that enough of the `others` have answered.
///
/// Any node may know entries in the middle, which are checked by hash. A majority without this node knows the end of a
/// log. It also knows a lost vote, because the candidate had voted for itself first. If all others have answered, that
/// candidate is among them. Should its own vote be lost too, its process has ended, and nobody is left who would count
/// this one.
fn check_enough(
    damaged: &DamagedLog,
    others: usize,
    holdings: &[(NodeId, Holding)],
    silent: &[String],
) -> Result<(), String> {
    let majority = (others.div_ceil(2) + 1).min(others.max(1));
    let is_everybody = others == holdings.len();
    let count = |knows: fn(&Holding) -> bool| holdings.iter().filter(|(_, holding)| knows(holding)).count();
    let (ends, votes) = (count(Holding::knows_end), count(Holding::knows_vote));
    let needs_votes = damaged.vote_may_be_lost() && !is_everybody;
    let is_enough = (damaged.lost_from().is_none() || majority <= ends)
        && (!needs_votes || majority <= votes)
        && !holdings.is_empty();
    if is_enough {
        return Ok(());
    }
    let damaged_too = count(|holding| holding.is_damaged);
    let sound = holdings.len() - damaged_too;
    let needed = if damaged.lost_from().is_some() || needs_votes { majority } else { 1 };
    let silent = silent.join("; ");
    Err(format!(
        "{sound} of {needed} nodes with a sound log answered, and {damaged_too} whose logs are damaged too ({ends} \
         know where their logs end, {votes} know how they voted); {silent}"
    ))
}

/// The parts of a range that nobody has given yet.
fn gaps(range: &RangeInclusive<LogIndex>, given: &BTreeMap<LogIndex, LogEntry>) -> Vec<RangeInclusive<LogIndex>> {
    let (mut gaps, mut next) = (Vec::new(), *range.start());
    for (index, _) in given.range(range.clone()) {
        if next < *index {
            gaps.push(next..=LogIndex(index.0 - 1));
        }
        next = index.next();
    }
    if next <= *range.end() {
        gaps.push(next..=*range.end());
    }
    gaps
}

/// Takes what a node has of the range, unless it is given already.
async fn take(
    context: &NodeContext,
    node: NodeId,
    group: &GroupName,
    range: &RangeInclusive<LogIndex>,
    given: &mut BTreeMap<LogIndex, LogEntry>,
) -> Result<(), String> {
    for entry in fetch(context, node, group, range).await.map_err(|error| error.to_string())? {
        if range.contains(&entry.id.index) {
            given.entry(entry.id.index).or_insert(entry);
        }
    }
    Ok(())
}

pub async fn ask_holding(context: &NodeContext, node: NodeId, group: &GroupName) -> Result<Holding, PeerError> {
    let call = Call { topic: Topic::Records, group: Some(group.clone()), body: Bytes::new() };
    let answer = context.network.call(node, call, PATIENCE).await?;
    decode(&answer).map_err(|_| PeerError::UnexpectedReply { node })
}

/// One entry of another node's log; `None` if it is not there.
pub async fn fetch_one(
    context: &NodeContext,
    node: NodeId,
    group: &GroupName,
    index: LogIndex,
) -> Result<Option<LogEntry>, PeerError> {
    Ok(fetch(context, node, group, &(index..=index)).await?.pop())
}

/// Fetches entries from another node, which may have fewer.
pub async fn fetch(
    context: &NodeContext,
    node: NodeId,
    group: &GroupName,
    range: &RangeInclusive<LogIndex>,
) -> Result<Vec<LogEntry>, PeerError> {
    let wanted = RepairRange { first: range.start().0, last: range.end().0 };
    let call = Call { topic: Topic::Records, group: Some(group.clone()), body: encode(&wanted) };
    let mut pieces = context.network.fetch(node, call, PATIENCE).await?;
    let mut entries = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        let records: Vec<Record> = decode(&piece).map_err(|_| PeerError::UnexpectedReply { node })?;
        let read: Option<Vec<LogEntry>> = records.into_iter().map(entry_of).collect();
        entries.extend(read.ok_or(PeerError::UnexpectedReply { node })?);
    }
    Ok(entries)
}
