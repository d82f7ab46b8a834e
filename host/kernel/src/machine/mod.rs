//! The machine: what every replica and every auditor computes. Plans, entries and rows in; outcomes, row writes,
//! digests and heads out.
//!
//! Leaders, replicas, the auditor and replays run this very code. So it sees no clock, no thread, no file, no socket,
//! no metric and nothing whose order depends on a hash: its answers depend on its arguments alone. It does not know who
//! leads, who asked, or what is on disk.

pub mod decide;
pub mod entry;
pub mod journal;
pub mod limits;
pub mod logic;
pub mod migration;
pub mod modules;
pub mod native;
pub mod plan;
pub mod rejection;
pub mod replica;
pub mod slots;
pub mod beginning;
pub mod replay;
pub mod render;
pub mod table;
pub mod transit;

#[cfg(test)]
mod changed;
#[cfg(test)]
mod tests;
