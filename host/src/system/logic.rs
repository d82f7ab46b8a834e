//! The logic of the machine `system`: which machines there are, of how many partitions, and which module is theirs.
//!
//! In: `create_machine`. Out: one row per machine. It is written against the SDK like any module and runs natively.

use statehouse_abi::key::key;
use statehouse_guest::borsh::{self, BorshDeserialize, BorshSerialize};
use statehouse_guest::{
    Body, Caller, Commands, Done, EventContext, Events, Module, Named, NoQueries, Occurred, Planner, Refusal,
    Rejections, Tx, Value, View, module, role,
};

use crate::ids::ModuleId;
use crate::limits::SLOT_COUNT;

/// Name of the machine whose partition 0 holds what the cluster knows of itself.
pub const SYSTEM: &str = "system";
/// The entity that holds the machines.
const MACHINES: &str = "machines";
/// Suffix of the row with the number of the last activation.
const ACTIVATIONS: &[u8] = b"#";

#[derive(Body)]
pub struct CreateMachine {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub name: String,
    /// How many partitions its slots are split into, for now and for ever
    #[body(min = 1, max = 4096)]
    pub partitions: u32,
    /// Id of the module that decides from the first entry on
    #[body(max_chars = 64)]
    pub module: String,
}

#[derive(Commands)]
pub enum Command {
    /// Creates a machine
    #[command(path = "machines", response = CreateMachine)]
    CreateMachine(CreateMachine),
}

#[derive(Rejections)]
pub enum Rejection {
    /// The machine exists
    #[rejection(status = 409, detail = "a machine of this name exists")]
    MachineExists,
}

/// What `system` knows of a machine.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct MachineRow {
    pub partitions: u32,
    pub module: [u8; 32],
    /// Number of the activation that made it active.
    pub activation: u64,
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Op {
    CreateMachine { name: String, partitions: u32, module: [u8; 32] },
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Event {
    MachineCreated { name: String, row: MachineRow },
}

pub struct System;

#[module]
impl Module for System {
    const NAME: &'static str = SYSTEM;
    const VERSION: &'static str = "1.0.0";
    const SCHEMA: u32 = 1;
    const EVENTS: &'static [Named] = &[Named { name: "MachineCreated", summary: "A machine was created" }];

    type Command = Command;
    type Query = NoQueries;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    type Tally = ();

    fn plan(command: &Command, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        let Command::CreateMachine(create) = command;
        if !caller.has_role(role::ADMIN) {
            return Err(refusal("forbidden", 403, "only an admin creates machines", None));
        }
        if SLOT_COUNT < create.partitions {
            return Err(refusal(
                "too_many_partitions",
                422,
                "a machine has at most 4096 partitions",
                Some("partitions"),
            ));
        }
        let module: ModuleId = create
            .module
            .parse()
            .map_err(|_| refusal("invalid_module", 422, "the module's id is 64 hexadecimal digits", Some("module")))?;
        let op = Op::CreateMachine { name: create.name.clone(), partitions: create.partitions, module: module.0 };
        planner.step(op, MACHINES).key(create.name.as_bytes()).key(ACTIVATIONS);
        Ok(())
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        let Op::CreateMachine { name, partitions, module } = op;
        if view.row(name.as_bytes()).is_some() {
            return Err(Rejection::MachineExists);
        }
        let last: u64 = view.read(ACTIVATIONS).unwrap_or(0);
        let row = MachineRow { partitions: *partitions, module: *module, activation: last + 1 };
        events.emit(Event::MachineCreated { name: name.clone(), row });
        Ok(())
    }

    fn apply(event: &Event, tx: &mut Tx<'_>) {
        let Event::MachineCreated { name, row } = event;
        tx.write(name.as_bytes(), row);
        tx.write(ACTIVATIONS, &row.activation);
    }

    fn render_response(done: &Done<'_, Self>) -> Value {
        match done.events.last() {
            Some(Occurred { event: Event::MachineCreated { name, row }, .. }) => machine_value(name, row),
            None => Value::Null,
        }
    }

    fn render_event(event: &Event, _: &EventContext<'_, Self>) -> Value {
        let Event::MachineCreated { name, row } = event;
        machine_value(name, row)
    }

    fn render_row(_: &[u8], suffix: &[u8], row: &[u8]) -> Value {
        match borsh::from_slice::<MachineRow>(row) {
            Ok(row) => machine_value(&String::from_utf8_lossy(suffix), &row),
            Err(_) => Value::Null,
        }
    }
}

fn refusal(code: &str, status: u16, detail: &str, field: Option<&str>) -> Refusal {
    Refusal { code: code.to_owned(), status, detail: detail.to_owned(), field: field.map(str::to_owned) }
}

fn machine_value(name: &str, row: &MachineRow) -> Value {
    Value::map([
        ("name", Value::text(name)),
        ("partitions", Value::Int(row.partitions.into())),
        ("module", Value::text(ModuleId(row.module).to_string())),
        ("activation", Value::Int(row.activation.into())),
    ])
}

/// Key of a machine's row.
pub fn machine_key(name: &str) -> Vec<u8> {
    key(MACHINES.as_bytes(), name.as_bytes())
}

/// Name and row of a machine, from a row of the entity that holds them; `None` for the other rows of that entity.
pub fn read_machine(suffix: &[u8], row: &[u8]) -> Option<(String, MachineRow)> {
    let name = std::str::from_utf8(suffix).ok().filter(|name| name.as_bytes() != ACTIVATIONS)?;
    Some((name.to_owned(), borsh::from_slice(row).ok()?))
}

/// Prefix of all keys of the entity that holds the machines.
pub fn machines_prefix() -> Vec<u8> {
    key(MACHINES.as_bytes(), b"")
}
