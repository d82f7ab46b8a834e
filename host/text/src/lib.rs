//! What people and programs read: values as JSON and back, times, and text of others that is safe to show.
//!
//! In: values, bytes, times, text. Out: the other form of each. A node's API, its command line and the auditor's
//! program show the same values in the same way, because all of them go through here. It knows no route, command or
//! file.

use statehouse_kernel::ids;

pub mod printable;
pub mod rfc3339;
pub mod json;
