//! The machine: what a replica computes, and nothing else. Entries and rows in; row writes, digests and heads out.
//!
//! Replicas, the auditor and the replay run this very code, so it sees no clock, no thread, no file, no socket and no
//! hash-ordered map: its answers depend on its arguments alone. It does not know who leads or what is on disk.

pub mod entry;
pub mod journal;
pub mod logic;
pub mod migration;
pub mod native;
pub mod replica;
pub mod beginning;
pub mod replay;
pub mod render;
pub mod table;
pub mod transit;

#[cfg(test)]
pub mod failing;
#[cfg(test)]
mod tests;
