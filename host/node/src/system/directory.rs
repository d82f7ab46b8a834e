//! The directory: what the machine `system` says there is, as this node has applied it.
//!
//! In: rows of `system`. Out: nodes and machines. It does not know which of them run here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use statehouse_abi::key::split_key;

use crate::features::{self, FeatureLevel};
use crate::ids::NodeId;
use crate::store::{StoreError, View};
use crate::system::clock_row::ClockRow;
use crate::system::key_row::KeyRow;
use crate::system::logic::{MachineRow, SystemRow, read_row, system_prefix};
use crate::system::loss_row::AcceptedLoss;
use crate::system::module_row::ModulesRow;
use crate::system::refused_row::ModuleRefusal;
use crate::system::view_row::ViewsRow;
use crate::system::webhook_row::WebhookRow;

/// Nodes and machines at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Where each node is reached; empty until the cluster is founded.
    pub nodes: BTreeMap<NodeId, String>,
    /// Ids that will never be given again.
    pub retired: BTreeSet<NodeId>,
    pub machines: BTreeMap<String, MachineRow>,
    /// By machine.
    pub modules: BTreeMap<String, ModulesRow>,
    /// By machine.
    pub views: BTreeMap<String, ViewsRow>,
    /// By machine and name.
    pub webhooks: BTreeMap<(String, String), Arc<WebhookRow>>,
    /// Keys with which nodes have signed, removed nodes included.
    pub keys: Vec<KeyRow>,
    /// Modules that were uploaded and refused, oldest first.
    pub refused: Arc<Vec<ModuleRefusal>>,
    /// What an operator has said about clocks that leapt.
    pub clock: ClockRow,
    /// Losses that operators have accepted, oldest first.
    pub losses: Vec<AcceptedLoss>,
    /// The feature level that may be written.
    pub feature_level: FeatureLevel,
}

impl Directory {
    pub fn read(view: &View) -> Result<Self, StoreError> {
        let mut directory = Self { feature_level: features::BASE, ..Self::default() };
        let mut refused = Vec::new();
        for (key, row) in view.scan(&system_prefix(), None, usize::MAX)? {
            match split_key(&key).and_then(|(_, suffix)| read_row(suffix, &row)) {
                Some(SystemRow::Nodes(row)) => {
                    directory.nodes = row.nodes.into_iter().map(|node| (NodeId(node.id), node.peer)).collect();
                    directory.retired = row.retired.into_iter().map(NodeId).collect();
                }
                Some(SystemRow::Machine(name, row)) => {
                    directory.machines.insert(name, row);
                }
                Some(SystemRow::Modules(machine, row)) => {
                    directory.modules.insert(machine, row);
                }
                Some(SystemRow::Views(machine, row)) => {
                    directory.views.insert(machine, row);
                }
                Some(SystemRow::Webhook(machine, webhook, row)) => {
                    directory.webhooks.insert((machine, webhook), Arc::from(row));
                }
                Some(SystemRow::Keys(row)) => directory.keys = row.keys,
                Some(SystemRow::Losses(row)) => directory.losses = row.losses,
                Some(SystemRow::Refused(row)) => refused.extend(row.refused),
                Some(SystemRow::Clock(row)) => directory.clock = row,
                Some(SystemRow::FeatureLevel(level)) => directory.feature_level = level,
                None => {}
            }
        }
        refused.sort_by_key(|one: &ModuleRefusal| one.time);
        directory.refused = refused.into();
        Ok(directory)
    }

    pub fn is_founded(&self) -> bool {
        !self.nodes.is_empty()
    }
}

/// The nodes that found the groups of a machine.
pub fn founders_of(row: &MachineRow) -> Vec<NodeId> {
    row.founders.iter().map(|id| NodeId(*id)).collect()
}

/// Which of the operators' words about clocks this process has heard.
#[derive(Default)]
pub struct WordsHeard(Option<u64>);

impl WordsHeard {
    /// Whether the word is new. Words from before the process started are about clocks of another time.
    pub fn is_new(&mut self, number: u64) -> bool {
        let before = self.0;
        self.0 = before.max(Some(number));
        before.is_some_and(|before| before < number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_once_and_none_from_before_the_start() {
        let mut heard = WordsHeard::default();
        let new: Vec<bool> = [3, 3, 4, 4, 2, 5].into_iter().map(|number| heard.is_new(number)).collect();
        assert_eq!(new, [false, false, true, false, false, true]);
    }
}
