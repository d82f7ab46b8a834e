//! The log of one partition: entries and votes on this node's disk, in one append-only stream of segment files.
//!
//! Entries, votes, truncations and purges go in. Entries come out, and so does the news of what is durable.
//! ```text
//! Log: append ─► state: place in the stream, readable ─► writer thread: pwrite, fdatasync ─► durable ─► callbacks
//!      read   ◄─ the newest payloads in memory, else the tail through its map, or sealed segments by pread
//! LogScan:    ◄─ a folder that nobody, or a running node, writes to
//! ```
//! A running node's log is in `live/`, which a feature turns on; an auditor scans without it. This folder knows
//! nothing of Raft's rules, of what entries mean, of HTTP or of guests. Only `Log::release` deletes journal bytes.
// A reader uses only a part of what recovers and seals.
#![cfg_attr(not(feature = "live"), allow(dead_code))]

mod book;
mod entry;
mod error;
mod frame;
#[cfg(feature = "live")]
mod live;
mod recover;
mod scan;
mod seal;
mod segment;
mod trust;

pub use crate::ids::EntryId;
pub use entry::{LogEntry, Payload, Vote};
pub use error::{Damage, LogError, Misfit};
#[cfg(feature = "live")]
pub use live::{DamagedLog, Log, LogHealth, LogOptions, OnDurable, RepairReport, ScrubPace, SealedSegment};
pub use scan::{LogScan, LogTail, ScannedEntry};
pub use segment::StreamId;

#[cfg(all(test, feature = "live"))]
mod tests;
