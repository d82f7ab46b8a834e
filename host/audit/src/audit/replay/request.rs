//! What is asked of a replay: which module, which part of the history, and which differences are reported.
//!
//! In: texts and positions. Out: the questions that the walk asks about each entry and each difference. It does not
//! know the command line.

use std::sync::Arc;

use crate::audit::replay::error::ReplayFault;
use crate::ids::{CommandId, JournalIndex, Micros, PartitionId};
use crate::machine::logic::Logic;

/// How the candidate's decisions are carried forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayMode {
    /// Each decision is made on the rows that the recorded events gave, compared, and discarded.
    Isolated,
    /// The candidate lives with the consequences of its own decisions, in all partitions.
    Cumulative,
}

impl ReplayMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Cumulative => "cumulative",
        }
    }
}

/// A replay to be carried out.
#[derive(Clone)]
pub struct Request {
    pub candidate: Arc<dyn Logic>,
    pub mode: ReplayMode,
    /// Entries before this time are applied, but not decided again.
    pub from: Option<Micros>,
    /// Entries after this time are left out. All entries up to a time are a consistent cut of all partitions.
    pub to: Option<Micros>,
    /// Only this partition; `None`: all partitions.
    pub partition: Option<PartitionId>,
    pub filter: ReplayFilter,
    /// How many partitions are replayed at once.
    pub jobs: usize,
}

impl Request {
    /// Checks that the candidate can read what is recorded under a schema, from this entry on.
    ///
    /// # Errors
    /// [`ReplayFault::Schema`].
    pub fn check_schema(&self, schema: u32, partition: PartitionId, index: JournalIndex) -> Result<(), ReplayFault> {
        let describe = self.candidate.describe();
        if schema == describe.schema || describe.accepts.contains(&schema) {
            return Ok(());
        }
        Err(ReplayFault::Schema { partition, index, schema, candidate: describe.schema })
    }
}

/// Which differences are reported. It does not affect what is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    pub entity: Option<String>,
    pub id: Option<CommandId>,
    /// The code of a rejection, on either side.
    pub code: Option<String>,
    pub command: Option<String>,
    pub after: Option<Micros>,
    pub before: Option<Micros>,
}

/// What a filter looks at.
pub struct FilterSubject<'a> {
    pub id: CommandId,
    pub command: &'a str,
    pub time: Micros,
    pub entities: &'a [&'a [u8]],
    pub codes: [Option<&'a str>; 2],
}

impl ReplayFilter {
    /// The keys of `--where`, for errors and help.
    pub const KEYS: &'static str = "account, id, code, command, after, before";

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn accepts(&self, subject: &FilterSubject<'_>) -> bool {
        let is_entity = |wanted: &String| subject.entities.contains(&wanted.as_bytes());
        let is_code = |wanted: &String| subject.codes.contains(&Some(wanted.as_str()));
        self.entity.as_ref().is_none_or(is_entity)
            && self.code.as_ref().is_none_or(is_code)
            && self.id.is_none_or(|id| id == subject.id)
            && self.command.as_ref().is_none_or(|command| command == subject.command)
            && self.after.is_none_or(|after| after <= subject.time)
            && self.before.is_none_or(|before| subject.time <= before)
    }
}
