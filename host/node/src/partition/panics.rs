//! The last words of guests: what a module said when it trapped on a command. They are kept beside the recorded outcome
//! and do not belong to it.
//!
//! Two files in the partition's folder, `panics` and its predecessor `panics.old`, hold a CBOR sequence. Each item is
//! an array of the command's id, the text, and the frames of the backtrace. Only the node that decided the command has
//! them. In: diagnostics. Out: the newest of them, also after a restart. If a file cannot be read or written, only the
//! words are lost. This file does not know why a module trapped.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Decoder, Encode};
use parking_lot::Mutex;

use crate::durable;
use crate::ids::CommandId;
use crate::limits;
use crate::machine::decide::Diagnostic;

const FILE: &str = "panics";
const FILE_BEFORE: &str = "panics.old";

#[derive(Encode, Decode)]
struct Words {
    #[n(0)]
    id: ByteArray<16>,
    #[n(1)]
    text: String,
    #[n(2)]
    backtrace: Vec<String>,
}

/// The newest diagnostics, in memory and in the files.
pub struct Panics {
    folder: PathBuf,
    kept: Mutex<PanicRecords>,
}

#[derive(Default)]
struct PanicRecords {
    newest: VecDeque<(CommandId, Diagnostic)>,
    file: Option<Arc<File>>,
    bytes: u64,
}

impl Panics {
    /// Reads the files. An item that was not written whole is cut off.
    pub fn open(folder: &Path) -> Self {
        let mut kept = PanicRecords::default();
        for name in [FILE_BEFORE, FILE] {
            let Ok(bytes) = std::fs::read(folder.join(name)) else { continue };
            let whole = read_all(&bytes, |id, diagnostic| kept.keep(id, diagnostic));
            kept.bytes = whole as u64;
            if whole < bytes.len()
                && let Ok(file) = OpenOptions::new().write(true).open(folder.join(name))
            {
                // Otherwise what is written after the torn item would not be found again.
                drop(file.set_len(whole as u64));
            }
        }
        Self { folder: folder.to_owned(), kept: Mutex::new(kept) }
    }

    /// Keeps a diagnostic; returns its file, which the caller may sync when it has the time.
    pub fn record(&self, id: CommandId, diagnostic: &Diagnostic) -> Option<Arc<File>> {
        let diagnostic = bounded(diagnostic);
        let mut kept = self.kept.lock();
        kept.keep(id, diagnostic.clone());
        let Diagnostic { text, backtrace } = diagnostic;
        let words = Words { id: id.0.into(), text, backtrace };
        let words = minicbor::to_vec(words).expect("writing to memory cannot fail");
        let written = kept.write(&self.folder, &words);
        if let Err(error) = &written {
            tracing::warn!(folder = %self.folder.display(), %error, "a guest's panic text is kept in memory only");
            kept.file = None;
        }
        written.ok()
    }

    pub fn find(&self, id: CommandId) -> Option<Diagnostic> {
        let kept = self.kept.lock();
        kept.newest.iter().rev().find(|(other, _)| *other == id).map(|(_, diagnostic)| diagnostic.clone())
    }
}

impl PanicRecords {
    fn keep(&mut self, id: CommandId, diagnostic: Diagnostic) {
        if self.newest.len() == limits::PANICS_KEPT_MAX {
            self.newest.pop_front();
        }
        self.newest.push_back((id, diagnostic));
    }

    fn write(&mut self, folder: &Path, words: &[u8]) -> std::io::Result<Arc<File>> {
        if limits::PANICS_FILE_BYTES_MAX < self.bytes + words.len() as u64 {
            self.file = None;
            std::fs::rename(folder.join(FILE), folder.join(FILE_BEFORE))?;
            self.bytes = 0;
        }
        let file = match &self.file {
            Some(file) => file.clone(),
            None => Arc::new(durable::append(&folder.join(FILE))?),
        };
        (&*file).write_all(words)?;
        self.bytes += words.len() as u64;
        self.file = Some(file.clone());
        Ok(file)
    }
}

/// Hands out every whole item; returns how many bytes they take.
fn read_all(bytes: &[u8], mut each: impl FnMut(CommandId, Diagnostic)) -> usize {
    let mut decoder = Decoder::new(bytes);
    let mut whole = 0;
    while let Ok(Words { id, text, backtrace }) = decoder.decode::<Words>() {
        whole = decoder.position();
        each(CommandId(id.into()), Diagnostic { text, backtrace });
    }
    whole
}

/// Cuts the diagnostic to size: a module may say anything, at any length.
fn bounded(diagnostic: &Diagnostic) -> Diagnostic {
    let short = |text: &str| text.chars().take(limits::PANIC_CHARS_MAX).collect::<String>();
    let backtrace = diagnostic.backtrace.iter().take(limits::PANIC_FRAMES_MAX).map(|frame| short(frame));
    Diagnostic { text: short(&diagnostic.text), backtrace: backtrace.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(number: u8) -> (CommandId, Diagnostic) {
        let text = format!("asked to panic, {number}: {}", "x".repeat(5_000));
        (CommandId([number; 16]), Diagnostic { text, backtrace: vec!["faulty::validate".to_owned(); 3] })
    }

    #[test]
    fn words_are_there_after_a_restart_and_take_little_room() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let panics = Panics::open(folder.path());
        for round in 0..8 {
            for number in 0..=255 {
                let (id, diagnostic) = words(number);
                assert!(panics.record(id, &diagnostic).is_some(), "round {round}");
            }
        }
        let found = panics.find(CommandId([7; 16])).expect("it is kept");
        assert!(found.text.starts_with("asked to panic, 7: x") && found.text.len() <= limits::PANIC_CHARS_MAX);
        let size: u64 = [FILE, FILE_BEFORE]
            .iter()
            .map(|name| std::fs::metadata(folder.path().join(name)).expect("both are there").len())
            .sum();
        assert!(size <= 2 * limits::PANICS_FILE_BYTES_MAX, "{size}");
        drop(panics);

        let panics = Panics::open(folder.path());
        assert_eq!(panics.find(CommandId([255; 16])).map(|found| found.text), Some(bounded(&words(255).1).text));
        // As if the process had ended in the middle of a write.
        let path = folder.path().join(FILE);
        let length = std::fs::metadata(&path).expect("it is there").len();
        let file = OpenOptions::new().write(true).open(&path).expect("it is ours");
        file.set_len(length - 5).expect("it is ours");
        let panics = Panics::open(folder.path());
        let (id, diagnostic) = (CommandId([1; 16]), Diagnostic { text: "again".to_owned(), backtrace: Vec::new() });
        assert!(panics.record(id, &diagnostic).is_some());
        let panics = Panics::open(folder.path());
        assert_eq!(panics.find(id), Some(diagnostic), "what is written behind a torn item is found");
    }
}
