//! What a cluster records about itself: the native logic of the machine `system`, its rows, and the feature level.
//!
//! In: commands about nodes, machines, modules, keys, views and webhooks, and the rows so far. Out: events, rows,
//! rejections. A node runs this logic over the log of `system`, and an auditor runs it again. It knows nothing of the
//! host: what a node does about a row is not decided here.

use statehouse_journal::key;
use statehouse_kernel::ids;

pub mod limits;
pub mod features;
pub mod records;
