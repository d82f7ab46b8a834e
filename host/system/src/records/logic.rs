//! The logic of the machine `system`: it records the nodes, the machines with their partitions, and the module of each.
//!
//! In: ops, which `plan` has made of commands. Out: one row with all nodes, two rows per machine, and those of the
//! steps whose rules are in `module_row` and the files beside it. It is written against the SDK and runs natively.

use statehouse_guest::{
    Caller, Done, EventContext, Events, Module, Named, NoQueries, Occurred, Planner, Refusal, Tx, Value, View, borsh,
    module,
};

use crate::features::{self, FeatureLevel};
use crate::ids::Micros;
use crate::records::clock_row::{CLOCK, ClockRow};
use crate::records::command::{CommandBody, SystemCommand};
use crate::records::key_row::{KEYS, KeyRow, KeysRow};
use crate::records::level_row::{check_joins, check_raise, level_of};
use crate::records::loss_row::{LOSSES, LossesRow, loss_value};
use crate::records::module_row::{MODULES, ModulesRow, Step, StepRow, Wish, check_step, modules_suffix};
use crate::records::op::{Event, Op};
use crate::records::plan::{check_roles, op_of, suffixes};
use crate::records::refused_row::{REFUSED, RefusedRow, refused_suffix, refused_value};
use crate::records::rejection::Rejection;
use crate::records::removal::check_removed;
use crate::records::rows::{ACTIVATIONS, CLUSTER, FEATURE_LEVEL, NODES};
pub use crate::records::rows::{MachineRow, NodeRow, NodesRow, SystemRow, read_row, system_prefix};
use crate::records::values::{event_value, level_value, machine_value, nodes_value, step_value};
use crate::records::view_row::{VIEWS, ViewsRow, views_suffix, views_value};
use crate::records::webhook_row::{
    self, WEBHOOK, WEBHOOKS, WebhookRow, WebhooksRow, webhook_stepped, webhook_suffix, webhook_value, webhooks_suffix,
};

/// Name of the machine whose partition 0 holds what the cluster knows about itself.
pub const SYSTEM: &str = "system";

pub struct System;

#[module]
impl Module for System {
    const NAME: &'static str = SYSTEM;
    const VERSION: &'static str = "1.0.0";
    const SCHEMA: u32 = 1;
    const EVENTS: &'static [Named] = &[
        Named { name: "ClusterFounded", summary: "The cluster was founded" },
        Named { name: "NodeAdded", summary: "A node was taken in" },
        Named { name: "NodeRemoved", summary: "A node was removed for good" },
        Named { name: "MachineCreated", summary: "A machine was created" },
        Named { name: "ModuleStepped", summary: "A module was staged, prepared or activated" },
        Named { name: "KeyRecorded", summary: "A node said by which key it signs" },
        Named { name: "ViewStepped", summary: "A view was created, made again or dropped" },
        Named { name: "WebhookStepped", summary: "A webhook was created, changed or dropped, or has come further" },
        Named { name: "LevelRaised", summary: "All nodes understand what is new" },
        Named { name: "ModuleRefused", summary: "A module was brought and refused" },
        Named { name: "ClockAccepted", summary: "An operator said that clocks which have leapt are right" },
        Named { name: "LossAccepted", summary: "An operator goes on without what a log has lost" },
    ];

    type Command = CommandBody;
    type Query = NoQueries;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    type Tally = ();

    fn plan(body: &CommandBody, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        check_roles(body, caller)?;
        let op = op_of(SystemCommand::parse(body)?, caller.name);
        let suffixes = suffixes(&op);
        suffixes.iter().fold(planner.step(op, CLUSTER), |step, suffix| step.key(suffix));
        Ok(())
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        let known: NodesRow = view.read(NODES).unwrap_or_default();
        match op {
            Op::FoundCluster { .. } if !known.nodes.is_empty() => return Err(Rejection::Founded),
            Op::FoundCluster { nodes } => events.emit(Event::ClusterFounded { nodes: nodes.clone() }),
            Op::AddNode { node } | Op::AddSupportingNode { node, .. } if known.knows(node.id) => {
                return Err(Rejection::NodeIdUsed);
            }
            Op::AddNode { node } => {
                check_joins(node.id, level_of(view), features::BASE)?;
                events.emit(Event::NodeAdded { node: node.clone() });
            }
            Op::AddSupportingNode { node, level } => {
                check_joins(node.id, level_of(view), FeatureLevel(*level))?;
                events.emit(Event::NodeAdded { node: node.clone() });
            }
            Op::RaiseLevel { level, nodes } => {
                check_raise(&known, level_of(view), *level, nodes)?;
                events.emit(Event::LevelRaised { level: *level });
            }
            Op::RemoveNode { id } => events.emit(check_removed(&known, *id, None)?),
            Op::RemoveChecked { id, others } => events.emit(check_removed(&known, *id, Some(others))?),
            Op::CreateMachine { name, .. } if view.row(name.as_bytes()).is_some() => {
                return Err(Rejection::MachineExists);
            }
            Op::CreateMachine { name, partitions, module } => {
                let (activation, founders) = (1 + view.read::<u64>(ACTIVATIONS).unwrap_or(0), known.ids());
                let row = MachineRow { partitions: *partitions, module: *module, activation, founders };
                events.emit(Event::MachineCreated { name: name.clone(), row });
            }
            Op::Module { machine, module, by, wish } => {
                let number = check_step(view, &known, machine, *module, wish)?;
                let (machine, module, by, wish) = (machine.clone(), *module, by.clone(), wish.clone());
                events.emit(Event::ModuleStepped { machine, module, by, wish, number });
            }
            Op::RefuseModule { .. } | Op::AcceptClock { .. } | Op::AcceptLoss { .. } => return note(op, view, events),
            Op::View { machine, view: name, by, wish } => {
                let unknown = Rejection::UnknownMachine { machine: machine.clone() };
                view.row(machine.as_bytes()).ok_or(unknown)?;
                let views: ViewsRow = view.read(views_suffix(machine)).unwrap_or_default();
                if views.check(name, wish)? {
                    let (machine, view, by, wish) = (machine.clone(), name.clone(), by.clone(), wish.clone());
                    events.emit(Event::ViewStepped { machine, view, by, wish });
                }
            }
            Op::Webhook { machine, webhook, by, wish } => {
                let unknown = Rejection::UnknownMachine { machine: machine.clone() };
                view.row(machine.as_bytes()).ok_or(unknown)?;
                let all: WebhooksRow = view.read(webhooks_suffix(machine)).unwrap_or_default();
                let found: Option<WebhookRow> = view.read(webhook_suffix(machine, webhook));
                if webhook_row::check(&all, found.as_ref(), webhook, wish)? {
                    let (machine, webhook, by) = (machine.clone(), webhook.clone(), by.clone());
                    events.emit(Event::WebhookStepped { machine, webhook, by, wish: wish.clone() });
                }
            }
            Op::RecordKey { node, .. } if !known.contains(*node) => return Err(Rejection::UnknownNode),
            Op::RecordKey { node, key } => {
                let keys: KeysRow = view.read(KEYS).unwrap_or_default();
                if keys.check(*node, *key)? {
                    events.emit(Event::KeyRecorded { node: *node, key: *key });
                }
            }
        }
        Ok(())
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        let mut nodes: NodesRow = tx.read(NODES).unwrap_or_default();
        match event {
            Event::ClusterFounded { nodes: founders } => nodes.nodes = founders.clone(),
            Event::NodeAdded { node } => {
                nodes.nodes.push(node.clone());
                nodes.nodes.sort_by_key(|node| node.id);
            }
            Event::NodeRemoved { id } => {
                nodes.nodes.retain(|node| node.id != *id);
                nodes.retired.push(*id);
                nodes.retired.sort_unstable();
            }
            Event::MachineCreated { name, row } => {
                tx.write(name.as_bytes(), row);
                tx.write(ACTIVATIONS, &row.activation);
                let what = Step::Created { number: row.activation };
                let mut modules = ModulesRow::default();
                modules.step(StepRow { time: tx.time(), by: "node".to_owned(), module: row.module, what });
                tx.write(modules_suffix(name), &modules);
                return;
            }
            Event::ModuleStepped { machine, module, by, wish, number } => {
                let mut modules: ModulesRow = tx.read(modules_suffix(machine)).unwrap_or_default();
                modules.grant(*module, wish, by, Micros(tx.time()), *number);
                tx.write(modules_suffix(machine), &modules);
                if let (Wish::Activate { .. }, Some(row)) = (wish, tx.read::<MachineRow>(machine.as_bytes())) {
                    tx.write(machine.as_bytes(), &MachineRow { module: *module, activation: *number, ..row });
                    tx.write(ACTIVATIONS, number);
                }
                return;
            }
            Event::ViewStepped { machine, view, by, wish } => {
                let mut views: ViewsRow = tx.read(views_suffix(machine)).unwrap_or_default();
                views.grant(view, wish, by, Micros(tx.time()));
                tx.write(views_suffix(machine), &views);
                return;
            }
            Event::WebhookStepped { machine, webhook, by, wish } => {
                return webhook_stepped(tx, machine, webhook, by, wish);
            }
            Event::KeyRecorded { node, key } => {
                let mut keys: KeysRow = tx.read(KEYS).unwrap_or_default();
                keys.keys.push(KeyRow { node: *node, key: *key, time: tx.time() });
                tx.write(KEYS, &keys);
                return;
            }
            Event::LossAccepted { loss } => {
                let before: LossesRow = tx.read(LOSSES).unwrap_or_default();
                return tx.write(LOSSES, &before.with(loss));
            }
            Event::LevelRaised { level } => return tx.write(FEATURE_LEVEL, level),
            Event::ClockAccepted { ahead, by } => {
                let before: ClockRow = tx.read(CLOCK).unwrap_or_default();
                return tx.write(CLOCK, &before.with(*ahead, by, Micros(tx.time())));
            }
            Event::ModuleRefused { refused } => {
                let suffix = refused_suffix(refused.module);
                let before: RefusedRow = tx.read(suffix.as_bytes()).unwrap_or_default();
                return tx.write(suffix, &before.with(refused, Micros(tx.time())));
            }
        }
        tx.write(NODES, &nodes);
    }

    fn render_response(done: &Done<'_, Self>) -> Value {
        done.events.last().map_or(Value::Null, |Occurred { event, .. }| event_value(event))
    }

    fn render_event(event: &Event, _: &EventContext<'_, Self>) -> Value {
        event_value(event)
    }

    fn render_row(_: &[u8], suffix: &[u8], row: &[u8]) -> Value {
        if suffix == NODES {
            return borsh::from_slice::<NodesRow>(row).map_or(Value::Null, |row| nodes_value(&row.nodes));
        }
        if suffix == KEYS {
            return borsh::from_slice::<KeysRow>(row).map_or(Value::Null, |row| row.value());
        }
        if suffix == CLOCK {
            return borsh::from_slice::<ClockRow>(row).map_or(Value::Null, |row| row.value());
        }
        if suffix == LOSSES {
            let read = borsh::from_slice::<LossesRow>(row);
            return read.map_or(Value::Null, |row| Value::Array(row.losses.iter().map(loss_value).collect()));
        }
        if suffix == FEATURE_LEVEL {
            return borsh::from_slice(row).map_or(Value::Null, level_value);
        }
        if suffix.starts_with(MODULES.as_bytes()) {
            let read = borsh::from_slice::<ModulesRow>(row);
            return read.map_or(Value::Null, |row| Value::Array(row.steps.iter().map(step_value).collect()));
        }
        if suffix.starts_with(REFUSED.as_bytes()) {
            return borsh::from_slice::<RefusedRow>(row).map_or(Value::Null, |row| refused_value(&row.refused));
        }
        if suffix.starts_with(VIEWS.as_bytes()) {
            return borsh::from_slice::<ViewsRow>(row).map_or(Value::Null, |row| views_value(&row));
        }
        if suffix.starts_with(WEBHOOK.as_bytes()) {
            return borsh::from_slice::<WebhookRow>(row).map_or(Value::Null, |row| webhook_value(&row));
        }
        if suffix.starts_with(WEBHOOKS.as_bytes()) {
            let read = borsh::from_slice::<WebhooksRow>(row);
            return read.map_or(Value::Null, |row| Value::Array(row.names.into_iter().map(Value::Text).collect()));
        }
        match borsh::from_slice::<MachineRow>(row) {
            Ok(row) => machine_value(&String::from_utf8_lossy(suffix), &row),
            Err(_) => Value::Null,
        }
    }
}

/// Checks what is only recorded. A refused module and an accepted loss are recorded once, however often they arrive.
fn note(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
    match op {
        Op::RefuseModule { refused } => {
            view.read::<RefusedRow>(refused_suffix(refused.module)).unwrap_or_default().check(refused)?;
            events.emit(Event::ModuleRefused { refused: refused.clone() });
        }
        Op::AcceptClock { ahead, by } => events.emit(Event::ClockAccepted { ahead: *ahead, by: by.clone() }),
        // A node repeats an operator's word until it knows that the word is recorded here.
        Op::AcceptLoss { loss } if !view.read::<LossesRow>(LOSSES).unwrap_or_default().has(loss) => {
            events.emit(Event::LossAccepted { loss: loss.clone() });
        }
        _ => {}
    }
    Ok(())
}
