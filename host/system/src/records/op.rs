//! The ops of the machine `system`, and the events that they become.
//!
//! In: nothing. Out: the two types. Journals of `system` have their Borsh encodings, so each variant keeps its place,
//! and a new one is the last. Which op a command becomes, and which event an op becomes, is not decided here.

use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};

use crate::records::loss_row::AcceptedLoss;
use crate::records::module_row::Wish;
use crate::records::refused_row::ModuleRefusal;
use crate::records::rows::{MachineRow, NodeRow};
use crate::records::view_row::ViewWish;
use crate::records::webhook_row::WebhookWish;

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Op {
    FoundCluster { nodes: Vec<NodeRow> },
    AddNode { node: NodeRow },
    RemoveNode { id: u64 },
    CreateMachine { name: String, partitions: u32, module: [u8; 32] },
    Module { machine: String, module: [u8; 32], by: String, wish: Wish },
    RecordKey { node: u64, key: [u8; 32] },
    View { machine: String, view: String, by: String, wish: ViewWish },
    Webhook { machine: String, webhook: String, by: String, wish: WebhookWish },
    RaiseLevel { level: u32, nodes: Vec<u64> },
    AddSupportingNode { node: NodeRow, level: u32 },
    RefuseModule { refused: ModuleRefusal },
    RemoveChecked { id: u64, others: Vec<u64> },
    AcceptClock { ahead: i64, by: String },
    AcceptLoss { loss: AcceptedLoss },
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Event {
    ClusterFounded {
        nodes: Vec<NodeRow>,
    },
    NodeAdded {
        node: NodeRow,
    },
    NodeRemoved {
        id: u64,
    },
    MachineCreated {
        name: String,
        row: MachineRow,
    },
    /// `number` is the number of this activation, or of the last one if the step activates nothing.
    ModuleStepped {
        machine: String,
        module: [u8; 32],
        by: String,
        wish: Wish,
        number: u64,
    },
    KeyRecorded {
        node: u64,
        key: [u8; 32],
    },
    ViewStepped {
        machine: String,
        view: String,
        by: String,
        wish: ViewWish,
    },
    WebhookStepped {
        machine: String,
        webhook: String,
        by: String,
        wish: WebhookWish,
    },
    LevelRaised {
        level: u32,
    },
    ModuleRefused {
        refused: ModuleRefusal,
    },
    ClockAccepted {
        ahead: i64,
        by: String,
    },
    LossAccepted {
        loss: AcceptedLoss,
    },
}
