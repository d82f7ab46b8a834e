//! The commands of `system`, in the types of the host: what nodes send, and what the logic plans.
//!
//! ```text
//! node: SystemCommand ─ to_body ─▶ CommandBody, recorded as it is sent ─ parse ─▶ SystemCommand ─▶ op (plan.rs)
//! ```
//! One table below says, for each command, its name and the members of its body. In: bodies. Out: commands, or a
//! refusal that names the member. Who may send a command, and whether rows permit it, is not decided here.

use std::collections::{BTreeMap, BTreeSet};

use statehouse_guest::{Commands, Refusal, Value};

use crate::features::FeatureLevel;
use crate::ids::{Micros, ModuleId, NodeId, PartitionId};
use crate::key::PublicKey;
pub use crate::records::command::body::CommandBody;
use crate::records::command::member::BodyMember;
pub use crate::records::command::webhook::{ChangeStep, DeliveryNote, NewWebhook, WebhookChange, WebhookReport};
use crate::records::loss_row::AcceptedLoss;
use crate::records::module_row::Mode;

mod body;
pub mod member;
mod webhook;
mod webhook_body;

/// A command of `system`. `body.rs` says of each what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemCommand {
    /// Each node with the address where the others reach it.
    FoundCluster {
        nodes: BTreeMap<NodeId, String>,
    },
    AddNode {
        id: NodeId,
        peer: String,
    },
    RemoveNode {
        id: NodeId,
    },
    CreateMachine {
        name: String,
        partitions: u32,
        module: ModuleId,
    },
    StageModule {
        machine: String,
        module: ModuleId,
        version: String,
        schema: u32,
        size: u32,
    },
    PrepareModule {
        machine: String,
        module: ModuleId,
    },
    ModulePrepared {
        machine: String,
        module: ModuleId,
        node: NodeId,
        engine: String,
        problem: Option<String>,
    },
    /// `current` is the module that the sender believes to be active.
    ActivateModule {
        machine: String,
        module: ModuleId,
        mode: Mode,
        current: ModuleId,
        proof: Option<String>,
    },
    DrainModule {
        machine: String,
        module: ModuleId,
        current: ModuleId,
    },
    ModuleNotDrained {
        machine: String,
        module: ModuleId,
        problem: String,
    },
    /// `number` is the number of the activation.
    ModuleNotActivated {
        machine: String,
        module: ModuleId,
        number: u64,
        partition: PartitionId,
        problem: String,
    },
    ShadowModule {
        machine: String,
        module: ModuleId,
        node: NodeId,
    },
    ShadowStop {
        machine: String,
        module: ModuleId,
    },
    RecordKey {
        node: NodeId,
        key: PublicKey,
    },
    CreateView {
        machine: String,
        view: String,
        module: ModuleId,
        version: String,
        is_default: bool,
    },
    RebuildView {
        machine: String,
        view: String,
    },
    DropView {
        machine: String,
        view: String,
    },
    CreateWebhook(NewWebhook),
    ChangeWebhook(WebhookChange),
    NoteWebhook(WebhookReport),
    RaiseLevel {
        level: FeatureLevel,
        nodes: BTreeSet<NodeId>,
    },
    /// `level` is the highest feature level that the node understands.
    AddSupportingNode {
        id: NodeId,
        peer: String,
        level: FeatureLevel,
    },
    RefuseModule {
        machine: String,
        module: ModuleId,
        size: u32,
        reason: String,
    },
    /// The form of a removal since [`REMOVALS`](crate::features::REMOVALS): of two that were checked at once, only one
    /// passes.
    RemoveChecked {
        id: NodeId,
        others: Vec<NodeId>,
    },
    AcceptClock {
        ahead: Micros,
    },
    AcceptLoss(AcceptedLoss),
}

/// Reads and writes each command by one row: its variant, its name in the description, and the members of its body,
/// which are the fields of the variant. The bodies of the rows after the semicolon are read and written as a whole.
/// Members are read in the order of the row, so that a body with several faults is refused for the same one as ever.
macro_rules! commands {
    ($($variant:ident $name:literal { $($member:ident),* })*; $($whole:ident $whole_name:literal)*) => {
        impl SystemCommand {
            /// Reads a body that keeps the bounds of its schema.
            ///
            /// # Errors
            /// The first member that has no meaning. A refusal is answered and not recorded.
            pub fn parse(body: &CommandBody) -> Result<Self, Refusal> {
                Ok(match body {
                    $(CommandBody::$variant(body) => {
                        Self::$variant { $($member: BodyMember::read(&body.$member)?),* }
                    })*
                    $(CommandBody::$whole(body) => Self::$whole(BodyMember::read(body)?),)*
                })
            }

            /// The command's name in the description of `system`, and its body.
            pub fn to_body(&self) -> (&'static str, Value) {
                let (name, body) = match self {
                    $(Self::$variant { $($member),* } => {
                        let body = body::$variant { $($member: BodyMember::write($member)),* };
                        ($name, CommandBody::$variant(body))
                    })*
                    $(Self::$whole(command) => ($whole_name, CommandBody::$whole(BodyMember::write(command))),)*
                };
                (name, body.to_value())
            }
        }
    };
}

commands! {
    FoundCluster "found_cluster" { nodes }
    AddNode "add_node" { id, peer }
    RemoveNode "remove_node" { id }
    CreateMachine "create_machine" { name, partitions, module }
    StageModule "stage_module" { machine, module, version, schema, size }
    PrepareModule "prepare_module" { machine, module }
    ModulePrepared "module_prepared" { machine, module, node, engine, problem }
    ActivateModule "activate_module" { machine, mode, current, module, proof }
    DrainModule "drain_module" { machine, current, module }
    ModuleNotDrained "module_not_drained" { machine, module, problem }
    ModuleNotActivated "module_not_activated" { machine, module, number, partition, problem }
    ShadowModule "shadow_module" { machine, module, node }
    ShadowStop "shadow_stop" { machine, module }
    RecordKey "record_key" { node, key }
    CreateView "create_view" { machine, view, module, version, is_default }
    RebuildView "rebuild_view" { machine, view }
    DropView "drop_view" { machine, view }
    RaiseLevel "raise_level" { level, nodes }
    AddSupportingNode "add_supporting_node" { id, peer, level }
    RefuseModule "refuse_module" { machine, module, size, reason }
    RemoveChecked "remove_checked" { id, others }
    AcceptClock "accept_clock" { ahead }
    ;
    CreateWebhook "create_webhook"
    ChangeWebhook "change_webhook"
    NoteWebhook "note_webhook"
    AcceptLoss "accept_loss"
}
