//! The logic of the machine `system`: which nodes there are, which machines, of how many partitions, and which module is theirs.
//!
//! In: `found_cluster`, `add_node`, `remove_node`, `create_machine`. Out: one row with all nodes, one per machine. It is written against
//! the SDK like any module and runs natively.

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
/// The entity that holds everything.
const CLUSTER: &str = "cluster";
/// Suffix of the row with the number of the last activation. A machine's name never begins so.
const ACTIVATIONS: &[u8] = b"#activations";
/// Suffix of the row with all nodes.
const NODES: &[u8] = b"#nodes";

#[derive(Body)]
pub struct FoundCluster {
    /// The first nodes
    #[body(max_items = 64)]
    pub nodes: Vec<Node>,
}

#[derive(Body)]
pub struct Node {
    /// Number of the node, never given to another one
    #[body(min = 1, max = 2_147_483_647)]
    pub id: i64,
    /// Where the others reach it, as host:port
    #[body(min_chars = 3, max_chars = 262)]
    pub peer: String,
}

#[derive(Body)]
pub struct RemoveNode {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub id: i64,
}

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
    /// Names the first nodes
    #[command(path = "found", response = FoundCluster)]
    FoundCluster(FoundCluster),
    /// Takes a node in
    #[command(path = "nodes", response = Node)]
    AddNode(Node),
    /// Removes a node for good
    #[command(path = "nodes/remove", response = RemoveNode)]
    RemoveNode(RemoveNode),
    /// Creates a machine
    #[command(path = "machines", response = CreateMachine)]
    CreateMachine(CreateMachine),
}

#[derive(Rejections)]
pub enum Rejection {
    /// The machine exists
    #[rejection(status = 409, detail = "a machine of this name exists")]
    MachineExists,
    /// The cluster is founded
    #[rejection(status = 409, detail = "the cluster has its first nodes already")]
    Founded,
    /// The id was given before
    #[rejection(status = 409, detail = "a node of this id is or was in the cluster; ids are never given twice")]
    NodeIdUsed,
    /// No such node
    #[rejection(status = 404, detail = "no node of this id is in the cluster")]
    UnknownNode,
    /// The last node
    #[rejection(status = 409, detail = "the last node cannot be removed")]
    LastNode,
}

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
    pub fn contains(&self, id: u64) -> bool {
        self.nodes.iter().any(|node| node.id == id)
    }

    /// Whether the id was ever given.
    pub fn knows(&self, id: u64) -> bool {
        self.contains(id) || self.retired.contains(&id)
    }
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Op {
    FoundCluster { nodes: Vec<NodeRow> },
    AddNode { node: NodeRow },
    RemoveNode { id: u64 },
    CreateMachine { name: String, partitions: u32, module: [u8; 32] },
}

#[derive(BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Event {
    ClusterFounded { nodes: Vec<NodeRow> },
    NodeAdded { node: NodeRow },
    NodeRemoved { id: u64 },
    MachineCreated { name: String, row: MachineRow },
}

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
    ];

    type Command = Command;
    type Query = NoQueries;
    type Op = Op;
    type Event = Event;
    type Rejection = Rejection;
    type Tally = ();

    fn plan(command: &Command, caller: &Caller<'_>, planner: &mut Planner<'_, Op>) -> Result<(), Refusal> {
        if !caller.has_role(role::ADMIN) && !caller.has_role(role::OPERATOR) {
            return Err(refusal("forbidden", 403, "only an operator or an admin changes the cluster", None));
        }
        let op = match command {
            Command::FoundCluster(found) => {
                let mut nodes: Vec<NodeRow> = found.nodes.iter().map(node_row).collect();
                nodes.sort_by_key(|node| node.id);
                if nodes.is_empty() || nodes.windows(2).any(|pair| pair[0].id == pair[1].id) {
                    return Err(refusal("invalid_nodes", 422, "name at least one node, and each once", Some("nodes")));
                }
                Op::FoundCluster { nodes }
            }
            Command::AddNode(node) => Op::AddNode { node: node_row(node) },
            Command::RemoveNode(remove) => Op::RemoveNode { id: remove.id.unsigned_abs() },
            Command::CreateMachine(create) => plan_machine(create)?,
        };
        let step = planner.step(op, CLUSTER).key(NODES);
        if let Command::CreateMachine(create) = command {
            step.key(ACTIVATIONS).key(create.name.as_bytes());
        }
        Ok(())
    }

    fn validate(op: &Op, view: &View<'_>, events: &mut Events<'_, Event>) -> Result<(), Rejection> {
        let known: NodesRow = view.read(NODES).unwrap_or_default();
        match op {
            Op::FoundCluster { .. } if !known.nodes.is_empty() => return Err(Rejection::Founded),
            Op::FoundCluster { nodes } => events.emit(Event::ClusterFounded { nodes: nodes.clone() }),
            Op::AddNode { node } if known.knows(node.id) => return Err(Rejection::NodeIdUsed),
            Op::AddNode { node } => events.emit(Event::NodeAdded { node: node.clone() }),
            Op::RemoveNode { id } if !known.contains(*id) => return Err(Rejection::UnknownNode),
            Op::RemoveNode { .. } if known.nodes.len() == 1 => return Err(Rejection::LastNode),
            Op::RemoveNode { id } => events.emit(Event::NodeRemoved { id: *id }),
            Op::CreateMachine { name, .. } if view.row(name.as_bytes()).is_some() => {
                return Err(Rejection::MachineExists);
            }
            Op::CreateMachine { name, partitions, module } => {
                let last: u64 = view.read(ACTIVATIONS).unwrap_or(0);
                let founders = known.nodes.iter().map(|node| node.id).collect();
                let row = MachineRow { partitions: *partitions, module: *module, activation: last + 1, founders };
                events.emit(Event::MachineCreated { name: name.clone(), row });
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
                return;
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
        match borsh::from_slice::<MachineRow>(row) {
            Ok(row) => machine_value(&String::from_utf8_lossy(suffix), &row),
            Err(_) => Value::Null,
        }
    }
}

fn plan_machine(create: &CreateMachine) -> Result<Op, Refusal> {
    if SLOT_COUNT < create.partitions {
        let detail = "a machine has at most 4096 partitions";
        return Err(refusal("too_many_partitions", 422, detail, Some("partitions")));
    }
    let module: ModuleId = create
        .module
        .parse()
        .map_err(|_| refusal("invalid_module", 422, "the module's id is 64 hexadecimal digits", Some("module")))?;
    Ok(Op::CreateMachine { name: create.name.clone(), partitions: create.partitions, module: module.0 })
}

fn refusal(code: &str, status: u16, detail: &str, field: Option<&str>) -> Refusal {
    Refusal { code: code.to_owned(), status, detail: detail.to_owned(), field: field.map(str::to_owned) }
}

fn node_row(node: &Node) -> NodeRow {
    NodeRow { id: node.id.unsigned_abs(), peer: node.peer.clone() }
}

fn event_value(event: &Event) -> Value {
    match event {
        Event::ClusterFounded { nodes } => nodes_value(nodes),
        Event::NodeAdded { node } => node_value(node),
        Event::NodeRemoved { id } => Value::map([("id", Value::Int((*id).into()))]),
        Event::MachineCreated { name, row } => machine_value(name, row),
    }
}

fn nodes_value(nodes: &[NodeRow]) -> Value {
    Value::map([("nodes", Value::Array(nodes.iter().map(node_value).collect()))])
}

fn node_value(node: &NodeRow) -> Value {
    Value::map([("id", Value::Int(node.id.into())), ("peer", Value::text(node.peer.as_str()))])
}

fn machine_value(name: &str, row: &MachineRow) -> Value {
    Value::map([
        ("name", Value::text(name)),
        ("partitions", Value::Int(row.partitions.into())),
        ("module", Value::text(ModuleId(row.module).to_string())),
        ("activation", Value::Int(row.activation.into())),
    ])
}

/// What a row of the system's entity says.
pub enum SystemRow {
    Nodes(NodesRow),
    Machine(String, MachineRow),
}

/// Reads a row of `system`; nothing for those that only count.
pub fn read_row(suffix: &[u8], row: &[u8]) -> Option<SystemRow> {
    match suffix {
        ACTIVATIONS => None,
        NODES => borsh::from_slice(row).ok().map(SystemRow::Nodes),
        name => {
            let name = std::str::from_utf8(name).ok()?;
            Some(SystemRow::Machine(name.to_owned(), borsh::from_slice(row).ok()?))
        }
    }
}

/// Prefix of all keys of `system`.
pub fn system_prefix() -> Vec<u8> {
    key(CLUSTER.as_bytes(), b"")
}
