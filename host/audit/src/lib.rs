//! The auditor: recomputes everything from the journal, without a server.
//!
//! In: the data folder of a running or stopped node, a copy of one, an archive in a folder, or journal segments. Out:
//! reports, certificates, balances, the journal as text. It runs the very code by which replicas decide and apply, and
//! links no runtime, network, consensus or database. The program `statehouse-audit` is its command line, which
//! `statehouse audit` calls as well. It knows nothing of the host.
#![deny(unsafe_op_in_unsafe_fn)]

use statehouse_engine::{guest, registry};
use statehouse_journal::{canonical, data_folder, disk, durable, key, log, segments};
use statehouse_kernel::{ids, machine, saga};
use statehouse_system::records;
#[cfg(feature = "cli")]
use statehouse_text::json;
use statehouse_text::{printable, rfc3339};

pub mod limits;
#[cfg(feature = "cli")]
pub mod cli;
pub mod audit;
