//! Every head that a journal had, to distinguish an entry of unknown origin from one that was only late.
//!
//! An entry is void if others became effective before it. The head on which it was computed is then an earlier head of
//! this journal, or that of another void entry, because leaders compute on nothing else. If it is neither, an entry
//! before it was changed, removed, or moved. In: entries with their verdicts, in order. Out: the first one of unknown
//! origin. Memory: about 20 bytes an entry. This file does not know what an entry contains.

use hashbrown::HashSet;

use crate::ids::{Head, JournalIndex};
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Verdict};

/// The heads so far.
pub struct Heads(HashSet<[u8; 16]>);

/// An entry that was computed on a head that the journal never had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "entry {index} was computed on the head {}, which this journal never had: the entry before it was changed, \
     removed or moved",
    parent.short()
)]
pub struct Stray {
    /// What the entry says about itself.
    pub index: JournalIndex,
    pub parent: Head,
}

impl Heads {
    pub fn new(genesis: &Journal) -> Self {
        Self(HashSet::from([short(genesis.head)]))
    }

    /// Takes the next entry in.
    ///
    /// # Errors
    /// The entry has an unknown origin, and so has everything that follows it.
    pub fn check(&mut self, entry: &Entry, verdict: &Verdict) -> Result<(), Stray> {
        let head = match verdict {
            Verdict::Effective(after) => after.head,
            Verdict::Void => {
                let header = entry.header();
                if !self.0.contains(&short(header.parent)) {
                    return Err(Stray { index: header.index, parent: header.parent });
                }
                entry.head_after()
            }
        };
        self.0.insert(short(head));
        Ok(())
    }
}

fn short(head: Head) -> [u8; 16] {
    *head.0.first_chunk().expect("a head has 32 bytes")
}
