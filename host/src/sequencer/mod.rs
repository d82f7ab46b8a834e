//! The sequencer: what only a leader does. It admits submissions, decides them in batches on speculative state, and
//! hands entries to consensus.
//!
//! In: planned commands. Out: entries with the row writes they mean. It knows nothing of HTTP, of Raft's messages or of
//! how rows are stored; it never answers a client before the entry is committed.

pub mod submission;
pub mod admission;
pub mod decide;
pub mod block;
mod isolate;
pub mod speculation;

#[cfg(test)]
mod tests;
