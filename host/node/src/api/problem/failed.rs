//! What a client is told when its read, replay or change of the cluster failed.
//!
//! In: errors of the router, of views, of the cluster and of replays. Out: problems that say what to do. It knows
//! nothing of their causes.

use std::time::Duration;

use statehouse_abi::cold::Refusal;
use statehouse_abi::value::Value;

use super::{Code, Problem};
use crate::rehearsal::jobs::JobError;
use crate::rfc3339::print_time;
use crate::router::answer::{Ambiguity, QueryError};
use crate::system::ClusterError;
use crate::views::ViewQueryError;

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::NotFound(refusal) => Self::from(Refusal { status: 404, ..refusal }),
            QueryError::Refused(refusal) => refusal.into(),
            QueryError::Ambiguous(ambiguity) => ambiguity.into(),
            QueryError::Gone(position) => {
                let detail = format!("{position} is not a position of this history; begin without it");
                Self::new(Code::PositionGone, detail).with("position", Value::Text(position.to_string()))
            }
            QueryError::Future(present) => {
                let detail = format!(
                    "`at` lies in the future: the time in the journal is {}; leave `at` out to read what is now, or \
                     ask again once that time has passed",
                    print_time(present)
                );
                Self::new(Code::BadParameter, detail).with("field", Value::text("at"))
            }
            QueryError::Released(text) => Self::new(Code::HistoryReleased, text),
            QueryError::Unavailable(unavailable) => unavailable.into(),
            QueryError::Deadline => {
                Self::new(Code::ReadTimeout, "the deadline passed; nothing was changed, read again")
                    .with_retry_after(Duration::from_secs(1))
            }
            QueryError::Fault(text) => Self::new(Code::ModuleFault, text),
        }
    }
}

impl From<Ambiguity> for Problem {
    fn from(ambiguity: Ambiguity) -> Self {
        let homes = ambiguity.homes().iter().map(|home| Value::text(home.as_str())).collect();
        Self::new(Code::IdAmbiguous, ambiguity.to_string()).with("homes", Value::Array(homes))
    }
}

impl From<ViewQueryError> for Problem {
    fn from(error: ViewQueryError) -> Self {
        let retry = Duration::from_secs(1);
        match error {
            ViewQueryError::NotFound(refusal) => QueryError::NotFound(refusal).into(),
            ViewQueryError::Refused(refusal) => refusal.into(),
            ViewQueryError::Gone(position) => QueryError::Gone(position).into(),
            ViewQueryError::Behind(text) => Self::new(Code::ReadTimeout, text).with_retry_after(retry),
            ViewQueryError::NotServed(text) => Self::new(Code::ViewNotServed, text).with_retry_after(retry),
            ViewQueryError::Fault(text) => Self::new(Code::ModuleFault, text),
        }
    }
}

impl From<ClusterError> for Problem {
    fn from(error: ClusterError) -> Self {
        let code = match &error {
            ClusterError::NoCluster => Code::NoCluster,
            ClusterError::Exists(_) => Code::ClusterExists,
            ClusterError::NoPeer => Code::NoPeer,
            ClusterError::Invalid(_) | ClusterError::Rejected { .. } => Code::InvalidChange,
            ClusterError::NodeIdUsed(_) => Code::NodeIdUsed,
            ClusterError::UnknownNode(_) => Code::UnknownNode,
            ClusterError::UnknownPartition(_) => Code::UnknownPartition,
            ClusterError::UnknownMachine(_) => Code::UnknownMachine,
            ClusterError::UnknownModule(_) => Code::UnknownModule,
            ClusterError::UnknownView(_) => Code::UnknownView,
            ClusterError::UnknownWebhook(_) => Code::UnknownWebhook,
            ClusterError::StepRefused(_) => Code::StepRefused,
            ClusterError::Refused { .. } => Code::NodeRefused,
            ClusterError::SnapshotsAsked(_) => Code::Overloaded,
            ClusterError::CannotCompile(_) => Code::NotReady,
            ClusterError::Unreachable { .. } => Code::NodeUnreachable,
            ClusterError::NotKept(_) => Code::SecretNotKept,
            ClusterError::Deadline | ClusterError::NotPrepared { .. } | ClusterError::SnapshotUnfinished => {
                Code::ChangeUnfinished
            }
        };
        let problem = Self::new(code, error.to_string());
        // Only an operator can change what causes the other errors.
        use Code::{ChangeUnfinished, NodeUnreachable, Overloaded, SecretNotKept};
        let may_retry = matches!(code, NodeUnreachable | SecretNotKept | ChangeUnfinished | Overloaded);
        if may_retry { problem.with_retry_after(Duration::from_secs(1)) } else { problem }
    }
}

impl From<JobError> for Problem {
    fn from(error: JobError) -> Self {
        let code = match &error {
            JobError::Unknown(_) => Code::UnknownReplay,
            JobError::TooMany(_) => Code::ReplaysFull,
            JobError::NotThere { .. } => Code::ReplayUnfinished,
            JobError::NoModule(_) => Code::StepRefused,
            JobError::Word(_) => Code::InvalidChange,
            JobError::Io { .. } => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}
