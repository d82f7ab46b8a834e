//! The bounds of the rows in which a cluster records what it knows about itself.
//!
//! As in the host's `limits.rs`, which names these as well, each has its reason. It knows nothing of what happens
//! beyond a limit.

pub use statehouse_kernel::machine::limits::*;

/// Views of one machine: each one reads the whole journal once more, on every node.
pub const VIEWS_MAX: usize = 16;
/// Rows of `system` with refused modules, and modules in each: a thousand in all, and a row is written within 1 ms.
pub const REFUSED_ROWS: usize = 32;
pub const REFUSED_ROW_ENTRIES_MAX: usize = 32;
/// Characters of the reason of a refusal that are recorded.
pub const REFUSED_REASON_CHARS_MAX: usize = 300;
/// Characters of the name of the caller who uploaded the module that are recorded.
pub const REFUSED_BY_CHARS_MAX: usize = 128;
/// Accepted losses that a row of `system` names; its journal has all of them.
pub const LOSSES_ROW_ENTRIES_MAX: usize = 12;
/// Characters of each text about an accepted loss that are recorded.
pub const LOSS_TEXT_CHARS_MAX: usize = 400;
/// Webhooks of one machine: each reads the whole journal once more, on the node that delivers.
pub const WEBHOOKS_MAX: usize = 16;
/// Partitions that one webhook follows: its position in all of them is one row of `system`.
pub const WEBHOOK_PARTITIONS_MAX: u32 = 512;
/// What a webhook's URL, keys and types may take in that row.
pub const WEBHOOK_URL_CHARS_MAX: u32 = 2048;
pub const WEBHOOK_KEYS_MAX: u32 = 64;
pub const WEBHOOK_KINDS_MAX: u32 = 32;
/// Characters of a webhook's problem: enough for an address and an error of the system.
pub const WEBHOOK_PROBLEM_CHARS_MAX: u32 = 120;
/// Dead letters of a webhook. It is paused before there are more.
pub const WEBHOOK_DEAD_MAX: usize = 50;
/// Events in one request of a webhook with `--batch`: a body that any receiver takes.
pub const WEBHOOK_BATCH_MAX: u32 = 1000;

const _: () = {
    // A webhook's row: what it takes of each lane, key, type and dead letter at most, and the rest. Texts are UTF-8.
    let lanes = WEBHOOK_PARTITIONS_MAX as usize * 33;
    let filters = WEBHOOK_KEYS_MAX as usize * (4 + ENTITY_BYTES_MAX) + WEBHOOK_KINDS_MAX as usize * (4 + 128);
    let dead = WEBHOOK_DEAD_MAX * (64 + 4 * WEBHOOK_PROBLEM_CHARS_MAX as usize);
    assert!(lanes + filters + dead + WEBHOOK_URL_CHARS_MAX as usize + 2048 <= ROW_BYTES_MAX);
};
