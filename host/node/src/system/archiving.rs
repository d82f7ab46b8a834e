//! Archiving: what is committed is put into the archive, and a log releases only what is there.
//!
//! ```text
//! every round, each partition led here: tail ─▶ journal segments ─▶ archive (`upload.rs`);
//!                                       the modules that decided them before, snapshots after;
//!                                       the modules of all views, for a node that is restored from it
//!              each partition followed: what does the archive list? (retention asks how far it reaches)
//!              each of them: canonical snapshots that are missing here, or too many (`snapshot_retention.rs`)
//! ```
//! In: an archive. Out: the same files in it whichever node leads, and how far each partition is archived. A failure is
//! logged, counted and tried again; it holds up nothing but retention. It keeps no position of its own: it continues
//! where the list of the archive ends.

mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::archive::{Archive, ArchiveError, Boundary, Stream, Upload};
use crate::disk::RealDisk;
use crate::ids::{ClusterId, Head, JournalIndex, ModuleId};
use crate::partition::{Partition, PartitionError};
use crate::peer::GroupName;
use crate::snapshot::canonical::SnapshotFile;
use crate::system::cluster::Cluster;
use crate::system::context::NodeContext;
use crate::system::journal_fetch::HistoryError;
use crate::system::published::Archived;
use crate::system::snapshot_retention;

/// Below the node's data. What is in it can be made again.
const SPOOL: &str = "archive-spool";
/// How long a partition may take to show what it has applied.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a round that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// A node's archive options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveOptions {
    pub url: String,
    /// How long an entry may wait until it is archived.
    pub every: Duration,
}

/// What this task alone writes, and what it never changes. It stays if the task is started again.
pub struct Archiving {
    archive: Archive,
    every: Duration,
    archived: watch::Sender<Archived>,
}

impl Archiving {
    /// `every` is how long an entry may wait until it is archived.
    pub fn new(archive: Archive, every: Duration) -> Self {
        Self { archive, every, archived: watch::Sender::default() }
    }

    pub fn archived(&self) -> watch::Receiver<Archived> {
        self.archived.subscribe()
    }
}

/// Why a partition was not archived.
#[derive(Debug, thiserror::Error)]
enum Hindrance {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{0}; the archive ends with entry {1}")]
    Partition(PartitionError, JournalIndex),
    #[error("the partition is being closed")]
    Closed,
    #[error("no other node answers yet, so it is not known where the archive must begin")]
    Unheard,
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(
        "entries {first} to {last} were never on this node, which was sent a later state, and no other node sends \
         them now: {said}"
    )]
    Missing { first: JournalIndex, last: JournalIndex, said: String },
    #[error("the snapshot {name} is not archived: {reason}; `statehouse snapshot verify` says more")]
    Snapshot { name: String, reason: String },
    #[error("module {0} is not on this node: {1}")]
    Module(ModuleId, String),
}

struct Archivist {
    context: Arc<NodeContext>,
    archiving: Arc<Archiving>,
    archive: Archive,
    cluster: ClusterId,
    uploads: BTreeMap<GroupName, Upload>,
    /// Modules that are in the archive.
    modules: BTreeSet<ModuleId>,
}

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>, archiving: Arc<Archiving>) {
    let (every, mut archivist) = (archiving.every, None);
    loop {
        let wait = match round(&context, &archiving, &mut archivist).await {
            Ok(()) => every,
            Err(_) if context.stopping.is_cancelled() => return,
            Err(error) => {
                let url = archiving.archive.url();
                tracing::error!(url, %error, "the archive cannot be used; this will be tried again");
                metrics::counter!("statehouse_archive_failures_total").increment(1);
                AGAIN.min(every)
            }
        };
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn round(
    context: &Arc<NodeContext>,
    archiving: &Arc<Archiving>,
    slot: &mut Option<Archivist>,
) -> Result<(), ArchiveError> {
    let Some(identity) = context.folder.identity() else { return Ok(()) };
    let archivist = match slot {
        Some(archivist) => archivist,
        None => {
            let cluster = ClusterId(identity.cluster_bytes().expect("checked when the identity was read"));
            let archive = archiving.archive.clone();
            archive.claim(cluster).await?;
            let modules = archive.modules().await?.into_iter().collect();
            tracing::info!(url = archive.url(), "archiving");
            let (context, archiving, uploads) = (context.clone(), archiving.clone(), BTreeMap::new());
            slot.insert(Archivist { context, archiving, archive, cluster, uploads, modules })
        }
    };
    let mut failed = None;
    let groups: Vec<GroupName> = context.replicas().into_iter().map(|(group, _)| group).collect();
    for group in groups {
        // Only one partition is held at a time: another may have to be closed to install a snapshot.
        let Some(partition) = context.find_replica(&group).filter(|partition| partition.is_running()) else { continue };
        // An archive that is a folder is this node's own, so it must have everything.
        let done = if partition.is_leader() || archivist.archive.folder().is_some() {
            archivist.upload(&group, &partition).await
        } else {
            archivist.uploads.remove(&group);
            archivist.look(&group, &partition).await
        };
        if done.is_ok() {
            archivist.tend_snapshots(&group, &partition).await;
        }
        if context.stopping.is_cancelled() {
            // The partitions are being closed. The next start continues.
            return Ok(());
        }
        if let Err(error) = done {
            tracing::error!(%group, %error, "a partition is not archived; this will be tried again");
            metrics::counter!("statehouse_archive_failures_total").increment(1);
            failed = Some(error);
        }
    }
    let views = archivist.keep_views().await;
    match failed {
        // Another history never becomes this one, so that error must not fail the round.
        Some(Hindrance::Archive(error)) if !matches!(error, ArchiveError::OtherHistory { .. }) => Err(error),
        _ => views,
    }
}

impl Cluster {
    /// Whether the archive has all that is applied on this node, as of the last round of archiving.
    pub fn is_archived(&self) -> bool {
        let archived = self.context().published.archived.borrow().times.clone();
        let mut replicas = self.context().replicas().into_iter();
        replicas.all(|(group, partition)| {
            let journal = partition.progress().journal;
            journal.index == JournalIndex(0) || archived.get(&group).is_some_and(|time| journal.time <= *time)
        })
    }
}

impl Archivist {
    async fn upload(&mut self, group: &GroupName, partition: &Arc<Partition>) -> Result<(), Hindrance> {
        let mut upload = match self.uploads.remove(group) {
            Some(upload) => upload,
            None => match self.begin(group, partition).await? {
                Some(upload) => upload,
                None => return Ok(()),
            },
        };
        self.go(&mut upload, group, partition).await?;
        let last = upload.last();
        show(group, last, partition);
        self.note(group, last, partition)?;
        self.uploads.insert(group.clone(), upload);
        self.keep_snapshots(group, last, partition).await
    }

    /// Where to continue; `None` while this replica lags behind what is archived.
    async fn begin(&self, group: &GroupName, partition: &Arc<Partition>) -> Result<Option<Upload>, Hindrance> {
        let none = JournalIndex(0);
        let hindered = |error| Hindrance::Partition(error, none);
        let genesis = partition.genesis();
        let beginning = match partition.find_entry(JournalIndex(1)) {
            Ok(_) | Err(PartitionError::NoEntry(_)) => (genesis.index, genesis.head),
            Err(PartitionError::Released { .. }) if self.can_begin_at_genesis(group, &genesis).await? => {
                (genesis.index, genesis.head)
            }
            Err(PartitionError::Released { first, .. }) => {
                let journal = partition.progress().journal;
                if journal.index < first {
                    (journal.index, journal.head)
                } else {
                    let parent = partition.find_entry(first).map_err(hindered)?.entry.header().parent;
                    (JournalIndex(first.0 - 1), parent)
                }
            }
            Err(error) => return Err(hindered(error)),
        };
        let stream = Stream { cluster: self.cluster, machine: group.machine.to_string(), partition: group.partition };
        let spool = self.spool(group);
        let upload = Upload::begin(self.archive.clone(), stream, Boundary::default(), beginning, spool).await?;
        let (last, head) = (upload.last(), upload.head());
        if (last, head) == beginning && none < last {
            tracing::warn!(
                %group,
                first = last.0 + 1,
                "the archive of this partition begins here: earlier entries are in no log of this node"
            );
        }
        if !self.is_reached(group, last, partition).await? {
            return Ok(None);
        }
        self.compare(group, last, head, partition)?;
        Ok(Some(upload))
    }

    /// Whether this replica has applied an entry of the archive.
    ///
    /// # Errors
    /// It never will: it leads and has applied all that was ever committed, so that entry is of another history.
    async fn is_reached(
        &self,
        group: &GroupName,
        last: JournalIndex,
        partition: &Partition,
    ) -> Result<bool, Hindrance> {
        let is_behind = || partition.progress().journal.index < last;
        if is_behind() && partition.is_leader() {
            let read = partition.read_linearizable(Instant::now() + PATIENCE).await;
            read.map_err(|error| Hindrance::Partition(error, last))?;
            if is_behind() {
                return Err(self.other_history(group, last).into());
            }
        }
        Ok(!is_behind())
    }

    /// Checks that an entry of the archive is that of this journal, if the log has it.
    fn compare(
        &self,
        group: &GroupName,
        last: JournalIndex,
        head: Head,
        partition: &Partition,
    ) -> Result<(), Hindrance> {
        let own = partition.head_at(last).map_err(|error| Hindrance::Partition(error, last))?;
        if own.is_some_and(|own| own != head) {
            return Err(self.other_history(group, last).into());
        }
        Ok(())
    }

    fn other_history(&self, group: &GroupName, index: JournalIndex) -> ArchiveError {
        let (url, machine) = (self.archive.url().to_owned(), group.machine.to_string());
        ArchiveError::OtherHistory { url, machine, partition: group.partition, index }
    }

    /// Archives the canonical snapshots that the archived journal can prove.
    async fn keep_snapshots(
        &mut self,
        group: &GroupName,
        last: JournalIndex,
        partition: &Partition,
    ) -> Result<(), Hindrance> {
        let known = self.archived_snapshots(group);
        let mut kept = match known {
            Some(kept) => kept,
            None => self.list_snapshots(group).await?,
        };
        let mut result = Ok(());
        for listed in partition.canonical_snapshots() {
            if last < listed.facts.journal.index || kept.contains(&listed.name) {
                continue;
            }
            let file = partition.canonical_file(&listed);
            let keeping = async {
                check_snapshot(&file, &listed.name).await?;
                Ok(self.archive.keep(&group.machine, group.partition, &file).await?)
            };
            match keeping.await {
                Ok(bytes) => {
                    metrics::counter!("statehouse_archive_bytes_total").increment(bytes);
                    kept.insert(listed.name);
                    self.publish_snapshots(group, kept.clone());
                }
                // A snapshot that cannot be archived does not hold up the others.
                Err(error) => result = Err(error),
            }
        }
        result
    }

    async fn list_snapshots(&self, group: &GroupName) -> Result<BTreeSet<String>, ArchiveError> {
        let names = self.archive.snapshots(&group.machine, group.partition).await?;
        let names: BTreeSet<String> = names.into_iter().collect();
        self.publish_snapshots(group, names.clone());
        Ok(names)
    }

    fn archived_snapshots(&self, group: &GroupName) -> Option<BTreeSet<String>> {
        self.archiving.archived.borrow().snapshots.get(group).cloned()
    }

    fn publish_snapshots(&self, group: &GroupName, names: BTreeSet<String>) {
        self.archiving.archived.send_modify(|archived| _ = archived.snapshots.insert(group.clone(), names));
    }

    /// Archives the modules of views. No entry needs them, but only the nodes of this cluster have them.
    async fn keep_views(&mut self) -> Result<(), ArchiveError> {
        let is_leader = self.context.system_partition().is_some_and(|partition| partition.is_leader());
        if !is_leader && self.archive.folder().is_none() {
            return Ok(());
        }
        let rows: Vec<_> = self.context.directory().views.values().cloned().collect();
        let views = rows.iter().flat_map(|row| &row.views).map(|view| ModuleId(view.module));
        let missing: BTreeSet<ModuleId> = views.filter(|id| !self.modules.contains(id)).collect();
        for id in missing {
            // One that is still on its way to this node is archived in a later round.
            let Ok(wasm) = self.context.registry.read(id) else { continue };
            self.archive.keep_module(id, wasm).await?;
            self.modules.insert(id);
        }
        Ok(())
    }

    /// Fetches one canonical snapshot that this node lacks, and deletes those that it need not keep.
    async fn tend_snapshots(&self, group: &GroupName, partition: &Partition) {
        let archived = self.archived_snapshots(group).unwrap_or_default();
        let keep = self.context.opening.snapshot_keep;
        let spool = self.spool(group).with_extension("fetched");
        let fetched = match self.context.fetching.try_lock() {
            Ok(_turn) => {
                snapshot_retention::fetch_missing(&self.archive, &archived, group, partition, keep, &spool).await
            }
            // A snapshot is being fetched from another node. The next round sees what is still missing after that.
            Err(_) => Ok(None),
        };
        match fetched {
            Ok(Some(fetched)) => {
                tracing::info!(%group, file = fetched.name, "a canonical snapshot came from the archive")
            }
            Ok(None) => {}
            Err(_) if self.context.stopping.is_cancelled() => {}
            Err(error) => {
                tracing::error!(
                    %group,
                    %error,
                    "a canonical snapshot that this node lacks is not fetched; this will be tried again"
                );
                metrics::counter!("statehouse_archive_failures_total").increment(1);
            }
        }
        if let Some(keep) = keep {
            snapshot_retention::delete_surplus(group, partition, keep, |name| archived.contains(name));
        }
    }

    fn spool(&self, group: &GroupName) -> PathBuf {
        self.context.folder.path().join(SPOOL).join(&*group.machine).join(group.partition.to_string())
    }

    /// Lists the snapshots that the leader has archived. If logs are released here, it also finds how far the archived
    /// journal reaches, and checks that it is this journal.
    async fn look(&self, group: &GroupName, partition: &Partition) -> Result<(), Hindrance> {
        self.list_snapshots(group).await?;
        if self.context.opening.log_keep_bytes.is_none() {
            return Ok(());
        }
        let names = self.archive.segments(&group.machine, group.partition).await?;
        let newest = names.into_iter().max_by_key(|name| name.last);
        show(group, newest.as_ref().map_or(JournalIndex(0), |name| name.last), partition);
        let Some(name) = newest.filter(|name| name.last <= partition.progress().journal.index) else { return Ok(()) };
        let head = self.archive.head_after(&group.machine, group.partition, &name).await?;
        self.compare(group, name.last, head, partition)?;
        self.note(group, name.last, partition)
    }

    /// Notes that the log may release what it has up to this entry.
    fn note(&self, group: &GroupName, last: JournalIndex, partition: &Partition) -> Result<(), Hindrance> {
        if last == JournalIndex(0) {
            return Ok(());
        }
        let journal = partition.progress().journal;
        let time = if journal.index == last {
            // The entry may be in no log here: this node was sent the state after it.
            journal.time
        } else {
            match partition.find_entry(last) {
                Ok(recorded) => recorded.entry.header().time,
                // It was released, so it was known to be archived; or it is before the beginning of what is archived.
                Err(PartitionError::Released { .. }) => return Ok(()),
                Err(error) => return Err(Hindrance::Partition(error, last)),
            }
        };
        self.archiving.archived.send_modify(|archived| _ = archived.times.insert(group.clone(), time));
        Ok(())
    }
}

fn show(group: &GroupName, last: JournalIndex, partition: &Partition) {
    let labels = [("machine", group.machine.to_string()), ("partition", group.partition.to_string())];
    metrics::gauge!("statehouse_archive_index", &labels).set(last.0 as f64);
    let behind = last.distance_to(partition.progress().journal.index);
    metrics::gauge!("statehouse_archive_lag_entries", &labels).set(behind as f64);
}

/// Checks that the bytes of a snapshot are still those that were written, because what is archived stays.
async fn check_snapshot(file: &Path, name: &str) -> Result<(), Hindrance> {
    let path = file.to_owned();
    let checking = tokio::task::spawn_blocking(move || SnapshotFile::open(&RealDisk, &path)?.visit(|_, _| {}));
    let checked = checking.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    checked.map_err(|error| Hindrance::Snapshot { name: name.to_owned(), reason: error.to_string() })
}
