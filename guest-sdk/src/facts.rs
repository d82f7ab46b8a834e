//! What rendering knows of a recorded command: the command, its events with their ops, and the host's facts.
//!
//! Bytes recorded under an older schema that the module no longer reads are left out of the typed views; the facts
//! keep them. It does not know which call of the API asked.

use statehouse_abi::cold::{CommandFacts, EventBytes, EventFacts, Violation};
use statehouse_abi::value::Value;

use crate::declare::Commands;
use crate::module::Module;
use crate::uuid::Uuid;

/// A command whose outcome is recorded.
pub struct Done<'a, M: Module> {
    pub facts: &'a CommandFacts,
    /// The command, when this module can read the recorded body.
    pub command: Option<M::Command>,
    pub events: Vec<Occurred<'a, M>>,
}

/// An event with the op it came from.
pub struct Occurred<'a, M: Module> {
    pub entity: &'a [u8],
    pub op: M::Op,
    pub event: M::Event,
}

/// What is known of one event beside itself.
pub struct EventContext<'a, M: Module> {
    pub entity: &'a [u8],
    pub op: Option<M::Op>,
    /// Name of the command in `describe`.
    pub command_name: &'a str,
    /// The command, when this module can read the recorded body.
    pub command: Option<M::Command>,
    pub id: Uuid,
    /// Microseconds since 1970 UTC.
    pub time: i64,
    pub position: &'a str,
}

impl<'a, M: Module> Done<'a, M> {
    pub(crate) fn new(facts: &'a CommandFacts) -> Self {
        let events = facts.events.iter().filter_map(Occurred::decode).collect();
        Self { facts, command: command::<M>(&facts.command, &facts.body), events }
    }

    pub fn id(&self) -> Uuid {
        Uuid(self.facts.id)
    }
}

impl<'a, M: Module> Occurred<'a, M> {
    fn decode(bytes: &'a EventBytes) -> Option<Self> {
        let (op, event) = (borsh::from_slice(&bytes.op).ok()?, borsh::from_slice(&bytes.event).ok()?);
        Some(Self { entity: &bytes.entity, op, event })
    }
}

impl<'a, M: Module> EventContext<'a, M> {
    pub(crate) fn new(facts: &'a EventFacts) -> Self {
        Self {
            entity: &facts.event.entity,
            op: borsh::from_slice(&facts.event.op).ok(),
            command_name: &facts.command,
            command: command::<M>(&facts.command, &facts.body),
            id: Uuid(facts.id),
            time: facts.time,
            position: &facts.position,
        }
    }
}

fn command<M: Module>(name: &str, body: &[u8]) -> Option<M::Command> {
    let index = M::Command::find(name)?;
    M::Command::decode(index, &Value::from_cbor(body).ok()?)?.ok()
}

/// The canonical body as it was recorded.
pub(crate) fn body_value<M: Module>(done: &Done<'_, M>) -> Value {
    Value::from_cbor(&done.facts.body).unwrap_or_else(|_| Value::Bytes(done.facts.body.clone()))
}

/// The status every module can give: id, outcome, time, position, phases.
pub(crate) fn status_value<M: Module>(done: &Done<'_, M>) -> Value {
    let facts = done.facts;
    let phases = facts.phases.iter().map(|phase| {
        let mut members = vec![
            ("phase", Value::text(&phase.name)),
            ("time", Value::Int(phase.time.into())),
            ("position", Value::text(&phase.position)),
        ];
        members.extend(phase.detail.as_ref().map(|detail| ("detail", Value::text(detail))));
        Value::map(members)
    });
    let mut members = vec![
        ("id", Value::text(done.id().to_string())),
        ("command", Value::text(&facts.command)),
        ("status", Value::text(if facts.rejection.is_some() { "rejected" } else { "success" })),
        ("time", Value::Int(facts.time.into())),
        ("position", Value::text(&facts.position)),
        ("phases", Value::Array(phases.collect())),
    ];
    if let Some(rejection) = &facts.rejection {
        members.push(("code", Value::text(&rejection.code)));
        members.push(("detail", Value::text(&rejection.detail)));
    }
    Value::map(members)
}

/// The invariants that do not hold.
#[derive(Default)]
pub struct Violations {
    pub(crate) found: Vec<Violation>,
}

impl Violations {
    /// `invariant` is a name of [`Module::INVARIANTS`].
    pub fn report(&mut self, invariant: &str, detail: impl Into<String>) {
        self.found.push(Violation { invariant: invariant.into(), detail: detail.into() });
    }
}
