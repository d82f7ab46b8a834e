//! The meta row: the position of a store's rows in the log, the journal and time. It is written atomically with them.
//!
//! All integers are little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `format` = [`META_FORMAT`] |
//! | 4 | 8 + 8 + 8 | Raft's id of the last applied entry: term, node, index |
//! | 28 | 8 | journal index |
//! | 36 | 8 | time of the last effective entry, µs since 1970 |
//! | 44 | 4 | schema version of the rows |
//! | 48 | 32 | head of the journal |
//! | 80 | 32 | active module |
//! | 112 | 4 | length of what follows, at least 8 |
//! | 116 | 8 | number of the last activation |
//! | 124 | – | the group's membership as consensus encodes it; empty without one |
//!
//! This file does not know what the fields mean.

use bytes::Bytes;

use super::StoreError;
use crate::ids::{EntryId, Head, JournalIndex, LogIndex, Micros, ModuleId, NodeId, Term};

pub const META_FORMAT: u32 = 1;
const FIXED_SIZE: usize = 116;

/// The position of the rows after an applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub applied: EntryId,
    pub journal: JournalIndex,
    pub head: Head,
    pub time: Micros,
    pub module: ModuleId,
    pub schema: u32,
    /// Number of the last activation in `system`.
    pub activation: u64,
    /// What consensus must find beside the state; opaque.
    pub membership: Option<Bytes>,
}

impl Meta {
    pub fn encode(&self) -> Vec<u8> {
        let consensus = self.consensus();
        let mut out = Vec::with_capacity(FIXED_SIZE + consensus.len());
        out.extend_from_slice(&META_FORMAT.to_le_bytes());
        out.extend_from_slice(&self.applied.term.0.to_le_bytes());
        out.extend_from_slice(&self.applied.node.0.to_le_bytes());
        out.extend_from_slice(&self.applied.index.0.to_le_bytes());
        out.extend_from_slice(&self.journal.0.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        out.extend_from_slice(&self.schema.to_le_bytes());
        out.extend_from_slice(&self.head.0);
        out.extend_from_slice(&self.module.0);
        let len = u32::try_from(consensus.len()).expect("a membership is far below 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&consensus);
        out
    }

    /// The last field of the row, which the manifest of a snapshot has as well: `activation u64`, then the membership.
    pub fn consensus(&self) -> Vec<u8> {
        let mut out = self.activation.to_le_bytes().to_vec();
        out.extend_from_slice(self.membership.as_deref().unwrap_or_default());
        out
    }

    /// # Errors
    /// A format of a later program, or bytes that are not a meta row.
    pub fn decode(raw: &[u8]) -> Result<Self, StoreError> {
        let damaged = |what| StoreError::MetaDamaged { what };
        let (format, _) = raw.split_first_chunk::<4>().ok_or(damaged("cut short"))?;
        let format = u32::from_le_bytes(*format);
        if format != META_FORMAT {
            return Err(StoreError::MetaFormat { found: format, known: META_FORMAT });
        }
        if raw.len() < FIXED_SIZE {
            return Err(damaged("cut short"));
        }
        let number = |at| u64::from_le_bytes(bytes_at(raw, at));
        let consensus_len = u32::from_le_bytes(bytes_at(raw, 112)) as usize;
        if raw.len() - FIXED_SIZE != consensus_len {
            return Err(damaged("length of the consensus bytes"));
        }
        let (activation, membership) = split_consensus(&raw[FIXED_SIZE..]).ok_or(damaged("no activation"))?;
        Ok(Self {
            applied: EntryId { term: Term(number(4)), node: NodeId(number(12)), index: LogIndex(number(20)) },
            journal: JournalIndex(number(28)),
            time: Micros(i64::from_le_bytes(bytes_at(raw, 36))),
            schema: u32::from_le_bytes(bytes_at(raw, 44)),
            head: Head(bytes_at(raw, 48)),
            module: ModuleId(bytes_at(raw, 80)),
            activation,
            membership,
        })
    }
}

/// What [`Meta::consensus`] has put together; nothing if it is too short for that.
pub fn split_consensus(consensus: &[u8]) -> Option<(u64, Option<Bytes>)> {
    let (activation, membership) = consensus.split_first_chunk::<8>()?;
    let membership = (!membership.is_empty()).then(|| Bytes::copy_from_slice(membership));
    Some((u64::from_le_bytes(*activation), membership))
}

/// The bytes of a field. The caller has checked that the field lies inside `raw`.
pub(super) fn bytes_at<const SIZE: usize>(raw: &[u8], at: usize) -> [u8; SIZE] {
    *raw[at..].first_chunk().expect("the caller has checked the length")
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;
    use statehouse_fuzz::{of_hex, to_hex};

    use super::*;

    /// Every field is another one.
    fn meta(membership: Option<Bytes>) -> Meta {
        Meta {
            applied: EntryId { term: Term(3), node: NodeId(2), index: LogIndex(44) },
            journal: JournalIndex(42),
            head: Head([0x11; 32]),
            time: Micros(1_795_305_599_000_001),
            module: ModuleId([0x22; 32]),
            schema: 7,
            activation: 5,
            membership,
        }
    }

    fn check(meta: &Meta, released: &str) {
        assert_eq!(Meta::decode(&of_hex(released.as_bytes())).expect("what was released is read"), *meta);
    }

    /// The bytes of format 1 never change; a later format gets a file of its own.
    #[test]
    fn a_row_has_the_bytes_of_its_version() {
        assert_eq!(META_FORMAT, 1);
        let (alone, of_group) = (meta(None), meta(Some(Bytes::from_static(b"members"))));
        expect_file!["golden/meta-1.hex"].assert_eq(&to_hex(&alone.encode()));
        expect_file!["golden/meta-1-members.hex"].assert_eq(&to_hex(&of_group.encode()));
        check(&alone, include_str!("golden/meta-1.hex"));
        check(&of_group, include_str!("golden/meta-1-members.hex"));
    }

    mod fuzz {
        use statehouse_fuzz::{Target, fuzz, within};

        use super::*;

        #[test]
        fn a_row_that_is_accepted_is_written_byte_for_byte() {
            let seeds = [meta(None), meta(Some(Bytes::from_static(b"members")))].map(|meta| meta.encode());
            fuzz!(Target::new("meta_row").seeds(seeds), |input| {
                let Ok(meta) = within(1024 + 4 * input.len(), || Meta::decode(input)) else { return };
                assert_eq!(meta.encode(), input);
            });
        }
    }
}
