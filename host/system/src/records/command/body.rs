//! The bodies of the commands of `system`, as its description declares them and as they are recorded.
//!
//! In: values. Out: bodies whose members keep their bounds. An id is a number or a text here, spelt as it was sent,
//! because the journal keeps that spelling; what it means is read in `command.rs`.

use statehouse_guest::{Body, Commands};

use crate::limits::SLOT_COUNT;
use crate::records::command::webhook_body::{ChangeWebhook, CreateWebhook, NoteWebhook};

#[derive(Commands)]
pub enum CommandBody {
    /// Records the first nodes
    #[command(path = "found", response = FoundCluster)]
    FoundCluster(FoundCluster),
    /// Adds a node
    #[command(path = "nodes", response = AddNode)]
    AddNode(AddNode),
    /// Removes a node for good
    #[command(path = "nodes/remove", response = RemoveNode)]
    RemoveNode(RemoveNode),
    /// Creates a machine
    #[command(path = "machines", response = CreateMachine)]
    CreateMachine(CreateMachine),
    /// Makes a module known
    #[command(path = "modules/stage", response = StageModule)]
    StageModule(StageModule),
    /// Asks all nodes to prepare a module
    #[command(path = "modules/prepare", response = PrepareModule)]
    PrepareModule(PrepareModule),
    /// Records the result of preparing a module on a node
    #[command(path = "modules/prepared", response = ModulePrepared)]
    ModulePrepared(ModulePrepared),
    /// Makes a module the active one
    #[command(path = "modules/activate", response = ActivateModule)]
    ActivateModule(ActivateModule),
    /// Starts a rollback: no command between partitions begins until it is over
    #[command(path = "modules/drain", response = DrainModule)]
    DrainModule(DrainModule),
    /// Records why a rollback was given up: what is still in flight between partitions
    #[command(path = "modules/not_drained", response = ModuleNotDrained)]
    ModuleNotDrained(ModuleNotDrained),
    /// Records why a partition cannot carry out an activation
    #[command(path = "modules/not_activated", response = ModuleNotActivated)]
    ModuleNotActivated(ModuleNotActivated),
    /// Asks a node to run a module as a shadow of the active one
    #[command(path = "modules/shadow", response = ShadowModule)]
    ShadowModule(ShadowModule),
    /// Asks the node to stop the shadow
    #[command(path = "modules/shadow_stop", response = ShadowStop)]
    ShadowStop(ShadowStop),
    /// Records the key with which a node signs
    #[command(path = "nodes/key", response = RecordKey)]
    RecordKey(RecordKey),
    /// Creates a view on every node, or replaces it by another version
    #[command(path = "views/create", response = CreateView)]
    CreateView(CreateView),
    /// Rebuilds a view on every node
    #[command(path = "views/rebuild", response = RebuildView)]
    RebuildView(RebuildView),
    /// Drops a view
    #[command(path = "views/drop", response = DropView)]
    DropView(DropView),
    /// Creates a webhook, which sends events to a URL
    #[command(path = "webhooks/create", response = CreateWebhook)]
    CreateWebhook(CreateWebhook),
    /// Changes a webhook
    #[command(path = "webhooks/change", response = ChangeWebhook)]
    ChangeWebhook(ChangeWebhook),
    /// Records how far a webhook has delivered, or which message it gave up
    #[command(path = "webhooks/note", response = NoteWebhook)]
    NoteWebhook(NoteWebhook),
    /// Raises the feature level, which all nodes understand
    #[command(path = "feature_level", response = RaiseLevel)]
    RaiseLevel(RaiseLevel),
    /// Adds a node that states its feature level
    #[command(path = "nodes/supporting", response = AddSupportingNode)]
    AddSupportingNode(AddSupportingNode),
    /// Records that a module was refused
    #[command(path = "modules/refused", response = RefuseModule)]
    RefuseModule(RefuseModule),
    /// Removes a node for good, if the nodes that stay are those that were found to have a quorum without it
    #[command(path = "nodes/remove_checked", response = RemoveChecked)]
    RemoveChecked(RemoveChecked),
    /// Accepts clocks that have leapt by this much
    #[command(path = "clock/accept", response = AcceptClock)]
    AcceptClock(AcceptClock),
    /// Records that an operator accepts what a log has lost
    #[command(path = "losses", response = AcceptLoss)]
    AcceptLoss(AcceptLoss),
}

#[derive(Body)]
pub struct FoundCluster {
    /// The first nodes
    #[body(max_items = 64)]
    pub nodes: Vec<AddNode>,
}

#[derive(Body)]
pub struct AddNode {
    /// Number of the node, never given to another one
    #[body(min = 1, max = 2_147_483_647)]
    pub id: u64,
    /// Where the others reach it, as host:port
    #[body(min_chars = 3, max_chars = 262)]
    pub peer: String,
}

#[derive(Body)]
pub struct RemoveNode {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub id: u64,
}

#[derive(Body)]
pub struct CreateMachine {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub name: String,
    /// How many partitions its slots are split into, for now and for ever
    #[body(min = 1, max = SLOT_COUNT)]
    pub partitions: u32,
    /// Id of the module that decides from the first entry
    #[body(max_chars = 64)]
    pub module: String,
}

#[derive(Body)]
pub struct StageModule {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module's id: the hash of its bytes
    #[body(max_chars = 64)]
    pub module: String,
    /// As the module declares it
    #[body(max_chars = 64)]
    pub version: String,
    /// Schema of its rows
    pub schema: u32,
    /// Size in bytes
    pub size: u32,
}

#[derive(Body)]
pub struct PrepareModule {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module's id
    #[body(max_chars = 64)]
    pub module: String,
}

#[derive(Body)]
pub struct ModulePrepared {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module's id
    #[body(max_chars = 64)]
    pub module: String,
    /// The node that reports it
    #[body(min = 1, max = 2_147_483_647)]
    pub node: u64,
    /// The engine that compiles and runs it there
    #[body(max_chars = 128)]
    pub engine: String,
    /// Why it cannot run there
    #[body(max_chars = 200)]
    pub problem: Option<String>,
}

#[derive(Body)]
pub struct ActivateModule {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module's id
    #[body(max_chars = 64)]
    pub module: String,
    /// `proved`, `without_proof` or `rollback`
    #[body(max_chars = 16)]
    pub mode: String,
    /// The module that the caller believes to be active
    #[body(max_chars = 64)]
    pub current: String,
    /// Hash of the certificate, and which of its differences were approved
    #[body(max_chars = 200)]
    pub proof: Option<String>,
}

#[derive(Body)]
pub struct DrainModule {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module to roll back to
    #[body(max_chars = 64)]
    pub module: String,
    /// The module that the caller believes to be active
    #[body(max_chars = 64)]
    pub current: String,
}

#[derive(Body)]
pub struct ModuleNotDrained {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module to which the rollback was asked for
    #[body(max_chars = 64)]
    pub module: String,
    /// What was still in flight
    #[body(max_chars = 200)]
    pub problem: String,
}

#[derive(Body)]
pub struct ModuleNotActivated {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module's id
    #[body(max_chars = 64)]
    pub module: String,
    /// Number of the activation
    #[body(min = 1)]
    pub number: u64,
    /// The partition that cannot carry it out
    #[body(min = 0, max = 4095)]
    pub partition: u32,
    /// Why it cannot
    #[body(max_chars = 200)]
    pub problem: String,
}

#[derive(Body)]
pub struct ShadowModule {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module's id
    #[body(max_chars = 64)]
    pub module: String,
    /// The node that runs the shadow
    #[body(min = 1, max = 2_147_483_647)]
    pub node: u64,
}

#[derive(Body)]
pub struct ShadowStop {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module's id
    #[body(max_chars = 64)]
    pub module: String,
}

#[derive(Body)]
pub struct RecordKey {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub node: u64,
    /// Its public key, hexadecimal
    #[body(min_chars = 64, max_chars = 64)]
    pub key: String,
}

#[derive(Body)]
pub struct CreateView {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// Name of the view
    #[body(name, max_chars = 32)]
    pub view: String,
    /// Id of the module that builds it: the hash of its bytes
    #[body(max_chars = 64)]
    pub module: String,
    /// As the module declares it
    #[body(max_chars = 64)]
    pub version: String,
    /// Whether it is a default view, which is not created if it was dropped before
    pub is_default: bool,
}

#[derive(Body)]
pub struct RebuildView {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// Name of the view
    #[body(name, max_chars = 32)]
    pub view: String,
}

#[derive(Body)]
pub struct DropView {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// Name of the view
    #[body(name, max_chars = 32)]
    pub view: String,
}

#[derive(Body)]
pub struct RaiseLevel {
    /// The level that may be written from now on
    #[body(min = 2, max = 65_535)]
    pub level: u32,
    /// The nodes that have said that they understand it
    #[body(max_items = 64)]
    pub nodes: Vec<ListedNode>,
}

#[derive(Body)]
pub struct AddSupportingNode {
    /// Number of the node, never given to another one
    #[body(min = 1, max = 2_147_483_647)]
    pub id: u64,
    /// Where the others reach it, as host:port
    #[body(min_chars = 3, max_chars = 262)]
    pub peer: String,
    /// The highest feature level that it understands
    #[body(min = 1, max = 65_535)]
    pub level: u32,
}

#[derive(Body)]
pub struct RefuseModule {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// The module's id: the hash of its bytes
    #[body(max_chars = 64)]
    pub module: String,
    /// Size in bytes
    pub size: u32,
    /// Why it was refused
    #[body(max_chars = 300)]
    pub reason: String,
}

/// The form of a removal since [`REMOVALS`](crate::features::REMOVALS): of two that were checked at once, only one
/// passes.
#[derive(Body)]
pub struct RemoveChecked {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub id: u64,
    /// The nodes that would stay, which were found to have a quorum without it
    #[body(max_items = 64)]
    pub others: Vec<ListedNode>,
}

#[derive(Body)]
pub struct ListedNode {
    /// Number of the node
    #[body(min = 1, max = 2_147_483_647)]
    pub id: u64,
}

#[derive(Body)]
pub struct AcceptClock {
    /// How many microseconds the clock is ahead of where it should be
    pub ahead: i64,
}

#[derive(Body)]
pub struct AcceptLoss {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub machine: String,
    /// Which of its partitions
    #[body(max = 4095)]
    pub partition: u32,
    /// The node whose log had lost something
    #[body(min = 1, max = 2_147_483_647)]
    pub node: u64,
    /// Who gave it up
    #[body(max_chars = 400)]
    pub by: String,
    /// Why
    #[body(max_chars = 400)]
    pub why: String,
    /// When, in microseconds since 1970, by the node's clock
    pub time: i64,
    /// What the partition said it was waiting for
    #[body(max_chars = 400)]
    pub refusal: String,
}
