//! Who may do what: sets of roles, named by what they allow.
//!
//! In: the roles that a token can have. Out: bits. The table of routes says which route is for whom; what a module lets
//! a caller do is the module's own matter.

use statehouse_abi::role;

use crate::config::MONITOR;

/// The roles that may send commands, unless the configuration names others: roles that watch or run the node move
/// nothing.
pub const COMMAND_ROLES: u32 = role::CLIENT | role::TREASURY;
/// The roles that may be bound to entities: all others see and steer whole machines.
pub const SCOPED_ROLES: u32 = COMMAND_ROLES | role::COMPLIANCE;
/// The roles that may read what modules show.
pub const QUERY_ROLES: u32 = role::ALL;
/// The roles that may change the cluster.
pub const CHANGE_ROLES: u32 = role::OPERATOR | role::ADMIN;
/// The roles that may make a module known.
pub const STAGE_ROLES: u32 = role::DEVELOPER | role::OPERATOR | role::ADMIN;
/// The roles that may have the node write down what it has.
pub const AUDIT_ROLES: u32 = role::AUDITOR | role::OPERATOR | role::ADMIN;
/// The roles that may see the state of the node, and who asked for what.
pub const WATCH_ROLES: u32 = role::AUDITOR | role::DEVELOPER | role::OPERATOR | role::ADMIN;
/// The roles that may see the state of the node, but not who asked for what.
pub const HEALTH_ROLES: u32 = WATCH_ROLES | MONITOR;
/// The roles that may read metrics.
pub const METRICS_ROLES: u32 = CHANGE_ROLES | MONITOR;
