//! What `system` holds, as values for people to read: events, nodes, machines.
//!
//! In: events and rows of the machine `system`. Out: values, which the host prints as JSON. It decides nothing.

use statehouse_guest::Value;

use crate::ids::{Micros, ModuleId};
use crate::records::key_row::key_value;
use crate::records::loss_row::loss_value;
use crate::records::module_row::{ModulesRow, Step, StepRow};
use crate::records::op::Event;
use crate::records::refused_row::refused_value;
use crate::records::rows::{MachineRow, NodeRow};
use crate::records::view_row::wish_value;
use crate::records::webhook_row::webhook_step_value;

pub fn event_value(event: &Event) -> Value {
    match event {
        Event::ClusterFounded { nodes } => nodes_value(nodes),
        Event::NodeAdded { node } => node_value(node),
        Event::NodeRemoved { id } => Value::map([("id", Value::Int((*id).into()))]),
        Event::MachineCreated { name, row } => machine_value(name, row),
        Event::ModuleStepped { machine, module, by, wish, number } => {
            let mut row = ModulesRow::default();
            row.grant(*module, wish, by, Micros(0), *number);
            let step = row.steps.first().map_or(Value::Null, step_value);
            Value::map([("machine", Value::text(machine.as_str())), ("step", step)])
        }
        Event::KeyRecorded { node, key } => key_value(*node, *key),
        Event::ViewStepped { machine, view, wish, .. } => wish_value(machine, view, wish),
        Event::WebhookStepped { machine, webhook, wish, .. } => webhook_step_value(machine, webhook, wish),
        Event::LevelRaised { level } => level_value(*level),
        Event::ClockAccepted { ahead, by } => {
            Value::map([("ahead_us", Value::Int((*ahead).into())), ("by", Value::text(by.as_str()))])
        }
        Event::LossAccepted { loss } => loss_value(loss),
        Event::ModuleRefused { refused } => refused_value(std::slice::from_ref(refused)),
    }
}

pub fn level_value(level: u32) -> Value {
    Value::map([("feature_level", Value::Int(level.into()))])
}

pub fn nodes_value(nodes: &[NodeRow]) -> Value {
    Value::map([("nodes", Value::Array(nodes.iter().map(node_value).collect()))])
}

fn node_value(node: &NodeRow) -> Value {
    Value::map([("id", Value::Int(node.id.into())), ("peer", Value::text(node.peer.as_str()))])
}

pub fn machine_value(name: &str, row: &MachineRow) -> Value {
    Value::map([
        ("name", Value::text(name)),
        ("partitions", Value::Int(row.partitions.into())),
        ("module", Value::text(ModuleId(row.module).to_string())),
        ("activation", Value::Int(row.activation.into())),
    ])
}

/// A step as a value for people to read.
pub fn step_value(step: &StepRow) -> Value {
    let mut members = vec![
        ("step".to_owned(), Value::text(step.what.name())),
        ("module".to_owned(), Value::text(ModuleId(step.module).to_string())),
        ("by".to_owned(), Value::text(step.by.as_str())),
    ];
    let mut add = |name: &str, value: Value| members.push((name.to_owned(), value));
    match &step.what {
        Step::Created { number } => add("activation", Value::Int((*number).into())),
        Step::Staged | Step::PrepareAsked | Step::DrainAsked | Step::ShadowStopped => {}
        Step::ShadowAsked { node } => add("node", Value::Int((*node).into())),
        Step::NotDrained { problem } => add("problem", Value::text(problem.as_str())),
        Step::NotActivated { number, partition, problem } => {
            add("activation", Value::Int((*number).into()));
            add("partition", Value::Int((*partition).into()));
            add("problem", Value::text(problem.as_str()));
        }
        Step::Prepared { node, problem } => {
            add("node", Value::Int((*node).into()));
            if let Some(problem) = problem {
                add("problem", Value::text(problem.as_str()));
            }
        }
        Step::Activated { number, mode, proof } => {
            add("activation", Value::Int((*number).into()));
            add("mode", Value::text(mode.name()));
            if let Some(proof) = proof {
                add("proof", Value::text(proof.as_str()));
            }
        }
    }
    Value::map(members)
}
