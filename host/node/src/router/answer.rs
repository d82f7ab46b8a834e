//! What goes into the router and what comes back: requests of one caller, and answers that are definite or say how to
//! get a definite one.
//!
//! It knows nothing of HTTP; `api/` turns these into statuses, headers and JSON.

use std::sync::Arc;
use std::time::Duration;

use statehouse_abi::cold::{Phase, Refusal, Rejection};
use statehouse_abi::role;
use statehouse_abi::value::Value;
use tokio::time::Instant;

use crate::ids::{CommandId, Fingerprint, Micros, NodeId, PartitionId, Position};
use crate::machine::journal::Moment;
use crate::router::scope::Scope;

/// The roles whose work includes looking at other callers' commands.
const WATCHING_ROLES: u32 = role::AUDITOR | role::DEVELOPER | role::OPERATOR | role::ADMIN;

/// Who asks; recorded with every command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    /// Bits of [`statehouse_abi::role`].
    pub roles: u32,
    /// The entities it may act for, and read.
    pub scope: Scope,
}

impl Caller {
    /// A caller that is not bound to entities.
    pub fn unbound(name: impl Into<String>, roles: u32) -> Self {
        Self { name: name.into(), roles, scope: Scope::All }
    }

    /// Whether it may see what became of a command that `sender` sent. A caller that is bound to entities sees only its
    /// own.
    pub fn may_see(&self, sender: &str) -> bool {
        self.scope.is_all() || self.name == sender
    }

    /// Whether it means the only command with an id, when it names no home: it sent the command, or its role is to
    /// watch.
    pub fn means(&self, sender: &str) -> bool {
        self.name == sender || self.roles & WATCHING_ROLES != 0
    }
}

/// One command as a client sent it.
#[derive(Clone, Debug)]
pub struct CommandRequest {
    /// Name of a command of the active module.
    pub command: Arc<str>,
    /// The body as a value in CBOR; it satisfies the command's schema.
    pub body: Vec<u8>,
    /// Chosen by the client, or made by the host when the command has no id field.
    pub id: CommandId,
    pub caller: Arc<Caller>,
    pub request_id: Arc<str>,
    /// The client waits no longer, and nothing is executed later.
    pub deadline: Instant,
}

/// What became of a command.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Its events are committed.
    Done(RecordedOutcome),
    /// Its rejection is committed; it sticks to the id.
    Rejected(RecordedOutcome, Rejection),
    /// The module refused to plan it. Not recorded.
    Refused(Refusal),
    /// The id is known with other content; these fields of the body differ.
    Conflict { fields: Vec<String>, position: Position },
    /// Certainly not accepted.
    Unavailable(Unavailability),
    /// The deadline passed while it was under way. It may still be executed, but not after its expiry.
    Unknown { home: String, expires: Micros, fingerprint: Fingerprint },
}

impl Answer {
    /// Whether it is a rejection that was recorded for this request, and so has taken space in the log.
    pub fn is_new_rejection(&self) -> bool {
        matches!(self, Self::Rejected(recorded, _) if !recorded.is_replayed)
    }
}

/// A recorded outcome.
#[derive(Clone, Debug)]
pub struct RecordedOutcome {
    pub position: Position,
    pub time: Micros,
    /// This outcome was recorded by an earlier request with the same id.
    pub is_replayed: bool,
    /// HTTP status the module declared for success, or for the rejection's code.
    pub status: u16,
    /// What the module rendered: the body of a success, or members to add to a rejection's problem.
    pub body: Value,
}

/// Why nothing was accepted, and when to retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailability {
    pub reason: UnavailableReason,
    pub retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnavailableReason {
    /// The partition's queue is full.
    Overloaded,
    /// Its deadline passed while it waited: it was not executed and will not be.
    Expired,
    /// The caller has caused too many recorded rejections this second.
    RejectionLimit,
    /// The disk is full: 507.
    StorageFull,
    /// Nobody leads the partition, as far as this node knows.
    NoLeader,
    /// Somebody leads it or soon will, and yet nothing was accepted.
    NotNow(Obstacle),
    /// The partition was halted on this node: its log, its state or its module failed.
    Halted,
    /// This node was removed from its cluster for good, and nobody there answers it.
    Removed,
    /// The node is shutting down.
    ShuttingDown,
    /// The id was decided before and is not executed again, but this node no longer has the entry with the outcome:
    /// 410.
    OutcomeReleased,
    /// A rollback waits until the commands in flight across partitions are over; no new one starts meanwhile.
    Draining,
    /// The partition cannot activate the machine's module: 503 until an operator has chosen another one.
    NotActivated,
}

/// Why a partition that has a leader accepts nothing now. Clients are told in words; the code of all is `no_leader`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The node that leads, as far as this one knows, does not answer it.
    LeaderSilent,
    /// The leader is heard by no majority.
    NoMajority,
    /// The node that was believed to lead did not, or lost the leadership before the command was in the log.
    LeadershipMoving,
    /// Another module is becoming active, and not all partitions and nodes have it yet.
    ModuleChanging,
    /// Another request with the same id is under way, or came too late.
    OtherCopy,
    /// The plan's branches are not those that the leader would make: another node has another partition count.
    OtherBranches,
    /// The replica on this node is not open: it is opened anew, or the node stops.
    Closed,
    /// This node has no replica, or none yet.
    NotHere,
    /// The replica on this node has not caught up with the leader in time.
    Behind,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees everything that was acknowledged before the read began.
    Linearizable,
    /// Sees what this node has.
    Stale,
    /// Sees at least this position.
    AtLeast(Position),
}

#[derive(Clone, Debug)]
pub struct QueryRequest {
    /// Name of a query of the active module.
    pub query: Arc<str>,
    /// Satisfies the query's schema.
    pub params: Value,
    pub caller: Arc<Caller>,
    pub consistency: Consistency,
    pub at: Option<Moment>,
    /// For a history, newest first: continue past this position, with older events.
    pub cursor: Option<Position>,
    /// For a history: at most this many items.
    pub limit: u32,
    /// For a command: the entity that it belongs to.
    pub home: Option<String>,
    pub deadline: Instant,
}

#[derive(Clone, Debug)]
pub struct QueryAnswer {
    pub body: Value,
    /// The home of the command that is shown, if the request named none and the module can tell it.
    pub home: Option<String>,
    /// Where the partition stood when the rows were read.
    pub position: Position,
    pub time: Micros,
}

#[derive(Clone, Debug)]
pub enum QueryError {
    NotFound(Refusal),
    Refused(Refusal),
    /// Without a home it is not clear which command is meant: 409.
    Ambiguous(Ambiguity),
    /// The position belongs to another history, or lies ahead of this one: 410.
    Gone(Position),
    /// The time lies ahead of the journal's, which is this one. Entries up to then are still to come: 400.
    Future(Micros),
    /// The position lies before the journal that this node has kept; the text says where that begins: 410.
    Released(String),
    Unavailable(Unavailability),
    /// The deadline passed.
    Deadline,
    /// The module trapped or answered nonsense.
    Fault(String),
}

/// Which command is asked about.
#[derive(Clone, Debug)]
pub struct CommandQuestion {
    pub id: CommandId,
    /// The entity whose partition knows it; without it all partitions are asked.
    pub home: Option<String>,
    /// When it expires, according to the answer that said *unknown* or that accepted it.
    pub expires: Option<Micros>,
    /// The fingerprint of its content, because another command may have the id.
    pub fingerprint: Option<Fingerprint>,
}

impl CommandQuestion {
    /// Asks for anything that is recorded under this id.
    pub fn of(id: CommandId) -> Self {
        Self { id, home: None, expires: None, fingerprint: None }
    }
}

/// What is known of a command id.
#[derive(Clone, Debug)]
pub enum CommandLookup {
    /// Recorded: `rendered` is the module's rendering of the status.
    Recorded { status: Box<CommandStatus>, rendered: Value },
    /// It has started and continues in other partitions.
    InFlight(Box<CommandStatus>),
    /// It has not been executed, and a submission that expires by the time asked about will not be.
    NotExecuted,
    /// It has not been executed yet; a submission under way may still be, until the time given. If no submission
    /// expires later than that, a question after that time gets a definite answer.
    Undecided { until: Micros },
    /// No command of the named home is executed under the id, now or later: another command has the id there.
    Taken { position: Position },
    /// Without a home it is not clear which command is meant.
    Ambiguous(Ambiguity),
}

/// Why a command is not shown to a caller that names no home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// Several commands have the id, or may have it. Lists those of their homes that the caller may see.
    Several(Vec<String>),
    /// One command has it, but another caller sent it: its outcome says nothing about a command of this caller.
    OfAnother(Option<String>),
}

impl Ambiguity {
    pub fn homes(&self) -> &[String] {
        match self {
            Self::Several(homes) => homes,
            Self::OfAnother(home) => home.as_slice(),
        }
    }
}

impl std::fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self {
            Self::Several(_) => "several commands have this id",
            Self::OfAnother(_) => "another caller has sent the command with this id",
        };
        write!(f, "{why}; name the home of yours with `home` (for a transfer: the payer)")
    }
}

impl CommandLookup {
    /// The host's own view, where a command was found.
    pub fn facts(&self) -> Option<&CommandStatus> {
        match self {
            Self::Recorded { status, .. } | Self::InFlight(status) => Some(status),
            Self::NotExecuted | Self::Undecided { .. } | Self::Taken { .. } | Self::Ambiguous(_) => None,
        }
    }
}

/// The host's own view of a recorded command.
#[derive(Clone, Debug)]
pub struct CommandStatus {
    pub id: CommandId,
    /// The fingerprint of its content.
    pub fingerprint: Fingerprint,
    pub command: String,
    pub caller: String,
    /// The node that vouched to the leader for the caller, if the journal names it.
    pub vouched: Option<NodeId>,
    pub request_id: String,
    /// The entity that it belongs to; for a transfer, the payer. `None` if the module that decided it cannot plan it
    /// again.
    pub home: Option<String>,
    pub position: Position,
    pub time: Micros,
    pub rejection: Option<Rejection>,
    pub phases: Vec<Phase>,
    /// The guest's panic text, if this node has one.
    pub panic: Option<String>,
    /// Set for a command that is not over.
    pub in_flight: Option<InFlightStatus>,
}

/// What a command in flight waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlightStatus {
    /// Empty for the moment between two steps.
    pub waits_for: Vec<AwaitedCall>,
    /// The orders that the protocol allows now.
    pub orders: Vec<&'static str>,
}

/// One call to a participant that must be answered first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedCall {
    pub partition: PartitionId,
    /// `step`, `undo` or `confirm`.
    pub what: &'static str,
    /// `refused`: the participant has refused it, and is asked again. `no_leader`: nobody leads the participant, as far
    /// as this node knows. `asked`: it has not answered yet.
    pub reason: &'static str,
    pub refused_count: u32,
    /// The code of the last refusal.
    pub code: Option<String>,
    /// The module's last resort is carried out in place of the refused step.
    pub is_settled: bool,
}
