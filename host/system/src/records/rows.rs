//! The rows of the machine `system`: nodes, machines, and the suffix of each row.
//!
//! In: bytes of rows. Out: their content. The rows of modules, refused modules, views, webhooks and keys are described
//! in the files that have their rules. This file decides nothing.

use statehouse_abi::key::key;
use statehouse_guest::borsh::{self, BorshDeserialize, BorshSerialize};

use crate::ids::FeatureLevel;
use crate::records::clock_row::{CLOCK, ClockRow};
use crate::records::key_row::{KEYS, KeysRow};
use crate::records::loss_row::{LOSSES, LossesRow};
use crate::records::module_row::{MODULES, ModulesRow};
use crate::records::refused_row::{REFUSED, RefusedRow};
use crate::records::view_row::{VIEWS, ViewsRow};
use crate::records::webhook_row::{WEBHOOK, WEBHOOKS, WebhookRow};

/// The entity that all rows of `system` belong to.
pub const CLUSTER: &str = "cluster";
/// Suffix of the row with the number of the last activation. A machine's name never begins with `#`.
pub const ACTIVATIONS: &[u8] = b"#activations";
/// Suffix of the row with the feature level. There is no such row while the cluster is at the first level.
pub const FEATURE_LEVEL: &[u8] = b"#feature_level";
/// Suffix of the row with all nodes.
pub const NODES: &[u8] = b"#nodes";

/// What `system` knows about a machine.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct MachineRow {
    pub partitions: u32,
    pub module: [u8; 32],
    /// Number of the activation that made the module active.
    pub activation: u64,
    /// The nodes of the cluster when the machine was created. They are the first voters of its partitions.
    pub founders: Vec<u64>,
}

/// What `system` knows about the nodes.
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

    /// Whether a node has or ever had this id.
    pub fn knows(&self, id: u64) -> bool {
        self.contains(id) || self.retired.contains(&id)
    }
}

/// What a row of the system's entity says.
pub enum SystemRow {
    Nodes(NodesRow),
    Machine(String, MachineRow),
    /// The modules of the machine with this name.
    Modules(String, ModulesRow),
    /// The views of the machine with this name.
    Views(String, ViewsRow),
    /// A webhook: the machine's name, then the webhook's.
    Webhook(String, String, Box<WebhookRow>),
    Keys(KeysRow),
    Refused(RefusedRow),
    Losses(LossesRow),
    FeatureLevel(FeatureLevel),
    Clock(ClockRow),
}

/// Reads a row of `system`. Returns `None` for a row that only counts, and for one that does not decode.
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
