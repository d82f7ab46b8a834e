//! The machine `system`: nodes, machines with their partitions, modules, keys, views and webhooks, as rows.
//!
//! ```text
//! command ─▶ plan: op ─▶ logic: validate (*_row: which step may follow) ─▶ event ─▶ apply ─▶ rows
//! ```
//! It is written against the SDK like any module, and linked into the programs that run it. Its partition 0 holds
//! everything. It knows nothing of nodes that run, of files, or of time but the entry's.

pub mod command;
mod op;
mod plan;
pub mod logic;
mod rows;
mod values;
pub mod rejection;
mod removal;
pub mod module_row;
pub mod refused_row;
pub mod key_row;
mod level_row;
pub mod clock_row;
pub mod loss_row;
pub mod view_row;
pub mod webhook_row;

#[cfg(test)]
mod tests;
