//! An operator's order about a command in flight, and what a command in flight waits for.
//!
//! ```text
//! abort    forward ──▶ backward: what is done is undone, what may have been done is cancelled;
//!          refused once a confirm was decided
//! settle   a confirm or an undo that was refused ──▶ its next attempt is the step's last resort instead
//! ```
//! In: a row and an order. Out: the row after it, or why the protocol does not allow it. The next attempt of a settled
//! call has the same id with or without the order, so a participant carries out either the call or its last resort,
//! never both. It does not know who may give orders.

use minicbor::{Decode, Encode};
use statehouse_abi::cold::Rejection;

use crate::ids::{CommandId, NodeId, PartitionId};
use crate::saga::phase::{Phase, PhaseMark, PhaseMoment};
use crate::saga::plan::{Coordination, Form, Role};
use crate::saga::status::{Advance, BranchState, Call, CallKey, Direction, Saga};

/// The code that an aborted command is rejected with.
pub const ABORTED: &str = "aborted";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OrderKind {
    /// Undo what can be undone.
    #[n(0)]
    Abort,
    /// Carry out the last resort instead of what is refused for ever.
    #[n(1)]
    Settle,
}

/// What an entry records of an order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Order {
    #[cbor(n(0), with = "minicbor::bytes")]
    command: [u8; 16],
    #[n(1)]
    pub kind: OrderKind,
    /// Who gave it.
    #[n(2)]
    pub by: String,
    #[n(3)]
    pub why: String,
    /// The node that has checked the operator's token; since the feature level `ORDERS_VOUCHED`.
    #[n(4)]
    vouched: Option<u64>,
}

impl Order {
    pub fn new(command: CommandId, kind: OrderKind, by: &str, why: &str) -> Self {
        Self { command: command.0, kind, by: by.to_owned(), why: why.to_owned(), vouched: None }
    }

    /// The same order, vouched for by the node that sent it. What the order itself said about that is dropped.
    pub fn vouched_by(self, node: Option<NodeId>) -> Self {
        Self { vouched: node.map(|node| node.0), ..self }
    }

    pub fn vouched(&self) -> Option<NodeId> {
        self.vouched.map(NodeId)
    }

    pub fn command(&self) -> CommandId {
        CommandId(self.command)
    }

    /// What the mark of the order says.
    fn detail(&self) -> String {
        format!("{}: {}", self.by, self.why)
    }
}

/// Why the protocol does not allow an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    #[error(
        "its confirm was decided, so it can only be finished; if a participant refuses the confirm for ever, settle \
         the command"
    )]
    ConfirmDecided,
    #[error("it is being undone already; if a participant refuses an undo for ever, settle the command")]
    AlreadyUndoing,
    #[error("partition {0} may have carried out a step that the module cannot undo")]
    NotUndoable(PartitionId),
    #[error("no participant has refused a confirm or an undo of it, so there is nothing to settle")]
    NothingRefused,
    #[error("the module declares no last resort for the step that partition {0} refuses")]
    NoLastResort(PartitionId),
}

/// What a command in flight waits for: one call of one participant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitsFor {
    pub partition: PartitionId,
    pub kind: AwaitedAnswer,
    /// How often the participant has refused it.
    pub refused_count: u32,
    /// Whether the last resort replaces it.
    pub is_settled: bool,
    pub key: CallKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwaitedAnswer {
    Step,
    Undo,
    Confirm,
    /// The reservation of its id, before the confirm is decided.
    Claim,
}

impl AwaitedAnswer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Undo => "undo",
            Self::Confirm => "confirm",
            Self::Claim => "claim",
        }
    }
}

impl Saga {
    /// Carries out an order; `at` is the entry at home that records it.
    ///
    /// # Errors
    /// The protocol does not allow it, or it would change nothing.
    pub fn order(mut self, order: &Order, at: &PhaseMoment) -> Result<Advance, OrderRefused> {
        let due = self.due();
        match order.kind {
            OrderKind::Abort => self.abort(order, at)?,
            OrderKind::Settle => {
                let refused = self.refused(&due)?;
                for branch in refused {
                    self.branches[branch].settled = Some(true);
                    self.mark(Phase::Settling, Some(branch as u16), at, Some(order.detail()));
                }
            }
        }
        Ok(self.settle(&due, at))
    }

    fn abort(&mut self, order: &Order, at: &PhaseMoment) -> Result<(), OrderRefused> {
        match self.direction {
            Direction::Confirming => return Err(OrderRefused::ConfirmDecided),
            Direction::Backward => return Err(OrderRefused::AlreadyUndoing),
            Direction::Forward => {}
        }
        if self.plan.coordination == Coordination::Saga {
            // The step is on its way, and may be carried out at any time until it is cancelled.
            for key in self.due() {
                let branch = self.branch(key);
                if branch.steps.iter().any(|step| step.undo.is_none()) {
                    return Err(OrderRefused::NotUndoable(branch.partition()));
                }
                self.branches[key.branch as usize].state = BranchState::Doubtful;
            }
        }
        let detail = format!("an operator ended the command: {}", order.why);
        let rejection = minicbor::to_vec(Rejection { code: ABORTED.to_owned(), detail });
        self.mark(Phase::Aborting, None, at, Some(order.detail()));
        self.turn_back(rejection.expect("a vector takes all bytes").into(), at);
        Ok(())
    }

    /// The branches whose due call must succeed and was refused. Each of them has a last resort.
    fn refused(&self, due: &[CallKey]) -> Result<Vec<usize>, OrderRefused> {
        let is_refused = |key: &&CallKey| 0 < key.attempt && !self.is_settled(**key);
        let refused: Vec<&CallKey> = due.iter().filter(is_refused).collect();
        if refused.is_empty() {
            return Err(OrderRefused::NothingRefused);
        }
        let lacks = |key: &&&CallKey| self.branch(***key).steps.iter().any(|step| step.last_resort.is_none());
        match refused.iter().find(lacks) {
            Some(key) => Err(OrderRefused::NoLastResort(self.branch(**key).partition())),
            None => Ok(refused.iter().map(|key| key.branch as usize).collect()),
        }
    }

    /// Whether the last resort replaces a call from now on.
    pub fn is_settled(&self, key: CallKey) -> bool {
        self.branches[key.branch as usize].settled == Some(true)
    }

    /// Which ops a call carries out.
    pub fn form(&self, key: CallKey) -> Form {
        match key.call {
            _ if 0 < key.attempt && self.is_settled(key) => Form::LastResort,
            // A claim records the steps that the id is reserved for, and does not carry them out.
            Call::Do | Call::Claim => Form::Do,
            Call::Undo => Form::Undo,
        }
    }

    /// The calls that must be answered before the command can end.
    pub fn waits_for(&self) -> Vec<WaitsFor> {
        let of = |key: CallKey| {
            let branch = self.branch(key);
            let kind = match (key.call, branch.role) {
                (Call::Undo, _) => AwaitedAnswer::Undo,
                (Call::Claim, _) => AwaitedAnswer::Claim,
                (Call::Do, Role::Confirm) => AwaitedAnswer::Confirm,
                (Call::Do, Role::Try) => AwaitedAnswer::Step,
            };
            let is_settled = self.is_settled(key);
            WaitsFor { partition: branch.partition(), kind, refused_count: key.attempt, is_settled, key }
        };
        self.due().into_iter().map(of).collect()
    }

    /// The code of the last recorded refusal of a call that is made again.
    pub fn last_refusal(&self, key: CallKey) -> Option<&str> {
        let is_of_it = |mark: &&PhaseMark| mark.phase == Phase::Retrying && mark.branch == Some(key.branch);
        self.marks.iter().rev().find(is_of_it)?.detail.as_deref().filter(|_| 0 < key.attempt)
    }

    /// Whether the row allows an abort now.
    pub fn may_abort(&self) -> bool {
        let is_undoable = |key: &CallKey| self.branch(*key).steps.iter().all(|step| step.undo.is_some());
        self.direction == Direction::Forward
            && (self.plan.coordination == Coordination::TryConfirmCancel || self.due().iter().all(is_undoable))
    }

    /// Whether a settlement could be recorded now.
    pub fn may_settle(&self) -> bool {
        self.refused(&self.due()).is_ok()
    }
}
