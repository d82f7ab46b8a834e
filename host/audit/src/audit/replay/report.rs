//! The report of a replay: its JSON is these types, field by field, and their comments are its description.
//!
//! In: nothing; the walk fills it. Out: JSON, and the content of the terminal page, the HTML page and the certificate.
//! Hashes and bytes are lower-case hexadecimal text. Times are microseconds since 1970 UTC beside their RFC 3339 text.
//! There is no float anywhere. It does not know how a page looks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use statehouse_abi::describe::Describe;

use crate::audit::replay::class::Class;
use crate::audit::replay::coverage::Coverage;
use crate::audit::replay::request::ReplayMode;
use crate::audit::replay::timeline::Timeline;
use crate::ids::{ModuleId, PartitionId};

/// JSON Schema of [`Report`], for programs that read reports.
pub const SCHEMA: &str = include_str!("report-1.schema.json");
/// Version of the JSON.
pub const FORMAT: u32 = 1;
/// How many differences are listed one by one; all of them are counted.
pub const LISTED_MAX: usize = 1_000;

/// What a replay found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    pub cluster: String,
    pub machine: String,
    pub mode: ReplayMode,
    pub candidate: ModuleFacts,
    /// The module that was active at the end of the covered history.
    pub current: ModuleFacts,
    /// Every module that decided some of the history; each entry was decided by the module active then.
    pub deciders: Vec<ModuleFacts>,
    /// Whether all partitions are covered from their first entries and every difference is reported, as a certificate
    /// requires.
    pub is_whole: bool,
    pub partitions: Vec<CoveredRange>,
    pub counts: Counts,
    /// Each class that occurs, including `same`.
    pub classes: BTreeMap<Class, ClassCount>,
    /// The first difference of each class, in the order of time.
    pub first: Vec<Difference>,
    /// The first [`LISTED_MAX`] differences, in the order of time.
    pub differences: Vec<Brief>,
    pub coverage: Coverage,
    pub timeline: Timeline,
    /// For a cumulative replay: the rows that would differ at its end.
    pub rows: Option<RowDifferences>,
    /// What a reader must know to judge the rest.
    pub notes: Vec<String>,
}

/// A module by the hash of its bytes, and by what it says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFacts {
    pub id: ModuleId,
    pub name: String,
    pub version: String,
    pub schema: u32,
}

impl ModuleFacts {
    pub fn of(id: ModuleId, describe: &Describe) -> Self {
        let Describe { name, version, schema, .. } = describe;
        Self { id, name: name.clone(), version: version.clone(), schema: *schema }
    }

    /// `wallet 1.0.1 (980ba77c)`.
    pub fn text(&self) -> String {
        format!("{} {} ({})", self.name, self.version, self.id.short())
    }
}

/// The part of a partition that was replayed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CoveredRange {
    pub partition: PartitionId,
    /// Effective entries, including those before the beginning of the range, whose events are applied.
    pub entries: u64,
    pub void_entries: u64,
    /// Journal index of the first entry that was decided again; 0 if there is none.
    pub first_index: u64,
    /// The last entry: its index, the journal's head after it, and its time.
    pub last_index: u64,
    pub head: String,
    pub time: i64,
    /// The position after the last entry.
    pub position: String,
    pub module: ModuleId,
    /// Number of the last activation, as `system` counts them.
    pub activation: u64,
}

/// How much was done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Groups that were decided again: whole commands, first branches, and calls.
    pub decisions: u64,
    /// Of these, those of commands that clients sent.
    pub commands: u64,
    /// Of these, calls of other partitions' commands.
    pub calls: u64,
    /// Recorded events that were applied.
    pub events: u64,
    /// Rejections by the host (budget, trap, cancelled call): taken as they are, not decided again.
    pub facts: u64,
    /// Activations in the history.
    pub activations: u64,
    /// Differences that the filter leaves out.
    pub filtered_out: u64,
    /// For a cumulative replay: commands on several partitions that are not over at its end.
    pub in_flight: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.decisions += other.decisions;
        self.commands += other.commands;
        self.calls += other.calls;
        self.events += other.events;
        self.facts += other.facts;
        self.activations += other.activations;
        self.filtered_out += other.filtered_out;
        self.in_flight += other.in_flight;
    }
}

/// How often a class occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    pub count: u64,
    /// Differences with a cause of their own: the rows that were read are those of the record.
    pub root: u64,
    /// Consequences of earlier differences: the rows that were read differ.
    pub knock_on: u64,
}

/// A difference in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    pub class: Class,
    pub position: String,
    pub time: i64,
    pub id: String,
    pub command: String,
    /// `whole`, `start`, `step 2`, `undo of step 1`.
    pub part: String,
    pub is_root: bool,
    /// `accepted`, or the code of the rejection.
    pub recorded_outcome: String,
    pub candidate_outcome: String,
}

/// A difference in full, both sides rendered by their modules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Difference {
    #[serde(flatten)]
    pub brief: Brief,
    pub partition: PartitionId,
    /// RFC 3339.
    pub at: String,
    pub caller: String,
    pub request_id: String,
    /// The recorded canonical body, rendered.
    pub body: Json,
    pub recorded: Side,
    pub candidate: Side,
}

/// One module's view of a command.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    pub module: ModuleFacts,
    /// `accepted`, `rejected`, `refused`, `trapped` or `not asked`.
    pub outcome: &'static str,
    /// The code of a rejection, a refusal or a trap.
    pub code: Option<String>,
    pub detail: Option<String>,
    /// What the module said when it failed.
    pub panic: Option<String>,
    /// Innermost function first.
    pub backtrace: Vec<String>,
    pub ops: Vec<OpText>,
    /// Rendered by the module.
    pub events: Vec<Json>,
    /// All rows that were read, before and after.
    pub rows: Vec<RowChange>,
}

/// A step, as bytes; only the module knows what they mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpText {
    pub entity: String,
    /// `step` or `undo`.
    pub role: &'static str,
    pub bytes: String,
}

/// A row before and after, rendered; null if there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChange {
    pub entity: String,
    pub key: String,
    pub before: Json,
    pub after: Json,
}

/// The rows that would differ at the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RowDifferences {
    pub count: u64,
    /// The first [`LISTED_MAX`] of them, by partition and key.
    pub listed: Vec<RowDifference>,
    /// Numbers in them that differ, the largest difference first; at most [`LISTED_MAX`].
    pub numbers: Vec<NumberDifference>,
}

/// A row that would be different.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowDifference {
    pub partition: PartitionId,
    pub entity: String,
    pub key: String,
    /// What the recorded events give, rendered by the candidate; null if there is no row.
    pub recorded: Json,
    /// What the candidate's own decisions give.
    pub candidate: Json,
}

/// A number in a rendered row that would be different, such as a balance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberDifference {
    pub entity: String,
    /// Its path in the rendered row: `balances.USD`.
    pub path: String,
    pub recorded: String,
    pub candidate: String,
    /// The candidate's minus the recorded one.
    pub difference: String,
}

/// A [`Side`] when it is read back.
#[derive(Deserialize)]
struct SideText {
    module: ModuleFacts,
    outcome: String,
    code: Option<String>,
    detail: Option<String>,
    panic: Option<String>,
    backtrace: Vec<String>,
    ops: Vec<OpRead>,
    events: Vec<Json>,
    rows: Vec<RowChange>,
}

#[derive(Deserialize)]
struct OpRead {
    entity: String,
    role: String,
    bytes: String,
}

impl<'de> Deserialize<'de> for Side {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let known = |names: &[&'static str], text: &str| {
            let found = names.iter().find(|name| **name == text).copied();
            found.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is none of {}", names.join(", "))))
        };
        let side = SideText::deserialize(deserializer)?;
        let op = |OpRead { entity, role, bytes }| Ok(OpText { entity, role: known(&["step", "undo"], &role)?, bytes });
        Ok(Self {
            module: side.module,
            outcome: known(&["accepted", "rejected", "refused", "trapped", "not asked"], &side.outcome)?,
            code: side.code,
            detail: side.detail,
            panic: side.panic,
            backtrace: side.backtrace,
            ops: side.ops.into_iter().map(op).collect::<Result<_, D::Error>>()?,
            events: side.events,
            rows: side.rows,
        })
    }
}

impl Report {
    /// The number of differences of all classes.
    pub fn difference_count(&self) -> u64 {
        self.classes.iter().filter(|(class, _)| **class != Class::Same).map(|(_, found)| found.count).sum()
    }

    pub fn count_of(&self, class: Class) -> u64 {
        self.classes.get(&class).map_or(0, |found| found.count)
    }
}

/// The verdict on a replay, given what was approved beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayVerdict {
    /// Nothing differs: exit code 0.
    Same,
    /// Everything that differs was approved, class by class with its count: exit code 1.
    Approved,
    /// Something differs that was not approved: exit code 2.
    Unapproved,
    /// The recorded module does not decide as recorded, or nothing was decided at all: exit code 3.
    Inconclusive,
}

impl ReplayVerdict {
    /// `approved` has each class with its expected count.
    pub fn of(report: &Report, approved: &BTreeMap<Class, u64>) -> Self {
        if report.count_of(Class::HostDrift) > 0 || report.counts.decisions == 0 {
            return Self::Inconclusive;
        }
        let differing = report.classes.iter().filter(|(class, found)| **class != Class::Same && found.count > 0);
        let mut is_same = true;
        for (class, found) in differing {
            is_same = false;
            if approved.get(class) != Some(&found.count) {
                return Self::Unapproved;
            }
        }
        let is_missing = |(class, count): (&Class, &u64)| *count > 0 && report.count_of(*class) != *count;
        match (is_same, approved.iter().any(is_missing)) {
            // More was approved than was found, so the approval was given for something else.
            (_, true) => Self::Unapproved,
            (true, false) => Self::Same,
            (false, false) => Self::Approved,
        }
    }

    pub fn exit_code(self) -> u8 {
        match self {
            Self::Same => 0,
            Self::Approved => 1,
            Self::Unapproved => 2,
            Self::Inconclusive => 3,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Same => "same: the candidate decides everything as it was recorded",
            Self::Approved => "approved: all differences were approved",
            Self::Unapproved => {
                "NOT approved: approve intended differences with --approve CLASS=COUNT, or correct the module"
            }
            Self::Inconclusive => {
                "INCONCLUSIVE: nothing was decided again, or the recorded module does not decide here as it did \
                 then; check the range, run `statehouse audit verify`, and compare the hardware and the version of \
                 the host"
            }
        }
    }
}
