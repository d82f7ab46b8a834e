//! What `validate` and `apply` see of the world: the entry's time and seed, their op, and the rows it may touch.
//!
//! A row is found by comparing its suffix with the few keys the op declared. Outside of those, `execute` notes the key
//! for the host and reads it as absent; `apply` panics, because events that were accepted had all their keys.
//! They know nothing of batches or groups.

use borsh::{BorshDeserialize, BorshSerialize};
use statehouse_abi::call::Context;
use statehouse_abi::key::{LOCAL, Scope, key};
use statehouse_abi::ops::{Op, OpRole, OpsBlock};
use statehouse_abi::rows::RowsBlock;

use crate::overlay::Overlay;

/// What touching an undeclared key does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undeclared {
    /// It is reported to the host, and the group is run again.
    Reported,
    Panics,
}

/// An op in its batch.
pub(crate) struct Frame<'a> {
    pub ops: &'a OpsBlock<'a>,
    pub rows: &'a RowsBlock<'a>,
    pub context: &'a Context,
    pub op: Op<'a>,
    pub op_index: u32,
    pub undeclared: Undeclared,
}

impl<'a> Frame<'a> {
    /// The index of the op's declared key, or `None` after noting that it is needed.
    #[inline]
    fn find(&self, overlay: &Overlay, scope: Scope, suffix: &[u8]) -> Option<u32> {
        let entity = match scope {
            Scope::Own => self.op.entity,
            Scope::Local => LOCAL,
        };
        // INVARIANT: an op's keys are of its entity or of `@local`, so the length of the name in a key tells which,
        // unless both names are equally long.
        let is_told_by_len = self.op.entity.len() != LOCAL.len();
        for index in self.op.keyrefs() {
            let key = self.ops.key(index as usize);
            if has_suffix(key, entity, suffix) && (is_told_by_len || key[1..1 + entity.len()] == *entity) {
                return Some(index);
            }
        }
        self.miss(overlay, entity, suffix);
        None
    }

    #[cold]
    fn miss(&self, overlay: &Overlay, entity: &[u8], suffix: &[u8]) {
        let key = key(entity, suffix);
        assert!(
            self.undeclared == Undeclared::Reported,
            "op {} touched the undeclared key {}",
            self.op_index,
            key.escape_ascii()
        );
        overlay.need(self.op_index, key);
    }

    #[inline]
    fn row<'r>(&'r self, overlay: &'r Overlay, scope: Scope, suffix: &[u8]) -> Option<&'r [u8]> {
        let key = self.find(overlay, scope, suffix)?;
        overlay.row(self.rows, key)
    }

    #[inline]
    fn read<T: BorshDeserialize>(&self, overlay: &Overlay, scope: Scope, suffix: &[u8]) -> Option<T> {
        let row = self.row(overlay, scope, suffix)?;
        match borsh::from_slice(row) {
            Ok(row) => Some(row),
            Err(error) => {
                panic!("row {} of {} is malformed: {error}", suffix.escape_ascii(), self.op.entity.escape_ascii())
            }
        }
    }
}

/// Whether the key is of an entity with a name of this length, and has this suffix.
#[inline]
fn has_suffix(key: &[u8], entity: &[u8], suffix: &[u8]) -> bool {
    let suffix_start = 1 + entity.len();
    key.len() == suffix_start + suffix.len() && key[0] as usize == entity.len() && is_same(&key[suffix_start..], suffix)
}

/// Equality of two slices of one length, without the call that comparing slices is: keys are a few bytes long.
/// What does not fill a word is compared as a word that overlaps the one before.
#[inline]
fn is_same(a: &[u8], b: &[u8]) -> bool {
    if let (Some(a_last), Some(b_last)) = (a.last_chunk::<8>(), b.last_chunk::<8>()) {
        let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
        return u64::from_le_bytes(*a_last) == u64::from_le_bytes(*b_last)
            && words.into_iter().all(|(a, b)| u64::from_le_bytes(*a) == u64::from_le_bytes(*b));
    }
    if let (Some(a_last), Some(b_last)) = (a.last_chunk::<4>(), b.last_chunk::<4>()) {
        return a.first_chunk::<4>() == b.first_chunk() && a_last == b_last;
    }
    a.iter().zip(b).all(|(a, b)| a == b)
}

/// The rows and the context of one op, for reading.
pub struct View<'a> {
    pub(crate) frame: &'a Frame<'a>,
    pub(crate) overlay: &'a Overlay,
}

/// The rows and the context of one event's op, for changing.
pub struct Tx<'a> {
    pub(crate) frame: &'a Frame<'a>,
    pub(crate) overlay: &'a mut Overlay,
}

macro_rules! reading {
    ($frame:ident) => {
        impl<'a> $frame<'a> {
            /// The entity of the op.
            #[inline]
            pub fn entity(&self) -> &'a [u8] {
                self.frame.op.entity
            }

            /// The entity of the op, where the plan made it from text.
            pub fn entity_text(&self) -> &'a str {
                core::str::from_utf8(self.frame.op.entity).expect("the plan made this entity from text")
            }

            /// Time of the entry, microseconds since 1970 UTC; rises strictly from entry to entry of a partition.
            pub fn time(&self) -> i64 {
                self.frame.context.time
            }

            /// Chance, chosen by the leader for the whole entry.
            pub fn seed(&self) -> &'a [u8; 32] {
                &self.frame.context.seed
            }

            /// Whether the op undoes a step that was done: only the host asks for that.
            pub fn is_undo(&self) -> bool {
                self.frame.op.role == OpRole::Undo as u32
            }

            /// A row of the op's entity.
            #[inline]
            pub fn row(&self, suffix: impl AsRef<[u8]>) -> Option<&[u8]> {
                self.frame.row(self.overlay, Scope::Own, suffix.as_ref())
            }

            /// A row of `@local`.
            #[inline]
            pub fn local_row(&self, suffix: impl AsRef<[u8]>) -> Option<&[u8]> {
                self.frame.row(self.overlay, Scope::Local, suffix.as_ref())
            }

            /// A row of the op's entity, decoded; a malformed one panics.
            #[inline]
            pub fn read<T: BorshDeserialize>(&self, suffix: impl AsRef<[u8]>) -> Option<T> {
                self.frame.read(self.overlay, Scope::Own, suffix.as_ref())
            }

            /// A row of `@local`, decoded; a malformed one panics.
            #[inline]
            pub fn read_local<T: BorshDeserialize>(&self, suffix: impl AsRef<[u8]>) -> Option<T> {
                self.frame.read(self.overlay, Scope::Local, suffix.as_ref())
            }
        }
    };
}

reading!(View);
reading!(Tx);

impl Tx<'_> {
    /// Sets a row of the op's entity.
    pub fn put(&mut self, suffix: impl AsRef<[u8]>, row: &[u8]) {
        self.put_with(Scope::Own, suffix.as_ref(), |out| out.extend_from_slice(row));
    }

    /// Sets a row of `@local`.
    pub fn put_local(&mut self, suffix: impl AsRef<[u8]>, row: &[u8]) {
        self.put_with(Scope::Local, suffix.as_ref(), |out| out.extend_from_slice(row));
    }

    /// Encodes and sets a row of the op's entity.
    #[inline]
    pub fn write<T: BorshSerialize>(&mut self, suffix: impl AsRef<[u8]>, row: &T) {
        self.put_with(Scope::Own, suffix.as_ref(), |out| encode(out, row));
    }

    /// Encodes and sets a row of `@local`.
    #[inline]
    pub fn write_local<T: BorshSerialize>(&mut self, suffix: impl AsRef<[u8]>, row: &T) {
        self.put_with(Scope::Local, suffix.as_ref(), |out| encode(out, row));
    }

    /// Changes the bytes of a row of the op's entity in place, which spares decoding it; its size stays.
    /// `false` when there is no such row, and nothing is changed.
    #[inline]
    pub fn edit(&mut self, suffix: impl AsRef<[u8]>, change: impl FnOnce(&mut [u8])) -> bool {
        self.edit_in(Scope::Own, suffix.as_ref(), change)
    }

    /// Changes the bytes of a row of `@local` in place; its size stays. `false` when there is no such row.
    #[inline]
    pub fn edit_local(&mut self, suffix: impl AsRef<[u8]>, change: impl FnOnce(&mut [u8])) -> bool {
        self.edit_in(Scope::Local, suffix.as_ref(), change)
    }

    /// Deletes a row of the op's entity; one that is not there stays so.
    pub fn delete(&mut self, suffix: impl AsRef<[u8]>) {
        self.delete_in(Scope::Own, suffix.as_ref());
    }

    /// Deletes a row of `@local`; one that is not there stays so.
    pub fn delete_local(&mut self, suffix: impl AsRef<[u8]>) {
        self.delete_in(Scope::Local, suffix.as_ref());
    }

    #[inline]
    fn put_with(&mut self, scope: Scope, suffix: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(key) = self.frame.find(self.overlay, scope, suffix) {
            self.overlay.put(key, write);
        }
    }

    #[inline]
    fn edit_in(&mut self, scope: Scope, suffix: &[u8], change: impl FnOnce(&mut [u8])) -> bool {
        let key = self.frame.find(self.overlay, scope, suffix);
        key.is_some_and(|key| self.overlay.edit(self.frame.rows, key, change))
    }

    fn delete_in(&mut self, scope: Scope, suffix: &[u8]) {
        if let Some(key) = self.frame.find(self.overlay, scope, suffix) {
            self.overlay.delete(key);
        }
    }
}

/// Where `validate` puts its events; they are applied when it has accepted the op.
pub struct Events<'a, Event> {
    pub(crate) events: &'a mut Vec<Event>,
}

impl<Event> Events<'_, Event> {
    #[inline]
    pub fn emit(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// Appends the borsh encoding.
#[inline]
pub(crate) fn encode(out: &mut Vec<u8>, value: &impl BorshSerialize) {
    borsh::to_writer(out, value).expect("a vector takes all bytes");
}
