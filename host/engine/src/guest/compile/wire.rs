//! What a compiling child says to its parent: frames on its stdout.
//!
//! | size | field |
//! |---|---|
//! | 1 | kind: `C` confinement, `H` fingerprint of its engines, `F` `M` artefact, `D` description, `E` error, `.` end |
//! | 8 | length, little-endian |
//! | – | that many bytes |
//!
//! An error is one byte for its kind, and text. It trusts nothing that it reads: a child may have been taken over by
//! the module that it compiled. It does not know how modules are compiled.

use std::io::{Error, ErrorKind, Read, Result, Write};

use super::Compilation;
use crate::guest::error::{GuestError, GuestFault};
use crate::guest::module::Pace;
use crate::limits;

/// The limit for a text or a hash.
const SHORT_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChildFrame {
    /// What the kernel could not do; empty if it could do everything.
    Confined(String),
    Fingerprint([u8; 32]),
    Artefact(Pace, Vec<u8>),
    Described(Vec<u8>),
    Failed(CompileFailure),
    End,
}

/// Why the module was not compiled.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CompileFailure {
    Compile(String),
    Describe(GuestFault),
    /// A frame that is longer than allowed.
    TooLong {
        limit: usize,
    },
    Other(String),
}

/// Everything that was said until the end.
#[derive(Debug, Default)]
pub(super) struct ChildAnswer {
    pub(super) confined: Option<String>,
    pub(super) fingerprint: Option<[u8; 32]>,
    pub(super) artefacts: Vec<(Pace, Vec<u8>)>,
    pub(super) described: Option<Vec<u8>>,
    pub(super) failure: Option<CompileFailure>,
    /// If it is not set, the child has died.
    pub(super) is_whole: bool,
}

impl CompileFailure {
    pub(super) fn of(error: GuestError) -> Self {
        match error {
            GuestError::Compile { detail } => Self::Compile(detail),
            GuestError::Describe(fault) => Self::Describe(fault),
            error => Self::Other(error.to_string()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (kind, text) = match self {
            Self::Compile(text) => (b'c', text.as_str()),
            Self::Describe(GuestFault::Trap { text, .. }) => (b't', text.as_str()),
            Self::Describe(GuestFault::Budget) => (b'b', ""),
            Self::Describe(GuestFault::Watchdog) => (b'w', ""),
            Self::Describe(GuestFault::Output { what }) => (b'o', what.as_str()),
            Self::Describe(GuestFault::Host { what }) => (b'h', what.as_str()),
            Self::TooLong { .. } => (b'x', "a frame is too long"),
            Self::Other(text) => (b'x', text.as_str()),
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&text.as_bytes()[..text.len().min(SHORT_BYTES_MAX - 1)]);
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let (kind, text) = bytes.split_first().map_or((b'x', &[][..]), |(kind, text)| (*kind, text));
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'c' => Self::Compile(text),
            b't' => Self::Describe(GuestFault::Trap { text, backtrace: Vec::new() }),
            b'b' => Self::Describe(GuestFault::Budget),
            b'w' => Self::Describe(GuestFault::Watchdog),
            b'o' => Self::Describe(GuestFault::Output { what: text }),
            b'h' => Self::Describe(GuestFault::Host { what: text }),
            _ => Self::Other(text),
        }
    }
}

impl ChildFrame {
    pub(super) fn write(&self, to: &mut impl Write) -> Result<()> {
        let failure;
        let (kind, bytes): (u8, &[u8]) = match self {
            Self::Confined(text) => (b'C', &text.as_bytes()[..text.len().min(SHORT_BYTES_MAX)]),
            Self::Fingerprint(hash) => (b'H', hash),
            Self::Artefact(Pace::Fast, bytes) => (b'F', bytes),
            Self::Artefact(Pace::Metered, bytes) => (b'M', bytes),
            Self::Described(bytes) => (b'D', bytes),
            Self::Failed(why) => {
                failure = why.encode();
                (b'E', &failure)
            }
            Self::End => (b'.', &[]),
        };
        to.write_all(&[kind])?;
        to.write_all(&(bytes.len() as u64).to_le_bytes())?;
        to.write_all(bytes)
    }

    fn read(from: &mut impl Read) -> Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        let [kind, size @ ..] = head;
        let limit = match kind {
            b'F' | b'M' => limits::ARTEFACT_BYTES_MAX,
            b'D' => limits::GUEST_OUTPUT_BYTES_MAX,
            _ => SHORT_BYTES_MAX,
        };
        let Some(size) = usize::try_from(u64::from_le_bytes(size)).ok().filter(|size| *size <= limit) else {
            return Ok(Self::Failed(CompileFailure::TooLong { limit }));
        };
        let mut bytes = vec![0; size];
        from.read_exact(&mut bytes)?;
        let strange = || Error::new(ErrorKind::InvalidData, "a frame of no known kind");
        Ok(match kind {
            b'C' => Self::Confined(String::from_utf8_lossy(&bytes).into_owned()),
            b'H' => Self::Fingerprint(bytes.try_into().map_err(|_| strange())?),
            b'F' => Self::Artefact(Pace::Fast, bytes),
            b'M' => Self::Artefact(Pace::Metered, bytes),
            b'D' => Self::Described(bytes),
            b'E' => Self::Failed(CompileFailure::decode(&bytes)),
            b'.' => Self::End,
            _ => return Err(strange()),
        })
    }
}

impl ChildAnswer {
    /// Reads up to the end, the first failure, or the point where the child has died.
    pub(super) fn read(from: &mut impl Read) -> Self {
        let mut answer = Self::default();
        while let Ok(frame) = ChildFrame::read(from) {
            match frame {
                ChildFrame::Confined(text) => answer.confined = Some(text),
                ChildFrame::Fingerprint(hash) => answer.fingerprint = Some(hash),
                // One for each pace: a child that sends more is broken, and must not fill this process's memory.
                ChildFrame::Artefact(pace, _) if answer.artefacts.iter().any(|(known, _)| *known == pace) => break,
                ChildFrame::Artefact(pace, bytes) => answer.artefacts.push((pace, bytes)),
                ChildFrame::Described(bytes) => answer.described = Some(bytes),
                ChildFrame::Failed(failure) => {
                    answer.failure = Some(failure);
                    answer.is_whole = true;
                    break;
                }
                ChildFrame::End => {
                    answer.is_whole = true;
                    break;
                }
            }
        }
        answer
    }

    pub(super) fn of(result: std::result::Result<Compilation, GuestError>) -> Vec<ChildFrame> {
        match result {
            Ok(Compilation { artefacts, described }) => {
                let artefacts = artefacts.into_iter().map(|(pace, bytes)| ChildFrame::Artefact(pace, bytes));
                artefacts.chain([ChildFrame::Described(described), ChildFrame::End]).collect()
            }
            Err(error) => vec![ChildFrame::Failed(CompileFailure::of(error)), ChildFrame::End],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> ChildAnswer {
        ChildAnswer::read(&mut &bytes[..])
    }

    fn written(frames: &[ChildFrame]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.write(&mut bytes).expect("memory takes all");
        }
        bytes
    }

    #[test]
    fn what_is_said_is_heard() {
        let compiled = Compilation {
            artefacts: vec![(Pace::Fast, vec![1; 70_000]), (Pace::Metered, Vec::new())],
            described: vec![2; 300],
        };
        let mut frames = vec![ChildFrame::Confined("no landlock".to_owned()), ChildFrame::Fingerprint([7; 32])];
        frames.extend(ChildAnswer::of(Ok(compiled)));
        let bytes = written(&frames);
        let answer = read(&bytes);
        assert!(answer.is_whole);
        assert_eq!(answer.confined.as_deref(), Some("no landlock"));
        assert_eq!(answer.fingerprint, Some([7; 32]));
        assert_eq!(answer.artefacts, [(Pace::Fast, vec![1; 70_000]), (Pace::Metered, Vec::new())]);
        assert_eq!(answer.described, Some(vec![2; 300]));
        for cut in [0, 8, 9, 20, bytes.len() / 2, bytes.len() - 1] {
            assert!(!read(&bytes[..cut]).is_whole, "cut off after {cut} bytes");
        }
    }

    #[test]
    fn failures_keep_their_kind() {
        let faults = [
            GuestError::Compile { detail: "too odd".to_owned() },
            GuestError::Describe(GuestFault::Trap { text: "no".to_owned(), backtrace: Vec::new() }),
            GuestError::Describe(GuestFault::Budget),
            GuestError::Describe(GuestFault::Output { what: "x".repeat(2 * SHORT_BYTES_MAX) }),
        ];
        for fault in faults {
            let text = fault.to_string();
            let failure = CompileFailure::of(fault);
            let decoded = CompileFailure::decode(&failure.encode());
            assert!(decoded == failure || SHORT_BYTES_MAX < text.len(), "{decoded:?}");
        }
    }

    #[test]
    fn a_child_that_lies_about_sizes_is_cut_short() {
        let mut bytes = vec![b'F'];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        let answer = read(&bytes);
        assert_eq!(answer.failure, Some(CompileFailure::TooLong { limit: limits::ARTEFACT_BYTES_MAX }));
        let twice = written(&[
            ChildFrame::Artefact(Pace::Fast, vec![1]),
            ChildFrame::Artefact(Pace::Fast, vec![1]),
            ChildFrame::End,
        ]);
        assert!(!read(&twice).is_whole);
        assert!(!read(b"?\0\0\0\0\0\0\0\0.\0\0\0\0\0\0\0\0").is_whole);
    }
}
