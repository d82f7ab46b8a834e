//! Fetches midnights from the other nodes: a node lacks those before the state snapshot that it was sent.
//!
//! ```text
//! a replica is opened, then at most once a minute: may a day be missing here? ─▶ ask the others for midnights
//!   the newest missing, if all name the same file ─▶ pieces ─▶ spool ─▶ every byte and the head checked ─▶ listed
//! ```
//! In: what the replicas here have, and what others say. Out: the same files as on the others, as many as are kept.
//! Nobody is asked if no day is missing. The head must be that of this node's journal. If neither log nor archive goes
//! back to it, the others' word counts, as it did for the state that came from them. It makes no snapshot and does not
//! know when one is due.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use minicbor::{Decode, Encode};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::consensus::PeerError;
use crate::disk::{Disk, RealDisk};
use crate::durable::{PRIVATE, PRIVATE_FOLDER};
use crate::ids::{JournalIndex, Micros, NodeId};
use crate::limits::{MIDNIGHT_BYTES_A_SECOND_MIN, MIDNIGHTS_NAMED_MAX};
use crate::partition::{HeadProof, Partition, PartitionError};
use crate::peer::{Call, GroupName, ServiceError, Topic};
use crate::snapshot;
use crate::snapshot::canonical::{Days, ListedFile, parse_name};
use crate::system::context::NodeContext;
use crate::system::messages::{decode, encode};

/// Below the node's data. What is in it can be fetched again.
const SPOOL: &str = "midnights-spool";
/// How often it is checked which replicas are due; short, so that a newly opened replica is noticed soon.
const ROUND: Duration = Duration::from_secs(1);
/// The pause between two looks at the same replica.
const LOOK: Duration = Duration::from_secs(60);
/// The same once all others have said that they have nothing that is missing here.
const LOOK_SETTLED: Duration = Duration::from_secs(3600);
/// The same while none of the others answers at all, as when a node has just started.
const LOOK_UNHEARD: Duration = Duration::from_secs(5);
/// How long another node may take to say what it has, and to send the next piece.
const PATIENCE: Duration = Duration::from_secs(2);
const PIECE_PATIENCE: Duration = Duration::from_secs(10);
/// How many files may fail in one look before it is given up. Each failure is logged.
const FAILURES_MAX: usize = 3;

/// The answer to a call of [`Topic::Midnights`]. In a fetch the body names one of the files, and the answer is its
/// bytes.
#[derive(Clone, Debug, Encode, Decode)]
struct Offered {
    /// Name and size of each.
    #[n(0)]
    files: Vec<(String, u64)>,
    /// Whether no snapshot is being made there just now.
    #[n(1)]
    is_complete: bool,
}

/// The result of a look at one replica.
#[derive(Debug)]
pub enum Tended {
    /// Nothing is missing, as far as this node can tell without asking.
    Whole,
    /// The snapshot of this name was taken in.
    Took(String),
    /// None of the others has answered anything lately, so none was asked.
    Unheard,
    /// All others have answered, and none has what may be missing here.
    Settled,
    /// Some node did not answer, or what is missing was not taken in.
    Unsettled,
}

/// Why a file was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum MidnightError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("it sent more than the {0} bytes that it has")]
    TooLong(u64),
    #[error("it sent less than {MIDNIGHT_BYTES_A_SECOND_MIN} bytes a second")]
    TooSlow,
    #[error("the file cannot be written: {0}")]
    Io(#[from] std::io::Error),
    #[error("the partition is not open any more")]
    Closed,
    #[error(transparent)]
    Partition(#[from] PartitionError),
}

fn midnights(partition: &Partition) -> impl Iterator<Item = ListedFile> {
    partition.canonical_snapshots().into_iter().filter(|listed| listed.facts.days.is_some())
}

/// Answers a call of [`Topic::Midnights`]: the newest ones of this replica.
pub fn list(partition: &Partition) -> Bytes {
    let is_complete = !partition.is_making_canonical();
    let mut files: Vec<(String, u64)> = midnights(partition).map(|listed| (listed.name, listed.bytes)).collect();
    files.drain(..files.len().saturating_sub(MIDNIGHTS_NAMED_MAX));
    encode(&Offered { files, is_complete })
}

/// Answers a fetch of [`Topic::Midnights`]: the bytes of a file that is listed here, in pieces.
pub fn serve(
    partition: &Partition,
    body: &[u8],
) -> Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError> {
    // The name that is asked for never becomes part of a path.
    let Some(listed) = midnights(partition).find(|listed| listed.name.as_bytes() == body) else {
        return Err(ServiceError::Failed(format!(
            "the midnight snapshot {} is not here",
            String::from_utf8_lossy(body)
        )));
    };
    let path = partition.canonical_file(&listed);
    let failed = |error| ServiceError::Failed(format!("{}: {error}", listed.name));
    Ok(snapshot::pieces(RealDisk.open_to_read(&path).map_err(failed)?, path, listed.bytes, 0, ()))
}

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>) {
    match tokio::fs::remove_dir_all(context.folder.path().join(SPOOL)).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(
                %error,
                "partial files of midnight snapshots, which an earlier process fetched, could not be deleted"
            );
        }
        _ => {}
    }
    // Which replicas were looked at, and when each is due again.
    let mut looked: BTreeMap<GroupName, (Weak<Partition>, Instant)> = BTreeMap::new();
    loop {
        let mut has_taken = false;
        let groups: Vec<GroupName> = context.replicas().into_iter().map(|(group, _)| group).collect();
        for group in groups {
            // The replica is not held while others are asked: it may have to be closed to install a snapshot.
            let Some(replica) = context.find_replica(&group).map(|replica| Arc::downgrade(&replica)) else { continue };
            let is_due =
                |(before, due): &(Weak<Partition>, Instant)| !Weak::ptr_eq(before, &replica) || *due <= Instant::now();
            if !looked.get(&group).is_none_or(is_due) {
                continue;
            }
            let tended = tokio::select! {
                tended = tend(&context, &group) => tended,
                () = context.stopping.cancelled() => return,
            };
            let pause = match tended {
                Tended::Took(file) => {
                    tracing::info!(%group, file, "a canonical snapshot came from another node");
                    has_taken = true;
                    Duration::ZERO
                }
                Tended::Unheard => LOOK_UNHEARD,
                Tended::Settled => LOOK_SETTLED,
                Tended::Whole | Tended::Unsettled => LOOK,
            };
            looked.insert(group, (replica, Instant::now() + pause));
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(if has_taken { Duration::ZERO } else { ROUND }) => {}
        }
    }
}

/// Takes in the newest midnight that a replica here lacks and others have, if it lacks any.
pub async fn tend(context: &NodeContext, group: &GroupName) -> Tended {
    let keep = context.opening.snapshot_keep.map_or(usize::MAX, |keep| keep as usize);
    let Some(replica) = context.find_replica(group).filter(|replica| replica.is_running()) else {
        return Tended::Unsettled;
    };
    let others = context.others();
    if others.is_empty() || !may_lack(&replica, keep) {
        return Tended::Whole;
    }
    // A node that is down is not asked, so it holds up nobody.
    let heard: Vec<NodeId> = {
        let answering = context.published.answering.borrow();
        others.iter().copied().filter(|node| answering.contains(node)).collect()
    };
    if heard.is_empty() {
        return Tended::Unheard;
    }
    let here = midnights(&replica).map(|listed| listed.facts.journal.index).collect();
    let applied = replica.progress().journal.index;
    drop(replica);
    let offers = ask(context, group, &heard).await;
    let mut is_settled = offers.len() == others.len() && offers.values().all(|offered| offered.is_complete);
    let mut failures = 0;
    for missing in missing(&here, &offers, applied, keep) {
        if FAILURES_MAX <= failures {
            break;
        }
        let taken = match missing {
            Missing::Alike { name, from } => take_from_any(context, group, &name, &from).await,
            Missing::Disputed { files } => {
                for (file, nodes) in files {
                    tracing::warn!(
                        %group,
                        file,
                        ?nodes,
                        "nodes have different snapshots of the same midnight: none is accepted"
                    );
                }
                None
            }
        };
        match taken {
            Some(listed) => return Tended::Took(listed.name),
            None => (failures, is_settled) = (failures + 1, false),
        }
    }
    if is_settled { Tended::Settled } else { Tended::Unsettled }
}

/// Whether a midnight may be missing that is to be kept, as far as a node can tell without asking.
fn may_lack(replica: &Partition, keep: usize) -> bool {
    let journal = replica.progress().journal;
    // A snapshot that is being made here is soon there.
    if journal.index == JournalIndex(0) || replica.is_making_canonical() {
        return false;
    }
    let days: Vec<Days> = midnights(replica).filter_map(|listed| listed.facts.days).collect();
    let begun = replica.find_entry(JournalIndex(1)).ok().map(|first| first.entry.header().time);
    has_gap(&days, begun, journal.time, keep)
}

/// Whether a day is missing. Each midnight continues where the one before ends, from the day after that of the first
/// entry up to that of the last one. `begun` is the time of the first entry, if that is known.
fn has_gap(days: &[Days], begun: Option<Micros>, now: Micros, keep: usize) -> bool {
    let mut day = Days::day_of(now);
    for days in days.iter().rev().take(keep) {
        if days.last != day {
            return true;
        }
        day = days.first - 1;
    }
    days.len() < keep && begun.is_none_or(|begun| Days::day_of(begun) != day)
}

/// What each of these nodes has, as far as they say so in time.
async fn ask(context: &NodeContext, group: &GroupName, nodes: &[NodeId]) -> BTreeMap<NodeId, Offered> {
    let asking = nodes.iter().map(|node| async move {
        let call = Call { topic: Topic::Midnights, group: Some(group.clone()), body: Bytes::new() };
        let answer = context.network.call(*node, call, PATIENCE).await.ok()?;
        Some((*node, decode::<Offered>(&answer).ok()?))
    });
    join_all(asking).await.into_iter().flatten().collect()
}

/// A midnight that others have and this node lacks.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    /// All nodes that have it name this file; its size by each of them.
    Alike { name: String, from: Vec<(NodeId, u64)> },
    /// They name several files, so some of them are wrong.
    Disputed { files: BTreeMap<String, Vec<NodeId>> },
}

/// Who has a file, and how large.
type ByFile<'o> = BTreeMap<&'o str, Vec<(NodeId, u64)>>;

/// What is to be taken in, the newest first: of the newest midnights, as many as are kept, those that are not here.
/// Midnights are told apart by the entry they stand at. One past what is applied is made here when it is due.
fn missing(
    here: &BTreeSet<JournalIndex>,
    offers: &BTreeMap<NodeId, Offered>,
    applied: JournalIndex,
    keep: usize,
) -> Vec<Missing> {
    let mut all: BTreeMap<JournalIndex, ByFile<'_>> = here.iter().map(|index| (*index, BTreeMap::new())).collect();
    for (node, offered) in offers {
        for (name, bytes) in &offered.files {
            if let Some((index, Some(_))) = parse_name(name)
                && index < applied
            {
                all.entry(index).or_default().entry(name.as_str()).or_default().push((*node, *bytes));
            }
        }
    }
    let kept = all.into_iter().rev().take(keep).filter(|(index, _)| !here.contains(index));
    let found = kept.map(|(_, mut files)| match files.pop_first() {
        Some((name, from)) if files.is_empty() => Missing::Alike { name: name.to_owned(), from },
        first => {
            let files = first.into_iter().chain(files);
            let nodes = |from: Vec<(NodeId, u64)>| from.into_iter().map(|(node, _)| node).collect();
            Missing::Disputed { files: files.map(|(name, from)| (name.to_owned(), nodes(from))).collect() }
        }
    });
    found.collect()
}

/// Takes a file from the first node that sends what it should.
async fn take_from_any(
    context: &NodeContext,
    group: &GroupName,
    name: &str,
    from: &[(NodeId, u64)],
) -> Option<ListedFile> {
    for (node, bytes) in from {
        match take(context, group, name, *node, *bytes).await {
            Ok(listed) => return Some(listed),
            Err(error) => {
                tracing::warn!(
                    %group,
                    file = name,
                    %node,
                    %error,
                    "a canonical snapshot of another node is not accepted"
                );
            }
        }
    }
    None
}

/// Fetches a file and takes it in. In every case nothing is left in the spool.
pub(super) async fn take(
    context: &NodeContext,
    group: &GroupName,
    name: &str,
    node: NodeId,
    bytes: u64,
) -> Result<ListedFile, MidnightError> {
    // Archiving may be fetching the same.
    let _turn = context.fetching.lock().await;
    let replica = || context.find_replica(group).ok_or(MidnightError::Closed);
    if let Some(taken) = midnights(&*replica()?).find(|listed| listed.name == name) {
        return Ok(taken);
    }
    let spool = context.folder.path().join(SPOOL);
    tokio::fs::DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(&spool).await?;
    let folder = tempfile::tempdir_in(&spool)?;
    // The name has no folder in it, because it was parsed as the name of a snapshot.
    let file = folder.path().join(name);
    let longest = PIECE_PATIENCE + Duration::from_secs(bytes / MIDNIGHT_BYTES_A_SECOND_MIN);
    let fetching = tokio::time::timeout(longest, fetch(context, group, name, (node, bytes), &file));
    fetching.await.map_err(|_| MidnightError::TooSlow)??;
    Ok(replica()?.take_in_canonical(&file, HeadProof::JournalOrWord).await?)
}

async fn fetch(
    context: &NodeContext,
    group: &GroupName,
    name: &str,
    (node, bytes): (NodeId, u64),
    file: &Path,
) -> Result<(), MidnightError> {
    let body = Bytes::copy_from_slice(name.as_bytes());
    let call = Call { topic: Topic::Midnights, group: Some(group.clone()), body };
    let mut pieces = context.network.fetch(node, call, PIECE_PATIENCE).await?;
    let mut file =
        tokio::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(file).await?;
    let mut left = bytes;
    while let Some(piece) = pieces.try_next().await? {
        left = left.checked_sub(piece.len() as u64).ok_or(MidnightError::TooLong(bytes))?;
        file.write_all(&piece).await?;
    }
    // If the end is missing, that is noticed when the file is read.
    Ok(file.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    #[test]
    fn a_gap_is_seen_without_asking_anybody() {
        // The first and last day of each midnight; the day of the first entry, and that of the last one.
        let check = |days: &[(i64, i64)], begun: Option<i64>, now: i64, keep: usize, expected: bool| {
            let days: Vec<Days> = days.iter().map(|(first, last)| Days { first: *first, last: *last }).collect();
            let begun = begun.map(|day| Micros(day * DAY + 5));
            let found = has_gap(&days, begun, Micros(now * DAY), keep);
            assert_eq!(found, expected, "{days:?} since {begun:?} on {now}, {keep} of them");
        };
        check(&[], Some(7), 7, 9, false);
        check(&[], Some(6), 7, 9, true);
        check(&[], None, 7, 9, true);
        check(&[(5, 5), (6, 7)], Some(4), 7, 9, false);
        check(&[(5, 5), (6, 7)], Some(3), 7, 9, true);
        check(&[(5, 5), (6, 7)], None, 7, 9, true);
        check(&[(5, 5), (6, 7)], None, 7, 2, false);
        check(&[(5, 5), (6, 7)], None, 7, 1, false);
        check(&[(5, 5), (7, 7)], Some(4), 7, 9, true);
        check(&[(5, 5), (7, 7)], Some(4), 7, 1, false);
        check(&[(5, 5), (6, 7)], Some(4), 8, 1, true);
    }

    #[test]
    fn the_newest_that_are_kept_are_wanted_and_only_where_all_agree() {
        let name = |index: u64, hash: char| format!("{index:012}-2026-11-22-{}.snapshot", hash.to_string().repeat(16));
        let offered = |files: &[(u64, char)]| {
            let files = files.iter().map(|(index, hash)| (name(*index, *hash), *index)).collect();
            Offered { files, is_complete: true }
        };
        let offers = BTreeMap::from([
            (NodeId(2), offered(&[(10, 'a'), (20, 'b'), (30, 'c'), (50, 'e')])),
            (NodeId(3), offered(&[(10, 'a'), (20, 'f'), (40, 'd')])),
            (NodeId(4), Offered { files: vec![("35-../x.snapshot".to_owned(), 1)], is_complete: true }),
        ]);
        let here = BTreeSet::from([JournalIndex(30)]);
        let alike = |index, hash, nodes: &[u64]| {
            let from = nodes.iter().map(|node| (NodeId(*node), index)).collect();
            Missing::Alike { name: name(index, hash), from }
        };
        let files = BTreeMap::from([(name(20, 'b'), vec![NodeId(2)]), (name(20, 'f'), vec![NodeId(3)])]);
        let expected = [alike(40, 'd', &[3]), Missing::Disputed { files }, alike(10, 'a', &[2, 3])];
        let found = |keep| missing(&here, &offers, JournalIndex(50), keep);
        assert_eq!(found(usize::MAX), expected);
        assert_eq!(found(3), expected[..2]);
        assert_eq!(found(1), expected[..1]);
    }
}
