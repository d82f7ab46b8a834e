//! The deterministic kernel: what every replica and every auditor computes, and nothing else.
//!
//! In: plans, entries, rows and the logic of a module. Out: outcomes, row writes, digests, heads, and the state of
//! commands that span partitions. Everything follows from the arguments: there is no clock, chance, thread, file,
//! socket or metric here, and nothing of the host can be named. It does not know who leads, where bytes lie, or who
//! asked.

pub mod ids;
pub mod machine;
pub mod saga;
