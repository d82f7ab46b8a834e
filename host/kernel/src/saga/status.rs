//! The row of the phase status table, and the one function that changes it.
//!
//! In: a row and the outcome of a call. Out: the row after it, and whether the command is finished. The calls that are
//! due follow from the row, so the next leader knows as much as the last one did. Nothing here waits, sends or measures
//! time.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use statehouse_abi::key::key;

use crate::ids::{CommandId, Fingerprint, Micros};
use crate::saga::identity::{Derivation, Identity};
use crate::saga::phase::{Phase, PhaseMark, PhaseMoment};
use crate::saga::plan::{Branch, Coordination, Role, SagaPlan};

/// The reserved entity whose rows are the phase status table.
pub const ENTITY: &[u8] = b"@saga";

/// What a branch is asked to do: its steps, or what undoes them, or to reserve the command's id until its confirm
/// comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Call {
    #[n(0)]
    Do,
    #[n(1)]
    Undo,
    #[n(2)]
    Claim,
}

/// One call of one branch. A participant carries out each call at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct CallKey {
    #[n(0)]
    pub branch: u16,
    #[n(1)]
    pub call: Call,
    /// The number of recorded refusals so far, of a call that must succeed in the end.
    #[n(2)]
    pub attempt: u32,
}

impl CallKey {
    /// The call that this one undoes or cancels.
    pub fn first_do(self) -> Self {
        Self { call: Call::Do, attempt: 0, ..self }
    }
}

/// The key of a command's row.
pub fn row_key(command: CommandId) -> Vec<u8> {
    key(ENTITY, &command.0)
}

/// What the start of a command says about it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Command {
    #[cbor(n(0), with = "minicbor::bytes")]
    id: [u8; 16],
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub caller: String,
    #[n(3)]
    pub roles: u32,
    #[n(4)]
    pub request_id: String,
    #[n(5)]
    pub body: ByteVec,
}

impl Command {
    pub fn new(id: CommandId, name: &str, caller: &str, roles: u32, request_id: &str, body: &[u8]) -> Self {
        Self {
            id: id.0,
            name: name.to_owned(),
            caller: caller.to_owned(),
            roles,
            request_id: request_id.to_owned(),
            body: body.to_vec().into(),
        }
    }

    pub fn id(&self) -> CommandId {
        CommandId(self.id)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Direction {
    /// Steps are carried out, or tried.
    #[n(0)]
    Forward,
    /// All tries have succeeded.
    #[n(1)]
    Confirming,
    /// A step was refused, so the steps that are done are undone.
    #[n(2)]
    Backward,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum BranchState {
    /// Nobody has asked for it yet, or no answer was heard.
    #[n(0)]
    Pending,
    #[n(1)]
    Done,
    #[n(2)]
    Refused,
    #[n(3)]
    Undone,
    /// A call was under way when an operator aborted the command. Nobody knows yet whether it was carried out.
    #[n(4)]
    Doubtful,
    /// A confirm whose partition has reserved the command's id for it.
    #[n(5)]
    Claimed,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Status {
    #[n(0)]
    pub(super) state: BranchState,
    /// The attempt of the call that is due, or of the last one.
    #[n(1)]
    attempt: u32,
    /// Kept while the branch is done, and dropped when it is undone.
    #[n(2)]
    events: Vec<EventRecord>,
    /// The last resort replaces what is refused.
    #[n(3)]
    pub(super) settled: Option<bool>,
}

/// An event of a branch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EventRecord {
    /// Number of the step in its branch.
    #[n(0)]
    pub step: u32,
    #[n(1)]
    pub event: ByteVec,
}

/// A command in flight: one row of the phase status table.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Saga {
    #[n(0)]
    format: u8,
    #[n(1)]
    pub command: Command,
    #[n(2)]
    pub plan: SagaPlan,
    #[n(3)]
    pub(super) direction: Direction,
    #[n(4)]
    pub(super) branches: Vec<Status>,
    /// CBOR of the rejection that the command ends with.
    #[n(5)]
    rejection: Option<ByteVec>,
    #[n(6)]
    pub marks: Vec<PhaseMark>,
    /// How the ids of its calls are derived; since format 2.
    #[n(7)]
    derivation: Option<Derivation>,
}

/// The newest version of the row. Each row has the oldest format that can express it, so that nodes of an earlier
/// release in the same cluster compute the same bytes from the same entry.
const FORMAT: u8 = 3;
/// How many marks a row has at most before a further refused attempt replaces the last one. The first marks tell why
/// attempts are refused, the last one tells that they still are.
const MARKS_MAX: usize = 64;

/// What a participant has recorded of a call.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    #[n(0)]
    Done {
        #[n(0)]
        events: Vec<EventRecord>,
    },
    #[n(1)]
    Refused {
        /// CBOR of a rejection.
        #[n(0)]
        rejection: ByteVec,
        #[n(1)]
        code: String,
    },
    /// The participant did nothing that could be undone, and never will.
    #[n(2)]
    NothingDone,
}

/// A command that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedSaga {
    pub saga: Saga,
    /// CBOR of the rejection that it ends with.
    pub rejection: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    GoesOn(Box<Saga>),
    Finished(Box<FinishedSaga>),
}

/// The outcome belongs to a call that is not due: it came twice, or too late to matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a call of branch {} that is not due was answered", .0.branch)]
pub struct StaleOutcome(pub CallKey);

impl Saga {
    /// A command whose first branch was carried out in the entry that starts the command.
    pub fn start(
        command: Command,
        plan: SagaPlan,
        derivation: Derivation,
        events: Vec<EventRecord>,
        at: &PhaseMoment,
    ) -> Advance {
        assert!(plan.branches.len() > 1, "one partition needs no coordination");
        let format = match derivation {
            Derivation::ById => 1,
            Derivation::ByContent if !plan.claims_first() => 2,
            Derivation::ByContent => 3,
        };
        let pending = Status { state: BranchState::Pending, attempt: 0, events: Vec::new(), settled: None };
        let mut saga = Self {
            format,
            command,
            branches: vec![pending; plan.branches.len()],
            plan,
            direction: Direction::Forward,
            rejection: None,
            marks: Vec::new(),
            derivation: derivation.recorded(),
        };
        saga.mark(Phase::Started, None, at, None);
        saga.branches[0] = Status { state: BranchState::Done, attempt: 0, events, settled: None };
        saga.mark(Phase::StepDone, Some(0), at, None);
        let none = Vec::new();
        saga.settle(&none, at)
    }

    /// Takes in what a participant has recorded. `at` is the entry at home that says so.
    pub fn advance(
        mut self,
        key: CallKey,
        outcome: &Outcome,
        recorded: &PhaseMoment,
        at: &PhaseMoment,
    ) -> Result<Advance, StaleOutcome> {
        let due = self.due();
        if !due.contains(&key) {
            return Err(StaleOutcome(key));
        }
        let branch = key.branch as usize;
        let is_final = key.call != Call::Undo && self.direction == Direction::Forward;
        match (key.call, outcome) {
            (Call::Do, Outcome::Done { events }) => {
                self.branches[branch].state = BranchState::Done;
                self.branches[branch].events = events.clone();
                self.mark(Phase::StepDone, Some(key.branch), recorded, None);
            }
            (Call::Claim, Outcome::Done { .. }) => {
                self.branches[branch].state = BranchState::Claimed;
                self.mark(Phase::Claimed, Some(key.branch), recorded, None);
            }
            (Call::Do | Call::Claim, Outcome::Refused { rejection, code }) if is_final => {
                self.branches[branch].state = BranchState::Refused;
                self.mark(Phase::StepRefused, Some(key.branch), recorded, Some(code.clone()));
                self.turn_back(rejection.clone(), at);
            }
            (Call::Undo, Outcome::Done { .. } | Outcome::NothingDone) => {
                self.branches[branch].state = BranchState::Undone;
                self.branches[branch].events.clear();
                self.mark(Phase::Compensated, Some(key.branch), recorded, None);
            }
            (Call::Do | Call::Undo | Call::Claim, Outcome::Refused { code, .. }) => {
                self.branches[branch].attempt = key.attempt + 1;
                self.mark(Phase::Retrying, Some(key.branch), recorded, Some(code.clone()));
            }
            (Call::Do | Call::Claim, Outcome::NothingDone) => return Err(StaleOutcome(key)),
        }
        Ok(self.settle(&due, at))
    }

    pub(super) fn turn_back(&mut self, rejection: ByteVec, at: &PhaseMoment) {
        // If there are several refusals, the command is rejected with the one that is recorded here first.
        if self.direction == Direction::Forward {
            self.direction = Direction::Backward;
            self.rejection = Some(rejection);
            self.mark(Phase::Compensating, None, at, None);
        }
    }

    /// Enters the next phase if the present one is complete, and says whether it was the last. The calls in
    /// `due_before` were made already.
    pub(super) fn settle(mut self, due_before: &[CallKey], at: &PhaseMoment) -> Advance {
        let is_asked = |(branch, status): (&Branch, &Status)| match branch.role {
            Role::Try => status.state == BranchState::Done,
            Role::Confirm => !self.is_unclaimed(branch, status),
        };
        if self.direction == Direction::Forward && self.plan.branches.iter().zip(&self.branches).all(is_asked) {
            self.direction = Direction::Confirming;
        }
        let due = self.due();
        if due.is_empty() {
            let phase = if self.rejection.is_some() { Phase::Aborted } else { Phase::Finished };
            self.mark(phase, None, at, None);
            let rejection = self.rejection.clone().map(Vec::from);
            return Advance::Finished(Box::new(FinishedSaga { saga: self, rejection }));
        }
        for key in due.iter().filter(|key| key.call == Call::Do && key.attempt == 0 && !due_before.contains(key)) {
            self.mark(Phase::StepSent, Some(key.branch), at, None);
        }
        Advance::GoesOn(Box::new(self))
    }

    /// Whether the confirm of a branch must not be decided yet, because its partition may have another command under
    /// the same id.
    fn is_unclaimed(&self, branch: &Branch, status: &Status) -> bool {
        self.plan.claims_first() && status.state == BranchState::Pending && self.plan.is_confirm_only(branch)
    }

    /// The calls that are due. Each is repeated until the participant says what it has recorded.
    pub fn due(&self) -> Vec<CallKey> {
        let key = |branch: usize, call| CallKey {
            branch: u16::try_from(branch).expect("a command has few branches"),
            call,
            attempt: self.branches[branch].attempt,
        };
        let numbered = || self.plan.branches.iter().zip(&self.branches).enumerate();
        let with = |role: Role, states: &'static [BranchState]| {
            numbered().filter(move |(_, (branch, status))| branch.role == role && states.contains(&status.state))
        };
        match (self.plan.coordination, self.direction) {
            (Coordination::Saga, Direction::Forward) => {
                with(Role::Try, &[BranchState::Pending]).take(1).map(|(at, _)| key(at, Call::Do)).collect()
            }
            (Coordination::Saga, Direction::Confirming) => Vec::new(),
            (Coordination::Saga, Direction::Backward) => with(Role::Try, &[BranchState::Done, BranchState::Doubtful])
                .next_back()
                .map(|(at, _)| key(at, Call::Undo))
                .into_iter()
                .collect(),
            (Coordination::TryConfirmCancel, Direction::Forward) => {
                let tries = with(Role::Try, &[BranchState::Pending]).map(|(at, _)| key(at, Call::Do));
                let unclaimed = numbered().filter(|(_, (branch, status))| self.is_unclaimed(branch, status));
                tries.chain(unclaimed.map(|(at, _)| key(at, Call::Claim))).collect()
            }
            (Coordination::TryConfirmCancel, Direction::Confirming) => {
                with(Role::Confirm, &[BranchState::Pending, BranchState::Claimed])
                    .map(|(at, _)| key(at, Call::Do))
                    .collect()
            }
            (Coordination::TryConfirmCancel, Direction::Backward) => {
                with(Role::Try, &[BranchState::Done, BranchState::Pending]).map(|(at, _)| key(at, Call::Undo)).collect()
            }
        }
    }

    /// Whether a participant that does not know the call to be undone must make sure that it is never carried out.
    pub fn is_cancel(&self, key: CallKey) -> bool {
        key.call == Call::Undo
            && (self.plan.coordination == Coordination::TryConfirmCancel
                || self.branches[key.branch as usize].state == BranchState::Doubtful)
    }

    /// Whether a participant must claim the client's id before it carries out the call, because the call may still be
    /// refused.
    pub fn needs_claim(&self, key: CallKey) -> bool {
        match key.call {
            Call::Claim => true,
            Call::Do => self.branch(key).role == Role::Try,
            Call::Undo => false,
        }
    }

    /// What the ids of its calls are derived from.
    pub fn identity(&self) -> Identity {
        Identity {
            command: self.command.id(),
            // The first branch is carried out where the command starts.
            home: self.plan.branches[0].partition(),
            fingerprint: Fingerprint::of_command(&self.command.name, &self.command.body),
            derivation: Derivation::of_recorded(self.derivation),
        }
    }

    pub fn branch(&self, key: CallKey) -> &Branch {
        &self.plan.branches[key.branch as usize]
    }

    pub fn started(&self) -> Micros {
        self.marks.first().map_or(Micros(0), |mark| mark.at.time())
    }

    /// The events of all branches that are done and not undone, in the order of the branches: entity, op, event.
    pub fn events(&self) -> impl Iterator<Item = (&[u8], &[u8], &[u8])> {
        self.plan.branches.iter().zip(&self.branches).flat_map(|(branch, status)| {
            let is_settled = status.settled == Some(true);
            status.events.iter().filter_map(move |event| {
                let step = branch.steps.get(event.step as usize)?;
                let op = step.last_resort.as_ref().filter(|_| is_settled).unwrap_or(&step.op);
                Some((step.entity.as_slice(), op.as_slice(), event.event.as_slice()))
            })
        })
    }

    pub(super) fn mark(&mut self, phase: Phase, branch: Option<u16>, at: &PhaseMoment, detail: Option<String>) {
        let mark = PhaseMark { phase, branch, at: at.clone(), detail };
        if self.marks.len() >= MARKS_MAX && phase == Phase::Retrying {
            self.marks.pop();
        }
        self.marks.push(mark);
    }

    pub fn to_row(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("a vector takes all bytes")
    }

    /// # Errors
    /// The row is damaged, or of a later version.
    pub fn of_row(row: &[u8]) -> Result<Self, String> {
        let saga: Self = minicbor::decode(row).map_err(|error| format!("a row of the phase status table: {error}"))?;
        if saga.format == 0 || FORMAT < saga.format {
            return Err(format!(
                "a row of the phase status table has format {}, this version reads up to {FORMAT}: start a later \
                 release on this folder",
                saga.format
            ));
        }
        let is_planned = saga.plan.is_divided() && saga.branches.len() == saga.plan.branches.len();
        if !is_planned || (saga.format == 1) != saga.derivation.is_none() {
            return Err("a row of the phase status table contradicts itself".to_owned());
        }
        Ok(saga)
    }
}
