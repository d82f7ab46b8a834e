//! The sequencer: what only a leader keeps. It admits submissions and remembers the entries that are proposed and not
//! yet committed.
//!
//! In: planned commands, decided entries. Out: the next commands for a batch, and the rows as they will be. How a batch
//! is decided is the machine's business (`machine/decide/`). It does not know HTTP, Raft's messages or how rows are
//! stored. It never answers a client before the entry is committed.

pub mod submission;
pub mod admission;
pub mod queue;
pub mod speculation;
