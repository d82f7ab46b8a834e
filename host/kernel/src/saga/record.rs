//! What an entry records about commands on several partitions: which of its commands start, which carry out a call, and
//! which outcomes were heard from other partitions.
//!
//! In: records. Out: the bytes of an entry's section, and records read back and checked. It does not know what an entry
//! is.

use minicbor::{Decode, Encode};

use crate::ids::{CommandId, Fingerprint, PartitionId};
use crate::saga::identity::{Derivation, Identity};
use crate::saga::order::Order;
use crate::saga::phase::{PhaseMark, PhaseMoment};
use crate::saga::plan::SagaPlan;
use crate::saga::status::{CallKey, Outcome};

/// A command of the batch that continues on other partitions after its first branch, which this entry carries out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Start {
    /// Number of the command in the batch.
    #[n(0)]
    pub command: u32,
    #[n(1)]
    pub plan: SagaPlan,
    /// How the ids of its calls are derived; only recorded if it differs from the first release.
    #[n(2)]
    derivation: Option<Derivation>,
}

impl Start {
    pub fn new(command: u32, plan: SagaPlan, derivation: Derivation) -> Self {
        Self { command, plan, derivation: derivation.recorded() }
    }

    pub fn derivation(&self) -> Derivation {
        Derivation::of_recorded(self.derivation)
    }
}

/// A command of the batch that is a call, made by the coordinator of another command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// Number of the command in the batch.
    #[n(0)]
    pub command: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    parent: [u8; 16],
    #[n(2)]
    home: u32,
    #[n(3)]
    pub key: CallKey,
    /// How its id is derived; only recorded if it differs from the first release.
    #[n(4)]
    derivation: Option<Derivation>,
    /// It is the first call of its command in this partition. From here on, no other command is carried out here under
    /// the client's id.
    #[n(5)]
    is_claim: Option<bool>,
}

impl Origin {
    pub fn new(command: u32, of: &Identity, key: CallKey) -> Self {
        let derivation = of.derivation.recorded();
        Self { command, parent: of.command.0, home: of.home.0, key, derivation, is_claim: None }
    }

    /// The same origin, which also claims the client's id.
    pub fn claiming(self) -> Self {
        Self { is_claim: Some(true), ..self }
    }

    pub fn is_claim(&self) -> bool {
        self.is_claim == Some(true)
    }

    /// The command that the call belongs to. `fingerprint` is that of the call, which has its command's name and body.
    pub fn identity(&self, fingerprint: Fingerprint) -> Identity {
        let derivation = Derivation::of_recorded(self.derivation);
        Identity { command: self.parent(), home: self.home(), fingerprint, derivation }
    }

    /// The command whose branch is called.
    pub fn parent(&self) -> CommandId {
        CommandId(self.parent)
    }

    /// The partition that coordinates the command.
    pub fn home(&self) -> PartitionId {
        PartitionId(self.home)
    }
}

/// The outcome of a call, as its participant has recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallProgress {
    #[cbor(n(0), with = "minicbor::bytes")]
    command: [u8; 16],
    #[n(1)]
    pub key: CallKey,
    #[n(2)]
    pub outcome: Outcome,
    #[n(3)]
    pub at: PhaseMoment,
}

impl CallProgress {
    pub fn new(command: CommandId, key: CallKey, outcome: Outcome, at: PhaseMoment) -> Self {
        Self { command: command.0, key, outcome, at }
    }

    pub fn command(&self) -> CommandId {
        CommandId(self.command)
    }
}

/// Everything in an entry that concerns several partitions. Starts and origins are in the order of their commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Records {
    #[n(0)]
    pub starts: Vec<Start>,
    #[n(1)]
    pub origins: Vec<Origin>,
    #[n(2)]
    pub progress: Vec<CallProgress>,
    /// The history of each command that ends with the entry.
    #[n(3)]
    pub marks: Vec<Vec<PhaseMark>>,
    /// Operators' orders, which apply after the outcomes; since the feature level `ORDERS`.
    #[n(4)]
    pub ordered: Option<Vec<Order>>,
    /// How the ids of each command that ends with the entry are derived; only recorded if one differs from the first
    /// release.
    #[n(5)]
    pub ended: Option<Vec<Derivation>>,
}

impl Records {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn orders(&self) -> &[Order] {
        self.ordered.as_deref().unwrap_or_default()
    }

    /// Whether an entry with these records has format 1, because they say nothing that the first release did not know.
    pub fn are_of_first_release(&self) -> bool {
        self.ended.is_none()
            && self.ordered.is_none()
            && self.starts.iter().all(|start| start.derivation.is_none())
            && self.origins.iter().all(|origin| origin.derivation.is_none() && origin.is_claim.is_none())
    }

    /// How the ids of a command that ends with the entry are derived.
    pub fn derivation_ended(&self, command: usize) -> Derivation {
        Derivation::of_recorded(self.ended.as_ref().and_then(|ended| ended.get(command)).copied())
    }

    pub fn start(&self, command: u32) -> Option<&Start> {
        let at = self.starts.binary_search_by_key(&command, |start| start.command).ok()?;
        Some(&self.starts[at])
    }

    pub fn origin(&self, command: u32) -> Option<&Origin> {
        let at = self.origins.binary_search_by_key(&command, |origin| origin.command).ok()?;
        Some(&self.origins[at])
    }

    /// What an entry of outcomes and orders cannot record, given how many commands end with it. There is one history
    /// for each, and it starts nothing.
    pub(crate) fn flaw_of_outcomes(&self, ended: usize) -> Option<&'static str> {
        if !(self.starts.is_empty() && self.origins.is_empty()) {
            Some("an entry of outcomes starts a command, or answers a call")
        } else if self.marks.len() != ended {
            Some("an entry of outcomes does not have one history for each command that ends")
        } else if self.ended.as_ref().is_some_and(|derivations| derivations.len() != ended) {
            Some("an entry of outcomes does not say for each command that ends how its ids are derived")
        } else {
            None
        }
    }

    /// What a batch cannot record: it starts commands and answers calls, and ends nothing.
    pub(crate) fn flaw_of_batch(&self) -> Option<&'static str> {
        let is_sound =
            self.progress.is_empty() && self.ordered.is_none() && self.marks.is_empty() && self.ended.is_none();
        (!is_sound).then_some("a batch records an outcome, an order or an end")
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("a vector takes all bytes")
    }
}

/// Reads a section and checks it against the number of commands in its entry.
///
/// # Errors
/// The text says what is wrong.
pub fn read_records(bytes: &[u8], command_count: usize) -> Result<Records, String> {
    let records: Records = minicbor::decode(bytes).map_err(|error| error.to_string())?;
    let starts = records.starts.iter().map(|start| start.command);
    let origins = records.origins.iter().map(|origin| origin.command);
    if !starts.clone().is_sorted_by(|a, b| a < b) || !origins.clone().is_sorted_by(|a, b| a < b) {
        return Err("records are not in the order of their commands".to_owned());
    }
    if starts.chain(origins).any(|command| command_count <= command as usize) {
        return Err("a record names a command that the entry does not have".to_owned());
    }
    if records.starts.iter().any(|start| !start.plan.is_divided()) {
        return Err("a command starts with a plan for one partition, or with a branch without steps".to_owned());
    }
    Ok(records)
}
