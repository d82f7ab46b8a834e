//! The engine: runs modules, no matter what is in them, as the kernel's `Logic`.
//!
//! In: the bytes of a module. Out: logic that a partition, a view or an auditor calls, or why there is none. It sees
//! nothing of the host: no runtime, no network, no configuration. It does not know which module is active where, or who
//! asked.
#![deny(unsafe_op_in_unsafe_fn)]

use statehouse_journal::{durable, regular};
use statehouse_kernel::{ids, machine};

pub mod limits;
pub mod registry;
pub mod guest;
