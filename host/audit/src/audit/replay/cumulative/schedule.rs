//! The entries of all partitions in one causal order: by time, then partition, then index.
//!
//! In: journals. Out: their effective entries, one after the other. What one partition causes in another is recorded at
//! a later time, so no entry precedes its cause. Void entries are skipped. It does not know what entries mean.

use std::collections::BTreeMap;

use crate::audit::error::AuditError;
use crate::audit::replay::cumulative::not_replayed;
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::history::PartitionJournal;
use crate::ids::{Head, Micros, PartitionId};
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Verdict};

type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, AuditError>> + 'a>;

/// Journals side by side.
pub struct Schedule<'a> {
    machine: String,
    journals: Vec<(Journal, Entries<'a>)>,
    /// The next effective entry of each partition, with the head after it.
    next: BTreeMap<(Micros, u32), (Head, Entry)>,
}

impl<'a> Schedule<'a> {
    /// `opened` is in the order of partitions.
    pub fn new(machine: &str, opened: &[&'a dyn PartitionJournal]) -> Result<Self, ReplayFault> {
        let journals = opened.iter().map(|opened| (opened.genesis(), opened.entries())).collect();
        let mut schedule = Self { machine: machine.to_owned(), journals, next: BTreeMap::new() };
        for partition in 0..opened.len() {
            schedule.read(partition)?;
        }
        Ok(schedule)
    }

    /// The next entry, its partition, and the head after it.
    pub fn next_effective(&mut self) -> Result<Option<(PartitionId, Head, Entry)>, ReplayFault> {
        let Some(((_, partition), (head, entry))) = self.next.pop_first() else { return Ok(None) };
        self.read(partition as usize)?;
        Ok(Some((PartitionId(partition), head, entry)))
    }

    fn read(&mut self, partition: usize) -> Result<(), ReplayFault> {
        let number = u32::try_from(partition).expect("a machine has few partitions");
        let (journal, entries) = &mut self.journals[partition];
        for entry in entries {
            let entry = entry?;
            let verdict = journal.judge(&entry);
            match verdict.map_err(|error| not_replayed(&self.machine, number, error.into()))? {
                Verdict::Void => {}
                Verdict::Effective(after) => {
                    *journal = after;
                    self.next.insert((entry.header().time, number), (after.head, entry));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
