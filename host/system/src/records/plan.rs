//! Planning of the commands of `system`: who may send one, the op that it becomes, and the rows that the op touches.
//!
//! In: a command and its caller. Out: an op with the suffixes of its rows, or a refusal. Whether the op is granted is
//! decided in `logic`, which has the rows.

use statehouse_guest::{Caller, Refusal, role};

use crate::ids::{ModuleId, NodeId};
use crate::limits::REFUSED_BY_CHARS_MAX;
use crate::records::clock_row::{CLOCK, CLOCK_BY_CHARS_MAX};
use crate::records::command::member::refusal;
use crate::records::command::{ChangeStep, CommandBody, DeliveryNote, NewWebhook, SystemCommand, WebhookChange};
use crate::records::key_row::KEYS;
use crate::records::loss_row::LOSSES;
use crate::records::module_row::{Mode, Wish, modules_suffix};
use crate::records::op::Op;
use crate::records::refused_row::{ModuleRefusal, refused_suffix};
use crate::records::rows::{ACTIVATIONS, FEATURE_LEVEL, NODES, NodeRow};
use crate::records::view_row::{ViewWish, views_suffix};
use crate::records::webhook_row::{RowPosition, WebhookWish, webhook_suffix, webhooks_suffix};

/// Checks whether a caller with these roles may send such a command. The body need not have a meaning for that.
pub fn check_roles(body: &CommandBody, caller: &Caller<'_>) -> Result<(), Refusal> {
    let is_developers = matches!(
        body,
        CommandBody::StageModule(_)
            | CommandBody::RefuseModule(_)
            | CommandBody::ShadowModule(_)
            | CommandBody::ShadowStop(_)
    );
    let stages = is_developers && caller.has_role(role::DEVELOPER);
    if !stages && !caller.has_role(role::ADMIN) && !caller.has_role(role::OPERATOR) {
        return Err(refusal("forbidden", 403, "only an operator or an admin changes the cluster", None));
    }
    match body {
        CommandBody::ActivateModule(activate)
            if Mode::parse(&activate.mode) == Some(Mode::WithoutProof) && !caller.has_role(role::ADMIN) =>
        {
            Err(refusal("forbidden", 403, "only an admin activates a module without proof", None))
        }
        _ => Ok(()),
    }
}

/// The op of a command; `by` is the name of its caller.
pub fn op_of(command: SystemCommand, by: &str) -> Op {
    use SystemCommand as C;
    let by_at_most = |count| -> String { by.chars().take(count).collect() };
    let module_op = |machine, module: ModuleId, wish| Op::Module { machine, module: module.0, by: by.to_owned(), wish };
    let view_op = |machine, view, wish| Op::View { machine, view, by: by.to_owned(), wish };
    let webhook_op = |machine, webhook, wish| Op::Webhook { machine, webhook, by: by.to_owned(), wish };
    match command {
        C::FoundCluster { nodes } => Op::FoundCluster { nodes: nodes.into_iter().map(node_row).collect() },
        C::AddNode { id, peer } => Op::AddNode { node: node_row((id, peer)) },
        C::AddSupportingNode { id, peer, level } => {
            Op::AddSupportingNode { node: node_row((id, peer)), level: level.0 }
        }
        C::RemoveNode { id } => Op::RemoveNode { id: id.0 },
        C::RemoveChecked { id, others } => Op::RemoveChecked { id: id.0, others: raw(others) },
        C::RecordKey { node, key } => Op::RecordKey { node: node.0, key: key.bytes() },
        C::RaiseLevel { level, nodes } => Op::RaiseLevel { level: level.0, nodes: raw(nodes) },
        C::CreateMachine { name, partitions, module } => Op::CreateMachine { name, partitions, module: module.0 },
        C::StageModule { machine, module, version, schema, size } => {
            module_op(machine, module, Wish::Stage { version, schema, size })
        }
        C::PrepareModule { machine, module } => module_op(machine, module, Wish::Prepare),
        C::ModulePrepared { machine, module, node, engine, problem } => {
            module_op(machine, module, Wish::Prepared { node: node.0, engine, problem })
        }
        C::ActivateModule { machine, module, mode, current, proof } => {
            module_op(machine, module, Wish::Activate { from: current.0, mode, proof })
        }
        C::DrainModule { machine, module, current } => module_op(machine, module, Wish::Drain { from: current.0 }),
        C::ModuleNotDrained { machine, module, problem } => module_op(machine, module, Wish::NotDrained { problem }),
        C::ModuleNotActivated { machine, module, number, partition, problem } => {
            module_op(machine, module, Wish::NotActivated { number, partition: partition.0, problem })
        }
        C::ShadowModule { machine, module, node } => module_op(machine, module, Wish::Shadow { node: node.0 }),
        C::ShadowStop { machine, module } => module_op(machine, module, Wish::ShadowStop),
        C::RefuseModule { machine, module, size, reason } => {
            let by = by_at_most(REFUSED_BY_CHARS_MAX);
            Op::RefuseModule { refused: ModuleRefusal { machine, module: module.0, size, time: 0, by, reason } }
        }
        C::CreateView { machine, view, module, version, is_default } => {
            view_op(machine, view, ViewWish::Create { module: module.0, version, is_default })
        }
        C::RebuildView { machine, view } => view_op(machine, view, ViewWish::Rebuild),
        C::DropView { machine, view } => view_op(machine, view, ViewWish::Drop),
        C::CreateWebhook(NewWebhook { machine, webhook, url, keys, kinds, batch, secret, begin }) => {
            let begin = begin.into_iter().map(RowPosition::of).collect();
            webhook_op(machine, webhook, WebhookWish::Create { url, keys, kinds, batch, secret, begin })
        }
        C::ChangeWebhook(WebhookChange { machine, webhook, step }) => webhook_op(machine, webhook, step_wish(step)),
        C::NoteWebhook(report) => webhook_op(report.machine, report.webhook, note_wish(report.epoch, report.note)),
        C::AcceptClock { ahead } => Op::AcceptClock { ahead: ahead.0, by: by_at_most(CLOCK_BY_CHARS_MAX) },
        C::AcceptLoss(loss) => Op::AcceptLoss { loss },
    }
}

fn step_wish(step: ChangeStep) -> WebhookWish {
    match step {
        ChangeStep::Pause => WebhookWish::Pause,
        ChangeStep::Resume => WebhookWish::Resume,
        ChangeStep::Rotate { secret } => WebhookWish::Rotate { secret },
        ChangeStep::Settle => WebhookWish::Settle,
        ChangeStep::Replay { from } => WebhookWish::Replay { from: from.into_iter().map(RowPosition::of).collect() },
        ChangeStep::Redelivered { letter } => WebhookWish::Redelivered { first: RowPosition::of(letter) },
        ChangeStep::Drop => WebhookWish::Drop,
    }
}

fn note_wish(epoch: u64, note: DeliveryNote) -> WebhookWish {
    match note {
        DeliveryNote::Progress { lanes, problem } => {
            WebhookWish::Progress { epoch, lanes, problem: problem.unwrap_or_default() }
        }
        DeliveryNote::Dead { first, last, failing, problem } => {
            WebhookWish::Dead { epoch, first: RowPosition::of(first), last: RowPosition::of(last), failing, problem }
        }
        DeliveryNote::Gone => WebhookWish::Halt { epoch, is_full: false },
        DeliveryNote::Full => WebhookWish::Halt { epoch, is_full: true },
    }
}

fn node_row((id, peer): (NodeId, String)) -> NodeRow {
    NodeRow { id: id.0, peer }
}

fn raw(nodes: impl IntoIterator<Item = NodeId>) -> Vec<u64> {
    nodes.into_iter().map(|node| node.0).collect()
}

/// The suffixes of the rows that an op reads or writes, in the order in which entries have them.
pub fn suffixes(op: &Op) -> Vec<Vec<u8>> {
    let list = |suffixes: &[&[u8]]| suffixes.iter().map(|suffix| suffix.to_vec()).collect();
    match op {
        Op::FoundCluster { .. } | Op::RemoveNode { .. } | Op::RemoveChecked { .. } => list(&[NODES]),
        Op::AddNode { .. } | Op::AddSupportingNode { .. } | Op::RaiseLevel { .. } => list(&[NODES, FEATURE_LEVEL]),
        Op::RecordKey { .. } => list(&[NODES, KEYS]),
        Op::CreateMachine { name: machine, .. } | Op::Module { machine, .. } => {
            list(&[NODES, ACTIVATIONS, machine.as_bytes(), &modules_suffix(machine)])
        }
        Op::View { machine, .. } => list(&[NODES, machine.as_bytes(), views_suffix(machine).as_bytes()]),
        Op::Webhook { machine, webhook, .. } => {
            let (all, one) = (webhooks_suffix(machine), webhook_suffix(machine, webhook));
            list(&[NODES, machine.as_bytes(), all.as_bytes(), one.as_bytes()])
        }
        Op::RefuseModule { refused } => list(&[refused_suffix(refused.module).as_bytes()]),
        Op::AcceptClock { .. } => list(&[CLOCK]),
        Op::AcceptLoss { .. } => list(&[LOSSES]),
    }
}
