//! What a node believes about its clock, on disk: if the machine has run since then, a process that starts knows how
//! much time has passed.
//!
//! The file `clock` in the data folder is a [`SmallFile`].
//!
//! In: the anchor of `clocks`, whenever it changes. Out: the last one. A machine that was restarted meanwhile may have
//! been off for any time, and so may one that does not name its start. Then there is no anchor, and the first look at
//! the wall clock is believed. The same holds if the file is damaged. It does not know what follows if the wall clock
//! shows another time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};
use parking_lot::Mutex;

use crate::data_folder::SmallFile;
use crate::disk::Disk;
use crate::ids::Micros;
use crate::system::clocks::Anchor;
use crate::system::error::NodeError;

const NAME: &str = "clock";
const MAGIC: [u8; 8] = *b"SHCLOCK\0";

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Content {
    /// Names the start of the machine from which `running` counts.
    #[n(0)]
    boot: Option<String>,
    /// The wall clock, in microseconds since 1970.
    #[n(1)]
    wall: i64,
    /// The monotonic clock, in microseconds.
    #[n(2)]
    running: u64,
}

/// The anchor's file, which only this type writes.
pub struct AnchorFile {
    file: SmallFile<Content>,
    /// Names the last start of the machine.
    boot: Option<String>,
    /// What the file has; held while it is written.
    written: Mutex<Content>,
}

impl AnchorFile {
    /// # Errors
    /// The file cannot be read, or was written by a later program.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, boot: Option<String>) -> Result<Self, NodeError> {
        let file = SmallFile::<Content>::new(disk, folder, NAME, MAGIC);
        let content = file.read_or_make_anew("the time that the clock shows now is accepted")?;
        Ok(Self { file, boot, written: Mutex::new(content) })
    }

    /// What was last believed since the machine was started. `running` is what the monotonic clock shows now.
    pub fn find(&self, running: Duration) -> Option<Anchor> {
        let Content { boot, wall, running: then } = &*self.written.lock();
        let anchor = Anchor { wall: Micros(*wall), running: Duration::from_micros(*then) };
        // An anchor that lies ahead would be of a clock that was set back, which the monotonic clock never is.
        (boot.is_some() && *boot == self.boot && anchor.running <= running).then_some(anchor)
    }

    /// Keeps an anchor; durable on return. Blocks, unless the file has it already.
    ///
    /// # Errors
    /// The disk cannot be written: the file has the old anchor or this one.
    pub fn keep(&self, anchor: Anchor) -> Result<(), NodeError> {
        let running = u64::try_from(anchor.running.as_micros()).expect("no machine runs for half a million years");
        let content = Content { boot: self.boot.clone(), wall: anchor.wall.0, running };
        let mut written = self.written.lock();
        if *written != content {
            self.file.write(&content)?;
            *written = content;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    const ANCHOR: Anchor = Anchor { wall: Micros(1_000_000_007), running: Duration::from_micros(70_000_001) };

    fn open(disk: &SimDisk, boot: &str) -> AnchorFile {
        let boot = Some(boot.to_owned()).filter(|boot| !boot.is_empty());
        AnchorFile::open(Arc::new(disk.clone()), Path::new("/node"), boot).expect("it can be read")
    }

    #[test]
    fn an_anchor_counts_until_the_machine_is_started_again() {
        let disk = SimDisk::new();
        assert_eq!(open(&disk, "one").find(ANCHOR.running), None, "there is no file");
        open(&disk, "one").keep(ANCHOR).expect("written");
        for seed in 0..4 {
            let disk = disk.copy().crash(seed);
            assert_eq!(open(&disk, "one").find(ANCHOR.running), Some(ANCHOR));
            assert_eq!(open(&disk, "one").find(ANCHOR.running * 2), Some(ANCHOR));
            assert_eq!(open(&disk, "one").find(ANCHOR.running / 2), None, "no clock that only runs goes back");
            assert_eq!(open(&disk, "other").find(ANCHOR.running), None, "the machine was started again");
            assert_eq!(open(&disk, "").find(ANCHOR.running), None, "the machine does not say so");
        }
        open(&disk, "").keep(ANCHOR).expect("written");
        assert_eq!(open(&disk, "").find(ANCHOR.running), None, "nor did it then");
    }

    #[test]
    fn an_anchor_is_written_once() {
        let disk = SimDisk::new();
        let file = open(&disk, "one");
        file.keep(ANCHOR).expect("written");
        let operations = disk.operations();
        file.keep(ANCHOR).expect("written");
        assert_eq!(disk.operations(), operations);
        file.keep(Anchor { wall: Micros(7), ..ANCHOR }).expect("written");
        assert_eq!(open(&disk, "one").find(ANCHOR.running).map(|anchor| anchor.wall), Some(Micros(7)));
    }

    #[test]
    fn a_damaged_file_says_nothing() {
        let disk = SimDisk::new();
        open(&disk, "one").keep(ANCHOR).expect("written");
        disk.put(&Path::new("/node").join(NAME), b"rot".to_vec());
        let file = open(&disk, "one");
        assert_eq!(file.find(ANCHOR.running), None);
        file.keep(ANCHOR).expect("it is made anew");
        assert_eq!(open(&disk, "one").find(ANCHOR.running), Some(ANCHOR));
    }
}
