//! The phases of a command on several partitions, and when and where each was recorded.
//!
//! In: what happens to a command. Out: the lines of its history, which are part of its row and of the entry that ends
//! it. It does not know what follows from a phase.

use minicbor::{Decode, Encode};

use crate::ids::Micros;

/// When and where something was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PhaseMoment {
    #[n(0)]
    time: i64,
    /// `partition.index.n~head8` at a participant. `None` in an entry of the home journal, which cannot name its own
    /// head.
    #[n(1)]
    pub position: Option<String>,
    /// Index of the entry, if it is one of the home journal.
    #[n(2)]
    pub index: Option<u64>,
}

impl PhaseMoment {
    pub fn at_home(time: Micros, index: u64) -> Self {
        Self { time: time.0, position: None, index: Some(index) }
    }

    pub fn at_participant(time: Micros, position: String) -> Self {
        Self { time: time.0, position: Some(position), index: None }
    }

    pub fn time(&self) -> Micros {
        Micros(self.time)
    }
}

/// What happened to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Phase {
    #[n(0)]
    Started,
    #[n(1)]
    StepSent,
    #[n(2)]
    StepDone,
    #[n(3)]
    StepRefused,
    #[n(4)]
    Compensating,
    /// An undo or a confirm was refused, and is tried again.
    #[n(5)]
    Retrying,
    #[n(6)]
    Compensated,
    #[n(7)]
    Finished,
    #[n(8)]
    Aborted,
    /// An operator's order is recorded.
    #[n(9)]
    Aborting,
    #[n(10)]
    Settling,
    /// A partition that is needed for the confirm only has reserved the command's id.
    #[n(11)]
    Claimed,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::StepSent => "step sent",
            Self::StepDone => "step done",
            Self::StepRefused => "step refused",
            Self::Compensating => "compensating",
            Self::Retrying => "retrying",
            Self::Compensated => "compensated",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
            Self::Aborting => "abort ordered",
            Self::Settling => "settlement ordered",
            Self::Claimed => "id claimed",
        }
    }
}

/// One line of a command's history.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PhaseMark {
    #[n(0)]
    pub phase: Phase,
    #[n(1)]
    pub branch: Option<u16>,
    #[n(2)]
    pub at: PhaseMoment,
    /// The code of a refusal.
    #[n(3)]
    pub detail: Option<String>,
}
