//! The rows of the machine `system`: nodes, machines, and where each lies.
//!
//! In: bytes of rows. Out: what they say. The rows of modules, refused ones, views, webhooks and keys are described where their
//! rules are. It decides nothing.

use statehouse_abi::key::key;
use statehouse_guest::borsh::{self, BorshDeserialize, BorshSerialize};

use crate::ids::FeatureLevel;
use crate::system::clock_row::{CLOCK, ClockRow};
use crate::system::key_row::{KEYS, KeysRow};
use crate::system::loss_row::{LOSSES, LossesRow};
use crate::system::module_row::{MODULES, ModulesRow};
use crate::system::refused_row::{REFUSED, RefusedRow};
use crate::system::view_row::{VIEWS, ViewsRow};
use crate::system::webhook_row::{WEBHOOK, WEBHOOKS, WebhookRow};

/// The entity that holds everything.
pub const CLUSTER: &str = "cluster";
/// Suffix of the row with the number of the last activation. A machine's name never begins so.
pub const ACTIVATIONS: &[u8] = b"#activations";
/// Suffix of the row with the feature level; there is none as long as that is the first one.
pub const FEATURE_LEVEL: &[u8] = b"#feature_level";
/// Suffix of the row with all nodes.
pub const NODES: &[u8] = b"#nodes";

/// What `system` knows of a machine.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct MachineRow {
    pub partitions: u32,
    pub module: [u8; 32],
    /// Number of the activation that made it active.
    pub activation: u64,
    /// The nodes when it was created: the first voters of its partitions.
    pub founders: Vec<u64>,
}

/// What `system` knows of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct NodesRow {
    /// Ascending by id.
    pub nodes: Vec<NodeRow>,
    /// Ids of removed nodes, ascending.
    pub retired: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct NodeRow {
    pub id: u64,
    pub peer: String,
}

impl NodesRow {
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub fn contains(&self, id: u64) -> bool {
        self.nodes.iter().any(|node| node.id == id)
    }

    /// Whether the id was ever given.
    pub fn knows(&self, id: u64) -> bool {
        self.contains(id) || self.retired.contains(&id)
    }
}

/// What a row of the system's entity says.
pub enum SystemRow {
    Nodes(NodesRow),
    Machine(String, MachineRow),
    /// Of the machine with this name.
    Modules(String, ModulesRow),
    /// The same.
    Views(String, ViewsRow),
    /// Of this machine, by this name.
    Webhook(String, String, Box<WebhookRow>),
    Keys(KeysRow),
    Refused(RefusedRow),
    Losses(LossesRow),
    FeatureLevel(FeatureLevel),
    Clock(ClockRow),
}

/// Reads a row of `system`; nothing for those that only count.
pub fn read_row(suffix: &[u8], row: &[u8]) -> Option<SystemRow> {
    match suffix {
        ACTIVATIONS => None,
        FEATURE_LEVEL => borsh::from_slice(row).ok().map(|level| SystemRow::FeatureLevel(FeatureLevel(level))),
        CLOCK => borsh::from_slice(row).ok().map(SystemRow::Clock),
        NODES => borsh::from_slice(row).ok().map(SystemRow::Nodes),
        KEYS => borsh::from_slice(row).ok().map(SystemRow::Keys),
        LOSSES => borsh::from_slice(row).ok().map(SystemRow::Losses),
        name => {
            let name = std::str::from_utf8(name).ok()?;
            if let Some(machine) = name.strip_prefix(MODULES) {
                return Some(SystemRow::Modules(machine.to_owned(), borsh::from_slice(row).ok()?));
            }
            if let Some(machine) = name.strip_prefix(VIEWS) {
                return Some(SystemRow::Views(machine.to_owned(), borsh::from_slice(row).ok()?));
            }
            if name.starts_with(REFUSED) {
                return Some(SystemRow::Refused(borsh::from_slice(row).ok()?));
            }
            if name.starts_with(WEBHOOKS) {
                return None;
            }
            if let Some((machine, webhook)) = name.strip_prefix(WEBHOOK).and_then(|rest| rest.split_once('/')) {
                let row = Box::new(borsh::from_slice(row).ok()?);
                return Some(SystemRow::Webhook(machine.to_owned(), webhook.to_owned(), row));
            }
            Some(SystemRow::Machine(name.to_owned(), borsh::from_slice(row).ok()?))
        }
    }
}

/// Prefix of all keys of `system`.
pub fn system_prefix() -> Vec<u8> {
    key(CLUSTER.as_bytes(), b"")
}
