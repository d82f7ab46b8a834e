//! One run of an upload: what is applied and not archived yet comes from this node's log, and what the node never had
//! comes from the others.
//!
//! ```text
//! where the archive's sealed part ends ─▶ own log or archive ─▶ gap? the others ─▶ own log ─▶ what is applied now
//! ```
//! In: an upload that has begun. Out: the archive reaches as far as this replica; or why it does not. Their hashes
//! prove that the entries of others follow what is archived, and that the log follows them.

use tokio::time::Instant;

use super::{Archivist, Hindrance, PATIENCE};
use crate::archive::{Upload, UploadRun};
use crate::ids::{JournalIndex, ModuleId, NodeId};
use crate::machine::entry::{Entry, EntryKind};
use crate::machine::journal::Journal;
use crate::partition::tail::Tail;
use crate::partition::{Partition, PartitionError};
use crate::peer::GroupName;
use crate::system::journal_fetch::{self, Incoming, Stand};
use crate::system::modules::find_module;

impl Archivist {
    /// Whether nothing is archived yet, and another node can send the journal from its first entry on.
    pub(super) async fn can_begin_at_genesis(&self, group: &GroupName, genesis: &Journal) -> Result<bool, Hindrance> {
        if !self.archive.segments(&group.machine, group.partition).await?.is_empty() {
            return Ok(false);
        }
        let heard = self.heard();
        if heard.is_empty() && !self.context.others().is_empty() {
            return Err(Hindrance::Unheard);
        }
        for node in heard {
            let stand = (genesis.index, genesis.head);
            let first = Incoming::open(&self.context, node, group, stand, genesis.index.next()).await;
            let first = match first {
                Ok(mut incoming) => incoming.next().await,
                Err(error) => Err(error),
            };
            match first {
                Ok(_) => return Ok(true),
                Err(error) => {
                    tracing::debug!(%group, %node, %error, "a node cannot send the journal from its first entry on")
                }
            }
        }
        Ok(false)
    }

    /// Uploads from where the archive's sealed part ends to what is applied now. What this node never had comes from
    /// the others.
    pub(super) async fn go(
        &mut self,
        upload: &mut Upload,
        group: &GroupName,
        partition: &Partition,
    ) -> Result<(), Hindrance> {
        let end = partition.progress().journal.index;
        if end <= upload.last() {
            return Ok(());
        }
        let mut stand = upload.sealed();
        let mut go = upload.go()?;
        while stand.0 < end {
            let Err(error) = self.push_own(&mut go, &mut stand, end, partition).await else { continue };
            let Hindrance::Partition(PartitionError::Released { first, .. }, _) = error else { return Err(error) };
            let last = end.min(JournalIndex(first.0 - 1));
            if last <= stand.0 {
                return Err(error);
            }
            self.push_missing(&mut go, &mut stand, last, group, partition).await?;
        }
        let kept = go.finish().await?;
        metrics::counter!("statehouse_archive_bytes_total").increment(kept.bytes);
        tracing::debug!(%group, files = kept.files, bytes = kept.bytes, "archived");
        Ok(())
    }

    /// Uploads what this node has after `stand`, up to `end`.
    async fn push_own(
        &mut self,
        go: &mut UploadRun<'_>,
        stand: &mut Stand,
        end: JournalIndex,
        partition: &Partition,
    ) -> Result<(), Hindrance> {
        let start = journal_fetch::start_after(partition, *stand);
        let hindered = |stand: &Stand| {
            let index = stand.0;
            move |error| Hindrance::Partition(error, index)
        };
        let mut tail = Tail::open(partition, start, Instant::now() + PATIENCE).await.map_err(hindered(stand))?;
        while stand.0 < end {
            let next = tail.next().await.map_err(hindered(stand))?;
            self.push(go, stand, next.entry()).await?;
        }
        Ok(())
    }

    /// Uploads what neither the log nor the archive of this node has after `stand`, up to `last`. It comes from the
    /// others, each of which may have some of it.
    async fn push_missing(
        &mut self,
        go: &mut UploadRun<'_>,
        stand: &mut Stand,
        last: JournalIndex,
        group: &GroupName,
        partition: &Partition,
    ) -> Result<(), Hindrance> {
        let (first, heard) = (stand.0.next(), self.heard());
        let mut said = Vec::new();
        for node in heard {
            let done = async {
                let mut incoming = Incoming::open(&self.context, node, group, *stand, last).await?;
                while let Some(entry) = incoming.next().await? {
                    if !partition.is_running() {
                        return Err(Hindrance::Closed);
                    }
                    self.push(go, stand, &entry).await?;
                }
                Ok(())
            };
            match done.await {
                Ok(()) => {
                    tracing::info!(
                        %group,
                        %node,
                        %first,
                        %last,
                        "entries that this node never had are archived from another node"
                    );
                    return Ok(());
                }
                Err(Hindrance::History(error)) => said.push(format!("node {node}: {error}")),
                Err(error) => return Err(error),
            }
        }
        let said = if said.is_empty() { "none answers".to_owned() } else { said.join("; ") };
        Err(Hindrance::Missing { first: stand.0.next(), last, said })
    }

    /// The other nodes that answer.
    fn heard(&self) -> Vec<NodeId> {
        let others = self.context.others();
        let answering = self.context.published.answering.borrow();
        others.into_iter().filter(|node| answering.contains(node)).collect()
    }

    async fn push(&mut self, go: &mut UploadRun<'_>, stand: &mut Stand, entry: &Entry) -> Result<(), Hindrance> {
        self.keep_modules(entry).await?;
        go.push(entry).await?;
        *stand = (entry.header().index, entry.head_after());
        Ok(())
    }

    /// Archives the modules that an entry needs. No segment is archived before them.
    async fn keep_modules(&mut self, entry: &Entry) -> Result<(), Hindrance> {
        let activated = (entry.header().kind == EntryKind::Activate).then(|| entry.activation().ok()).flatten();
        for id in activated.map(|activation| activation.module).into_iter().chain([entry.header().decider]) {
            if id == ModuleId::ZERO || self.modules.contains(&id) {
                continue;
            }
            let logic = find_module(&self.context, id).await;
            let logic = logic.map_err(|error| Hindrance::Module(id, error.to_string()))?;
            // A module that is linked into the host has no bytes.
            if !self.context.registry.is_native(logic.id()) {
                let wasm = self.context.registry.read(id).map_err(|error| Hindrance::Module(id, error.to_string()))?;
                self.archive.keep_module(id, wasm).await?;
            }
            self.modules.insert(id);
        }
        Ok(())
    }
}
