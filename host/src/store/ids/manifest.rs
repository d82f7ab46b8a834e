//! The manifest: the runs that make up the index, oldest first, and the secret of its hash. It is replaced as a whole.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `shidm001` |
//! | 8 | 3 × 8 | seed of the hash |
//! | 32 | 8 | `applied`: the ids of the journal up to this entry are in the runs |
//! | 40 | 8 | number for the next run |
//! | 48 | 24 each | runs: number, `after`, `last` |
//! | end − 32 | 32 | blake3 of all bytes before |
//!
//! All integers are little-endian. Files that it does not name are removed when the index is opened. Without a readable
//! manifest the index is empty: that is never wrong, only slow. The manifest does not know what is in a run.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::super::StoreError;
use super::super::meta::bytes_at;
use super::record::IdHasher;
use super::run::{Run, Span};
use crate::disk::{Disk, Unfinished, read_whole};
use crate::ids::JournalIndex;
use crate::regular;

const NAME: &str = "manifest";
const MAGIC: &[u8; 8] = b"shidm001";
const MAGIC_FAMILY: &[u8] = b"shidm";
const FIXED_SIZE: usize = 48;
const SPAN_SIZE: usize = 24;
const CHECKSUM_SIZE: usize = 32;
/// Far more than the runs of any index need.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub hasher: IdHasher,
    pub applied: JournalIndex,
    pub number_next: u64,
    pub spans: Vec<Span>,
}

impl Manifest {
    fn empty() -> Self {
        Self { hasher: IdHasher::random(), applied: JournalIndex(0), number_next: 1, spans: Vec::new() }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let fixed = self.hasher.seed.into_iter().chain([self.applied.0, self.number_next]);
        let spans = self.spans.iter().flat_map(|span| [span.number, span.after.0, span.last.0]);
        fixed.chain(spans).for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    /// `None` if the bytes are damaged.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        let checked = checked(raw)?;
        if !checked.starts_with(MAGIC) || checked.len() < FIXED_SIZE {
            return None;
        }
        let number = |raw: &[u8], field: usize| u64::from_le_bytes(bytes_at(raw, field * 8));
        let (spans, rest) = checked[FIXED_SIZE..].as_chunks::<SPAN_SIZE>();
        let span = |raw: &[u8; SPAN_SIZE]| Span {
            number: number(raw, 0),
            after: JournalIndex(number(raw, 1)),
            last: JournalIndex(number(raw, 2)),
        };
        rest.is_empty().then(|| Self {
            hasher: IdHasher { seed: [1, 2, 3].map(|field| number(checked, field)) },
            applied: JournalIndex(number(checked, 4)),
            number_next: number(checked, 5),
            spans: spans.iter().map(span).collect(),
        })
    }

    /// Replaces the manifest in `dir`. The new one is durable on return. After an error either the old or the new one
    /// is there.
    pub fn write(&self, disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), StoreError> {
        let aside = dir.join("manifest.new");
        let written = || StoreError::io(&aside, "written");
        let mut file = Unfinished::create(disk.clone(), aside.clone()).map_err(written())?;
        file.write_all(&self.encode()).map_err(written())?;
        file.sync().map_err(written())?;
        fail::fail_point!("ids::before_manifest_rename", |_| std::process::abort());
        file.name(&dir.join(NAME)).map_err(StoreError::io(&aside, "renamed"))?;
        fail::fail_point!("ids::after_manifest_rename", |_| std::process::abort());
        Ok(())
    }
}

/// The last journal entry whose ids are in the runs of a folder, according to its manifest alone; `None` if there is no
/// readable manifest. Nothing in the folder is changed.
pub fn applied_in(dir: &Path) -> Option<JournalIndex> {
    let raw = regular::read(&dir.join(NAME), MANIFEST_BYTES_MAX).ok()?;
    Manifest::decode(&raw).map(|manifest| manifest.applied)
}

/// The bytes that the checksum at the end covers; `None` if they do not match it.
fn checked(raw: &[u8]) -> Option<&[u8]> {
    let (checked, checksum) = raw.split_at_checked(raw.len().checked_sub(CHECKSUM_SIZE)?)?;
    (blake3::hash(checked).as_bytes()[..] == *checksum).then_some(checked)
}

/// The manifest of a folder and its runs, up to the first that is missing or damaged. Everything else is removed.
pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(Manifest, Vec<Arc<Run>>), StoreError> {
    let path = dir.join(NAME);
    let raw = match read_whole(&**disk, &path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        raw => raw.map_err(StoreError::io(&path, "read"))?,
    };
    // Every format of the family ends with the same checksum, so that a flipped bit is not mistaken for a later
    // program.
    if raw.starts_with(MAGIC_FAMILY) && !raw.starts_with(MAGIC) && checked(&raw).is_some() {
        return Err(StoreError::IdsFormat { path });
    }
    let mut manifest = Manifest::decode(&raw).unwrap_or_else(|| {
        if !raw.is_empty() {
            tracing::error!(path = %path.display(), "id index: the manifest is damaged, all ids are recorded again");
        }
        Manifest::empty()
    });
    let mut runs: Vec<Arc<Run>> = Vec::new();
    for span in &manifest.spans {
        match Run::open(disk, dir, *span, &manifest.hasher) {
            Ok(run) => runs.push(Arc::new(run)),
            Err(error @ StoreError::IdsDamaged { .. }) => {
                tracing::error!(%error, "id index: a run is damaged, its ids and all newer ones are recorded again");
                break;
            }
            Err(StoreError::Io { source, path, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                tracing::error!(path = %path.display(), "id index: a run is missing, its ids are recorded again");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if runs.len() < manifest.spans.len() {
        manifest.applied = manifest.spans[runs.len()].after;
        manifest.spans.truncate(runs.len());
    }
    manifest.write(disk, dir)?;
    remove_strangers(&**disk, dir, &manifest)?;
    Ok((manifest, runs))
}

/// Removes the leftovers of an unfinished write or of a removed run.
fn remove_strangers(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<(), StoreError> {
    let known: Vec<_> = manifest.spans.iter().map(|span| span.path(dir)).chain([dir.join(NAME)]).collect();
    for name in disk.list(dir).map_err(StoreError::io(dir, "read"))? {
        let path = dir.join(name);
        if !known.contains(&path) {
            disk.remove(&path).map_err(StoreError::io(&path, "removed"))?;
        }
    }
    Ok(())
}
