//! Retention of canonical snapshots. Midnights that a node lacks are fetched from the archive here, and from other
//! nodes in `snapshot_fetch.rs`. Snapshots beyond `[snapshots] keep` are deleted.
//!
//! ```text
//! in the archive ∪ here ─▶ the newest midnights, as many as are kept ─▶ not here: fetched, each byte checked ─▶ listed
//! here, beyond what is kept, and in the archive if there is one ─▶ deleted
//! ```
//! In: what the archive lists. Out: the folder of each partition as the configuration wants it. A node lacks the
//! midnights before the state snapshot from which it was installed. No snapshot is made here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::archive::{Archive, ArchiveError};
use crate::ids::JournalIndex;
use crate::partition::{HeadProof, Partition, PartitionError};
use crate::peer::GroupName;
use crate::snapshot::canonical::{ListedFile, parse_name};
use crate::system::context::NodeContext;

/// How often the folders are checked on a node without an archive.
const ROUND: Duration = Duration::from_secs(1);

/// Why a snapshot could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Partition(#[from] PartitionError),
}

/// Runs until the node stops. On a node without an archive no deletion has to wait until a snapshot is archived.
pub async fn run(context: Arc<NodeContext>, keep: u32) {
    loop {
        for (group, partition) in context.replicas() {
            delete_surplus(&group, &partition, keep, |_| true);
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// Deletes the snapshots beyond the newest `keep` midnights, and beyond the newest `keep` others, if they may go.
pub fn delete_surplus(group: &GroupName, partition: &Partition, keep: u32, may_go: impl Fn(&str) -> bool) {
    let (midnights, others): (Vec<ListedFile>, Vec<ListedFile>) =
        partition.canonical_snapshots().into_iter().partition(|listed| listed.facts.days.is_some());
    for kind in [midnights, others] {
        let surplus = kind.len().saturating_sub(keep as usize);
        for listed in kind.iter().take(surplus).filter(|listed| may_go(&listed.name)) {
            match partition.delete_canonical(listed) {
                Ok(()) => {
                    tracing::info!(
                        %group,
                        file = listed.name,
                        "deleted a canonical snapshot: more than `snapshots.keep`"
                    )
                }
                Err(error) => {
                    tracing::warn!(
                        %group,
                        file = listed.name,
                        %error,
                        "a canonical snapshot is not deleted; this will be tried again"
                    )
                }
            }
        }
    }
}

/// Fetches the newest midnight that this node should have and lacks, if there is one. `spool` is for files that are not
/// checked yet.
///
/// # Errors
/// The archive cannot be read, the file is not what was written, or it is not of this journal.
pub async fn fetch_missing(
    archive: &Archive,
    archived: &BTreeSet<String>,
    group: &GroupName,
    partition: &Partition,
    keep: Option<u32>,
    spool: &Path,
) -> Result<Option<ListedFile>, FetchError> {
    let Some(name) = find_missing(archived, partition, keep) else { return Ok(None) };
    archive.fetch(&group.machine, group.partition, &name, spool).await?;
    let file = spool.join(&name);
    let taken = partition.take_in_canonical(&file, HeadProof::Journal).await;
    if let Err(error) = tokio::fs::remove_file(&file).await {
        tracing::warn!(path = %file.display(), %error, "a fetched file could not be deleted");
    }
    Ok(Some(taken?))
}

/// The newest midnight to fetch. Midnights are told apart by the entry they stand at.
fn find_missing(archived: &BTreeSet<String>, partition: &Partition, keep: Option<u32>) -> Option<String> {
    // A snapshot that is being made here is not fetched.
    if partition.is_making_canonical() {
        return None;
    }
    let applied = partition.progress().journal.index;
    let here = partition.canonical_snapshots().into_iter().filter(|listed| listed.facts.days.is_some());
    let mut midnights: BTreeMap<JournalIndex, Option<&String>> =
        here.map(|listed| (listed.facts.journal.index, None)).collect();
    for name in archived {
        if let Some((index, Some(_))) = parse_name(name)
            && index < applied
        {
            midnights.entry(index).or_insert(Some(name));
        }
    }
    let kept = keep.map_or(usize::MAX, |keep| keep as usize);
    midnights.into_values().rev().take(kept).flatten().next().cloned()
}
