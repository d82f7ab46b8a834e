//! What is kept about a replay: `job.json`, written whole at every change of its state.
//!
//! In: what is asked, and the result. Out: the same after a restart. A file of a later version is not touched. This
//! file does not know how a replay is carried out.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::audit::replay::ReplayMode;
use crate::durable::{self, PRIVATE};
use crate::ids::{Micros, ModuleId};

const FILE: &str = "job.json";
const FORMAT: u32 = 1;

/// What is asked of a replay; texts as on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    pub candidate: ModuleId,
    pub mode: ReplayMode,
    /// A time or a position.
    pub from: Option<String>,
    pub to: Option<String>,
    pub partition: Option<u32>,
    pub filter: Vec<String>,
    pub approve: Vec<String>,
}

/// The state of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    /// In a file: the replay was under way when the node ended, and is continued.
    Running,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// One replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayRecord {
    pub format: u32,
    /// A uuid.
    pub id: String,
    pub machine: String,
    pub asked: ReplayRequest,
    /// The name of the caller.
    pub by: String,
    pub created: Micros,
    pub state: JobState,
    /// How often it was continued after the node had ended.
    pub resumed: u32,
    /// When it is done: 0 the same, 1 approved, 2 not approved, 3 inconclusive.
    pub exit_code: Option<u8>,
    pub verdict: Option<String>,
    pub differences: Option<u64>,
    /// Why it failed.
    pub problem: Option<String>,
    /// Why there is no certificate.
    pub certificate_problem: Option<String>,
}

impl ReplayRecord {
    pub fn new(machine: &str, asked: ReplayRequest, by: &str, created: Micros) -> Self {
        Self {
            format: FORMAT,
            id: uuid::Uuid::new_v4().to_string(),
            machine: machine.to_owned(),
            asked,
            by: by.to_owned(),
            created,
            state: JobState::Queued,
            resumed: 0,
            exit_code: None,
            verdict: None,
            differences: None,
            problem: None,
            certificate_problem: None,
        }
    }

    pub fn read(folder: &Path) -> std::io::Result<Self> {
        let record: Self = serde_json::from_slice(&std::fs::read(folder.join(FILE))?)?;
        if record.format != FORMAT {
            return Err(std::io::Error::other(format!("format {} is of a later version", record.format)));
        }
        Ok(record)
    }

    /// The file is durable on return.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        durable::create_dir_all(folder)?;
        durable::write(folder, FILE, PRIVATE, &serde_json::to_vec_pretty(self)?)
    }
}
