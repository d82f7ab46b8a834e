//! Self-repair of a replica whose log is damaged, before its group starts here: what cannot be read comes from the other nodes.
//!
//! ```text
//! examine ─▶ who has what? (until enough answer) ─▶ fetch from whoever is furthest ─▶ check by hash, rebuild, swap
//! ```
//! In: a group whose log is corrupt below its watermark. Out: a sound log with a vote that cannot be given twice. Until then the partition
//! neither votes nor serves on this node, and all others go on; those whose log is damaged too are told what can still be read here. It
//! does not know how a log is rebuilt.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use minicbor::{Decode, Encode};

use crate::consensus::PeerError;
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::{DamagedLog, EntryId, LogEntry, LogError, LogOptions, Payload, StreamId};
use crate::partition::{Partition, PartitionError};
use crate::peer::{Call, GroupName, ServiceError, Topic};
use crate::router::Machine;
use crate::system::error::NodeError;
use crate::system::host::Host;
use crate::system::service::{decode, encode};

/// How long a node may take to say what it has, and for one piece of it.
const PATIENCE: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Bytes of entries in one piece; one larger entry goes alone.
const PIECE_BYTES: usize = 1 << 20;

/// The body of [`Topic::Records`], fetched: these entries, as far as they are there.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct Wanted {
    #[n(0)]
    first: u64,
    #[n(1)]
    last: u64,
}

/// One entry on its way.
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

/// The answer to [`Topic::Records`], called: how far a node's log of the group goes, and the highest term it has heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Holding {
    /// Term, node and index.
    #[n(0)]
    last: Option<(u64, u64, u64)>,
    #[n(1)]
    term: u64,
    /// Its own log is damaged: it has no entries to give, and says only what it can still read.
    #[n(2)]
    is_damaged: bool,
}

/// Answers another node that asks what this one holds.
pub fn holding(partition: &Partition) -> Bytes {
    let last = partition.log().last().or(partition.log().last_purged());
    let voted = partition.log().vote().map_or(Term(0), |vote| vote.term);
    let term = partition.group().metrics().term.max(voted);
    encode(&Holding { last: last.map(|id| (id.term.0, id.node.0, id.index.0)), term: term.0, is_damaged: false })
}

/// The same while the log here is damaged.
pub fn holding_damaged(damaged: &DamagedLog) -> Bytes {
    encode(&Holding { last: None, term: damaged.term_known().0, is_damaged: true })
}

/// Entries of this node's log for another node.
pub fn records(
    partition: Arc<Partition>,
    body: &[u8],
) -> Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError> {
    let Wanted { first, last } = decode(body)?;
    let pieces = stream::try_unfold(first, move |next| {
        let partition = partition.clone();
        async move {
            let range = LogIndex(next)..LogIndex(last.saturating_add(1));
            // From disk, maybe: not on a thread of the runtime.
            let reading = tokio::task::spawn_blocking(move || partition.log().read(range, PIECE_BYTES)).await;
            let entries = reading.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            let entries = entries.map_err(|error| ServiceError::Failed(error.to_string()))?;
            let Some(end) = entries.last().map(|entry| entry.id.index.0 + 1) else { return Ok(None) };
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

/// Whether an error says that the log is damaged in a way that other nodes can help with.
pub fn is_log_damage(error: &PartitionError) -> bool {
    matches!(error, PartitionError::Log(LogError::Corrupt { .. }))
}

/// Repairs the log of a group; waits for as long as the nodes that are needed do not answer.
pub async fn repair_log(host: &Host, machine: &Machine, group: &GroupName, folder: &Path) -> Result<(), NodeError> {
    let failed = |error: LogError| NodeError::of_partition(group, PartitionError::Log(error));
    let stream = StreamId::new(&group.machine, group.partition).map_err(failed)?;
    let (disk, dir) = (host.opening.disk.clone(), folder.join("log"));
    let examining =
        tokio::task::spawn_blocking(move || DamagedLog::examine(disk, &dir, &LogOptions::new(stream))).await;
    let examined = examining.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let Some(damaged) = examined.map_err(failed)? else { return Ok(()) };
    let damaged = Arc::new(damaged);
    tracing::error!(%group, reason = damaged.reason(), "the log is damaged; the other nodes are asked for what is missing");
    metrics::counter!("statehouse_log_repairs_total").increment(1);
    host.damaged.write().insert(group.clone(), damaged.clone());
    let repaired = loop {
        match attempt(host, group, &damaged).await {
            Ok(()) => break Ok(()),
            Err(reason) => {
                let reason = format!("its log is damaged ({}) and is being repaired: {reason}", damaged.reason());
                drop(machine.set_replica(group.partition, Err(reason)));
            }
        }
        tokio::select! {
            () = host.stopping.cancelled() => break Err(NodeError::Stopping),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    };
    host.damaged.write().remove(group);
    repaired
}

/// One attempt with the nodes that answer now; what stands in the way, in words.
async fn attempt(host: &Host, group: &GroupName, damaged: &Arc<DamagedLog>) -> Result<(), String> {
    let mut holdings: Vec<(NodeId, Holding)> = Vec::new();
    let mut silent = Vec::new();
    let others = host.others();
    for node in others.iter().copied() {
        match ask_holding(host, node, group).await {
            Ok(holding) => holdings.push((node, holding)),
            Err(error) => silent.push(error.to_string()),
        }
    }
    let sound: Vec<&(NodeId, Holding)> = holdings.iter().filter(|(_, holding)| !holding.is_damaged).collect();
    let needed = sound_needed(damaged, others.len(), others.len() == holdings.len());
    if sound.len() < needed {
        let damaged_too = holdings.len() - sound.len();
        return Err(format!(
            "{} of {needed} nodes with a sound log answered, {damaged_too} whose log is damaged too; {}",
            sound.len(),
            silent.join("; ")
        ));
    }
    let vote_floor = holdings.iter().map(|(_, holding)| Term(holding.term)).max().unwrap_or(Term(0));
    let position = |holding: &Holding| holding.last.map(|(term, _, index)| (term, index));
    let (furthest, holding) =
        sound.into_iter().max_by_key(|(_, holding)| position(holding)).expect("at least one has answered");
    let mut ranges: Vec<RangeInclusive<LogIndex>> = damaged.missing();
    if let (Some(from), Some((_, _, last))) = (damaged.lost_from(), holding.last) {
        ranges.retain(|range| *range.start() < from);
        ranges.push(from..=LogIndex(last));
    }
    let mut entries: Vec<LogEntry> = Vec::new();
    for range in ranges {
        let after = entries.last().map(|entry| entry.id.index);
        let fetched = fetch(host, *furthest, group, &range).await.map_err(|error| error.to_string())?;
        entries.extend(fetched.into_iter().filter(|entry| after.is_none_or(|after| after < entry.id.index)));
    }
    let damaged = damaged.clone();
    let repairing = tokio::task::spawn_blocking(move || damaged.repair(&entries, vote_floor)).await;
    let repaired = repairing.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    repaired.map(drop).map_err(|error| format!("what node {furthest} has does not fit: {error}"))
}

/// How many of the `others` must have answered with a sound log.
///
/// What lies in between is known by anybody, and checked by hash. The end of a log is known by a majority without this node. So is a vote
/// that was lost: whoever it was for had voted for itself first. When everybody has answered, that candidate is among them, and should its
/// own vote be lost too, then its process has ended and nobody is left who would count this one.
fn sound_needed(damaged: &DamagedLog, others: usize, is_everybody: bool) -> usize {
    let majority = (others.div_ceil(2) + 1).min(others.max(1));
    let needs_majority = damaged.lost_from().is_some() || damaged.vote_may_be_lost() && !is_everybody;
    if needs_majority { majority } else { 1 }
}

async fn ask_holding(host: &Host, node: NodeId, group: &GroupName) -> Result<Holding, PeerError> {
    let call = Call { topic: Topic::Records, group: Some(group.clone()), body: Bytes::new() };
    let answer = host.network().call(node, call, PATIENCE).await?;
    decode(&answer).map_err(|_| PeerError::UnexpectedReply { node })
}

async fn fetch(
    host: &Host,
    node: NodeId,
    group: &GroupName,
    range: &RangeInclusive<LogIndex>,
) -> Result<Vec<LogEntry>, PeerError> {
    let wanted = Wanted { first: range.start().0, last: range.end().0 };
    let call = Call { topic: Topic::Records, group: Some(group.clone()), body: encode(&wanted) };
    let mut pieces = host.network().fetch(node, call, PATIENCE).await?;
    let mut entries = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        let records: Vec<Record> = decode(&piece).map_err(|_| PeerError::UnexpectedReply { node })?;
        let read: Option<Vec<LogEntry>> = records.into_iter().map(entry_of).collect();
        entries.extend(read.ok_or(PeerError::UnexpectedReply { node })?);
    }
    Ok(entries)
}
