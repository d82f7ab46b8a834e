//! The bounds that decide history: another number would decide, cut or apply recorded batches in another way.
//!
//! In: nothing. Out: numbers, each with its reason. Replicas and auditors of all releases must have the same ones, so
//! that a change of one needs a format of its own, as a change of an entry does. The bounds of a node, which may differ
//! from node to node, are in the host's `limits.rs`. It knows nothing of what happens beyond a limit.

/// Commands of one batch: enough that the cost of an fsync and of a guest call is small for each.
pub const BATCH_COMMANDS_MAX: usize = 8192;
/// More entries than a leader of any release has under way, proposed and not applied: an auditor takes an entry that is
/// further from the end of the journal for one of another history.
pub const ENTRIES_UNDER_WAY_MAX: u64 = 64;
/// The OPS block of one entry. A larger batch is split.
pub const OPS_BLOCK_BYTES_MAX: usize = 4 << 20;
/// The OUTCOME block of one entry. If it is larger, the batch is split.
pub const OUTCOME_BYTES_MAX: usize = 4 << 20;
/// The whole input of one guest call.
pub const GUEST_INPUT_BYTES_MAX: usize = 16 << 20;
/// The whole output of one guest call.
pub const GUEST_OUTPUT_BYTES_MAX: usize = 16 << 20;
/// An entry's payload: its blocks plus bodies, callers and ids.
pub const ENTRY_BYTES_MAX: usize = 20 << 20;
pub const KEY_BYTES_MAX: usize = statehouse_abi::key::KEY_BYTES_MAX;
pub const ENTITY_BYTES_MAX: usize = statehouse_abi::key::ENTITY_BYTES_MAX;
/// The value of a row. A row passes through the guest whole; larger data belongs in several rows.
pub const ROW_BYTES_MAX: usize = 64 << 10;
/// Ops of one command. A Saga with more steps is a batch job.
pub const COMMAND_OPS_MAX: usize = 64;
/// The plan of one command, its body and ops: far above any honest command, far below the input of a guest call.
pub const PLAN_BYTES_MAX: usize = 1 << 20;
/// Keys that one op may declare and discover.
pub const OP_KEYS_MAX: usize = 256;
/// How often one group may ask for keys that it did not declare, before it is rejected.
pub const NEED_KEYS_ROUNDS_MAX: usize = 4;
/// After so many rounds a batch is halved, so that a chain of commands that find keys for each other ends.
pub const NEED_KEYS_BATCH_ROUNDS_MAX: usize = 16;
/// Rounds in which a batch is decided. It is halved after every [`NEED_KEYS_BATCH_ROUNDS_MAX`] rounds until one command
/// is left, which may ask [`NEED_KEYS_ROUNDS_MAX`] times. A few rounds remain for what does not fit into one entry.
pub const DECIDE_ROUNDS_MAX: usize = 256;
/// Isolation runs of one batch, before the remaining suspects get batches of their own.
pub const ISOLATIONS_PER_BATCH_MAX: usize = 64;
/// The linear memory of a guest instance.
pub const GUEST_MEMORY_BYTES_MAX: usize = 64 << 20;
/// Elements of a guest's only table.
pub const GUEST_TABLE_ELEMENTS_MAX: u32 = 65_536;
/// The stack of a guest: enough for deep recursion, but not for endless recursion.
pub const GUEST_STACK_BYTES_MAX: usize = 1 << 20;
/// Nesting of lists and maps in CBOR from a guest: sixteen nested schemas take 70, a value 40. Decoding is recursive.
pub const GUEST_CBOR_DEPTH_MAX: usize = 128;
/// Items in CBOR from a guest: each takes some 50 bytes once it is decoded.
pub const GUEST_CBOR_ITEMS_MAX: usize = 2 << 20;
/// Fuel of one metered guest call for each group in it: some milliseconds of work.
pub const GUEST_FUEL_PER_GROUP: u64 = 20_000_000;
/// Fuel of one metered guest call, independent of its content: to start, parse the input, and write the output.
pub const GUEST_FUEL_BASE: u64 = 20_000_000;
/// The most fuel of one metered guest call, so that a batch with an endless loop in it is soon halved.
pub const GUEST_FUEL_MAX: u64 = 500_000_000;
/// The slots that entities hash to. A partition is a set of slots.
pub const SLOT_COUNT: u32 = 4096;

const _: () = {
    let halvings = BATCH_COMMANDS_MAX.ilog2() as usize + 1;
    assert!(halvings * (NEED_KEYS_BATCH_ROUNDS_MAX + 1) + NEED_KEYS_ROUNDS_MAX < DECIDE_ROUNDS_MAX);
    assert!(PLAN_BYTES_MAX <= OPS_BLOCK_BYTES_MAX / 2);
    assert!(GUEST_FUEL_BASE + GUEST_FUEL_PER_GROUP <= GUEST_FUEL_MAX);
    assert!(ROW_BYTES_MAX <= GUEST_INPUT_BYTES_MAX);
};
