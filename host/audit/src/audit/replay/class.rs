//! How the outcome of one recorded decision under another module differs from the record.
//!
//! In: two decisions about one group. Out: a class. It does not know how either decision was made.

use serde::{Deserialize, Serialize};
use statehouse_abi::cold::{Rejection, host_rejection};
use statehouse_abi::outcome::GroupOutcome;

use crate::machine::decide::Diagnostic;
use crate::machine::entry::Batch;

/// How a decision differs. The names are those of the report, of certificates and of `--approve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The same events, or the same rejection.
    Same,
    /// Planned into other steps, with another canonical body or another coordination, or refused when planned.
    PlanDiffers,
    /// Rejected both times, but with another reason or another text.
    ReasonDiffers,
    /// Accepted both times, with other events.
    EventsDiffer,
    /// What was accepted would be rejected now.
    AcceptedToRejected,
    /// What was rejected would be accepted now.
    RejectedToAccepted,
    /// The candidate traps, disagrees with itself, or asks for keys without end.
    Trap,
    /// The candidate uses up the budget of one call.
    Budget,
    /// The same events, but `apply` makes other rows of them. Counted by entry, and only if both modules have the same
    /// row schema.
    RowsDiffer,
    /// The recorded module does not decide now what it decided then: the host or the machine differs, not the logic.
    HostDrift,
}

impl Class {
    pub const ALL: [Self; 10] = [
        Self::Same,
        Self::PlanDiffers,
        Self::ReasonDiffers,
        Self::EventsDiffer,
        Self::AcceptedToRejected,
        Self::RejectedToAccepted,
        Self::Trap,
        Self::Budget,
        Self::RowsDiffer,
        Self::HostDrift,
    ];

    /// The name as it is written in reports and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::PlanDiffers => "plan_differs",
            Self::ReasonDiffers => "reason_differs",
            Self::EventsDiffer => "events_differ",
            Self::AcceptedToRejected => "accepted_to_rejected",
            Self::RejectedToAccepted => "rejected_to_accepted",
            Self::Trap => "trap",
            Self::Budget => "budget",
            Self::RowsDiffer => "rows_differ",
            Self::HostDrift => "host_drift",
        }
    }

    /// The class with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// The class of a candidate's decision compared with the recorded one.
    pub fn of(recorded: &Decision, candidate: &Decision, is_planned_alike: bool) -> Self {
        match (recorded, candidate) {
            (_, Decision::Trapped { code, .. }) if code == host_rejection::BUDGET => Self::Budget,
            (_, Decision::Trapped { .. }) => Self::Trap,
            (_, Decision::Refused { .. }) => Self::PlanDiffers,
            _ if !is_planned_alike => Self::PlanDiffers,
            (recorded, candidate) if recorded == candidate => Self::Same,
            (Decision::Accepted { .. }, Decision::Accepted { .. }) => Self::EventsDiffer,
            (Decision::Accepted { .. }, _) => Self::AcceptedToRejected,
            (_, Decision::Accepted { .. }) => Self::RejectedToAccepted,
            (_, _) => Self::ReasonDiffers,
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What was, or would be, decided about one command or one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Its events, each with the number of its op in the group.
    Accepted { events: Vec<(u32, Vec<u8>)> },
    /// Rejected by the module, or by the host if the record says so.
    Rejected { code: String, detail: String },
    /// Refused when it was planned; such a refusal is not recorded.
    Refused { code: String, detail: String },
    /// The module failed while it planned or decided; the code is one of [`host_rejection`].
    Trapped { code: String, diagnostic: Diagnostic },
    /// The call is no longer made, or was not made then.
    NotAsked { why: &'static str },
}

impl Decision {
    /// Reads a group's decision from its entry.
    pub fn recorded(batch: &Batch<'_>, group: usize) -> Self {
        match batch.outcome.group(group) {
            GroupOutcome::Events { first, count } => {
                let first_op = batch.ops.group(group).first_op;
                let event = |at: u32| {
                    let event = batch.outcome.event(at as usize);
                    (event.op - first_op, event.payload.to_vec())
                };
                Self::Accepted { events: (first..first + count).map(event).collect() }
            }
            GroupOutcome::Rejected(bytes) => Self::rejected(bytes),
            // An entry never records this.
            GroupOutcome::NeedsKeys => Self::NotAsked { why: "the entry records no outcome" },
        }
    }

    /// The decision for a rejection in CBOR.
    pub fn rejected(bytes: &[u8]) -> Self {
        match minicbor::decode::<Rejection>(bytes) {
            Ok(Rejection { code, detail }) => Self::Rejected { code, detail },
            Err(error) => Self::Rejected { code: "unreadable".to_owned(), detail: error.to_string() },
        }
    }

    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }

    /// The code of a rejection, a refusal or a trap.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Rejected { code, .. } | Self::Refused { code, .. } | Self::Trapped { code, .. } => Some(code),
            Self::Accepted { .. } | Self::NotAsked { .. } => None,
        }
    }
}
