//! The module contract, ABI v1: every byte that crosses between the host and a guest module.
//!
//! Shared by both sides, `no_std`, and free of anything a replay could disagree about. Hot structures (plans, ops,
//! rows, outcomes, writes) are fixed-layout little-endian [`block`]s; cold ones (describe, query, render, check) are
//! deterministic CBOR ([`value`], [`describe`], [`cold`]). It knows nothing of HTTP, JSON, Raft or wasmtime.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod block;
pub mod key;
pub mod plan;
pub mod last_resort;
pub mod consent;
pub mod ops;
pub mod rows;
pub mod outcome;
pub mod call;
pub mod value;
pub mod describe;
pub mod cold;
/// Version of the contract that this crate describes; the first field of every block.
pub const ABI_VERSION: u16 = 1;

/// The names of the exports a module must have; `sh1_panic` is called after a trap only.
pub mod export {
    pub const MEMORY: &str = "memory";
    pub const ALLOC: &str = "sh1_alloc";
    pub const DESCRIBE: &str = "sh1_describe";
    pub const PLAN: &str = "sh1_plan";
    pub const EXECUTE: &str = "sh1_execute";
    pub const APPLY: &str = "sh1_apply";
    pub const QUERY: &str = "sh1_query";
    pub const RENDER: &str = "sh1_render";
    pub const CHECK: &str = "sh1_check";
    pub const MIGRATE: &str = "sh1_migrate";
    pub const PANIC: &str = "sh1_panic";
}

/// A bit per role of a caller, as handed to `sh1_plan`.
pub mod role {
    pub const CLIENT: u32 = 1;
    pub const TREASURY: u32 = 2;
    pub const AUDITOR: u32 = 4;
    pub const DEVELOPER: u32 = 8;
    pub const OPERATOR: u32 = 16;
    pub const ADMIN: u32 = 32;
    /// 64 is that of whoever watches the host alone, who sends no commands.
    /// May stop an account, and let it go again.
    pub const COMPLIANCE: u32 = 128;
    pub const ALL: u32 = 191;
}
