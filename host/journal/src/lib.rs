//! Every byte format that Statehouse releases, and what reads and writes it: the log of a partition, journal segments,
//! canonical snapshots, and the disk below them.
//!
//! In: entries, rows, paths. Out: files that survive a power cut, and from files the same entries and rows, each byte
//! checked. `FORMATS.md` draws each format. Nothing here knows Raft's rules, HTTP, guests or RocksDB, and without the
//! feature `live` nothing needs a runtime: an auditor's program reads with this crate.
#![deny(unsafe_op_in_unsafe_fn)]

use statehouse_kernel::{ids, machine};

pub mod limits;
pub mod planted;
pub mod durable;
pub mod regular;
pub mod disk;
pub mod key;
pub mod data_folder;
pub mod log;
pub mod canonical;
pub mod segments;
