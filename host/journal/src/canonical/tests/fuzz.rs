//! A fuzz target: a canonical snapshot as an auditor is given it.
//!
//! In: any bytes, also such whose hashes are right. Out: nothing, if a file that is read to its end is written again
//! with the same rows, and byte for byte if its manifest is as it should be. It does not know how inputs are made.

use std::path::Path;

use statehouse_fuzz::{Target, fuzz, within};

use super::super::manifest::{CanonicalManifest, HEADER_SIZE, TRAILER_SIZE, header};
use super::super::write::hash;
use super::*;
use crate::disk::{Disk, SimDisk};
use crate::ids::Digest;

/// Memory for reading: the manifest, its chunks, and one chunk at a time.
fn bound(input: &[u8]) -> usize {
    (16 << 10) + 64 * input.len()
}

/// The snapshot with the right header and hashes, its manifest written as the format says, if it has one that can be
/// read.
fn sealed(input: &[u8]) -> Option<Vec<u8>> {
    let trailer_at = input.len().checked_sub(TRAILER_SIZE)?;
    let size = u32::from_le_bytes(*input[trailer_at..].first_chunk()?) as usize;
    let manifest_at = trailer_at.checked_sub(size).filter(|at| HEADER_SIZE <= *at)?;
    let mut manifest: CanonicalManifest = minicbor::decode(&input[manifest_at..trailer_at]).ok()?;
    let rows = &input[HEADER_SIZE..manifest_at];
    manifest.state_digest = *blake3::hash(rows).as_bytes();
    let mut rest = rows;
    for chunk in &mut manifest.chunks {
        let Some((bytes, after)) = rest.split_at_checked(chunk.bytes as usize) else { break };
        chunk.blake3 = *blake3::hash(bytes).as_bytes();
        rest = after;
    }
    let manifest = minicbor::to_vec(&manifest).expect("a vector takes all bytes");
    let size = (manifest.len() as u32).to_le_bytes();
    let hash = hash(&header(), &manifest, size);
    Some([&header()[..], rows, &manifest, &size, &hash.0].concat())
}

#[test]
fn a_snapshot_that_is_read_to_its_end_is_written_byte_for_byte() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/canonical/golden");
    let target = Target::new("snapshot").files(&golden, |name| name.ends_with(".snapshot"));
    fuzz!(target.iterations(10_000), |input| {
        read_all(input);
        if let Some(sealed) = sealed(input)
            && let Some(again) = read_all(&sealed)
        {
            assert!(again == sealed, "other bytes");
        }
    });
}

/// Reads the bytes under the name that belongs to them. Returns what is written for the same rows, if all are right.
fn read_all(input: &[u8]) -> Option<Vec<u8>> {
    let disk = SimDisk::new();
    let at = |name: &str| Path::new("/snapshots").join(name);
    let any = "000000000000-0000000000000000.snapshot";
    disk.put(&at(any), input.to_vec());
    let opened = within(bound(input), || SnapshotFile::open(&disk, &at(any)));
    let name = match opened {
        Err(CanonicalError::Damaged { damage: SnapshotDamage::Name { expected }, .. }) => expected,
        _ => return None,
    };
    assert!(!name.contains('/'), "{name}");
    disk.put(&at(&name), input.to_vec());
    let mut rows = Rows::new();
    let facts = within(4 * bound(input), || {
        let mut file = SnapshotFile::open(&disk, &at(&name)).expect("only its name was wrong");
        let facts = file.listed().facts.clone();
        file.visit(|key, row| rows.push((key.to_vec(), row.to_vec()))).ok().map(|()| facts)
    })?;
    let all: Vec<u8> = rows.iter().flat_map(|(key, row)| [key, row]).fold(Vec::new(), |mut bytes, part| {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
        bytes
    });
    assert_eq!(Digest::of(&all), Digest::of(&input[HEADER_SIZE..HEADER_SIZE + all.len()]));
    let folder = Path::new("/again");
    disk.create_dir_all(folder).expect("the disk is whole");
    let mut writer = SnapshotWriter::begin(Arc::new(disk.clone()), folder, &facts).expect("the disk is whole");
    rows.iter().for_each(|(key, row)| writer.put(key, row).expect("the disk is whole"));
    let written = writer.finish().expect("the disk is whole");
    disk.content(&folder.join(&written.name))
}
