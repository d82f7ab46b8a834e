//! The keys that may have signed: those of a cluster's nodes, recomputed from the journal of `system` in a data folder.
//!
//! In: a data folder. Out: every key that a node of the cluster ever had, oldest first. No node needs to run, and none
//! is asked. This file knows nothing of certificates.

use statehouse_abi::key::split_key;

use crate::audit::error::AuditError;
use crate::audit::source::Source;
use crate::ids::PartitionId;
use crate::records::key_row::KeyRow;
use crate::records::logic::{SYSTEM, SystemRow, read_row};

/// # Errors
/// The journal of `system` cannot be read, or does not begin with its first entry here.
pub fn signers(source: &Source) -> Result<Vec<KeyRow>, AuditError> {
    let replay = source.partition(SYSTEM, PartitionId(0))?.replay(source, |_| true)?;
    let of_row = |(key, row): (&Vec<u8>, &Vec<u8>)| match split_key(key).and_then(|(_, suffix)| read_row(suffix, row)) {
        Some(SystemRow::Keys(row)) => Some(row.keys),
        _ => None,
    };
    Ok(replay.rows.iter().find_map(of_row).unwrap_or_default())
}
