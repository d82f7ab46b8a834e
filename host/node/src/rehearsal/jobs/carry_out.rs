//! Carries out one replay of a node, from where it stopped to its report.
//!
//! In: a record, and a folder that a running node uses. Out: first the files of the report, then the record that says
//! so. If the node ends between the two, it makes the same files again. A panic ends only this replay. It does not know
//! which other replays wait.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::record::{JobState, ReplayRecord};
use super::{ReplayJob, ResultFile, remove};
use crate::audit::certificate::{Certificate, CertificateError};
use crate::audit::replay::resume::Keep;
use crate::audit::replay::words::{ParseTime, parse_approved, parse_filter, parse_moment, place};
use crate::audit::replay::{FolderHistory, Meter, ReplayFault, ReplayVerdict, Report, Request, html, run_kept};
use crate::audit::source::Source;
use crate::disk::RealDisk;
use crate::durable;
use crate::ids::PartitionId;
use crate::key::{KeyError, NodeKey};
use crate::limits::{REPLAY_RESUMES_MAX, REPLAY_SAVE_BYTES};

const STATE: &str = "state";

/// Why a replay has failed.
#[derive(Debug, thiserror::Error)]
enum ReplayFailure {
    #[error(transparent)]
    Fault(#[from] ReplayFault),
    #[error("its files cannot be written: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(
        "the node stopped {0} times during this replay: request it again, or replay a copy with `statehouse audit \
         replay`"
    )]
    Interrupted(u32),
    #[error("the replay panicked: {0}; the node's log has the details")]
    Panicked(String),
}

impl ReplayJob {
    pub(super) fn carry_out(&self, data: &Path, parse_time: ParseTime) {
        let record = {
            let mut record = self.record.lock();
            if record.state.is_over() {
                return;
            }
            record.resumed += u32::from(record.state == JobState::Running);
            record.state = JobState::Running;
            record.clone()
        };
        if REPLAY_RESUMES_MAX < record.resumed {
            // The replay itself may be what ends the node.
            return self.conclude(record.clone(), Err(ReplayFailure::Interrupted(record.resumed)));
        }
        tracing::info!(id = record.id, machine = record.machine, resumed = record.resumed, "a replay begins");
        *self.meter.begun.lock() = Some(Instant::now());
        let replayed = record.write(&self.folder).map_err(ReplayFailure::from).and_then(|()| {
            let caught = std::panic::catch_unwind(AssertUnwindSafe(|| self.replay(data, &record, parse_time)));
            caught.unwrap_or_else(|panic| Err(ReplayFailure::Panicked(text_of(panic.as_ref()))))
        });
        self.conclude(record, replayed);
    }

    /// Replays, and writes the files.
    fn replay(&self, data: &Path, record: &ReplayRecord, parse_time: ParseTime) -> Result<ReplayRecord, ReplayFailure> {
        let asked = &record.asked;
        let source = Source::open(data).map_err(ReplayFault::from)?;
        let history = FolderHistory::new(&source, &record.machine).map_err(ReplayFault::from)?;
        let id = asked.candidate;
        let candidate = source.load(id).map_err(|reason| ReplayFault::Module { id, reason })?;
        // The texts were checked when the replay was asked for.
        let word = |error: crate::audit::replay::words::WordError| ReplayFault::Request(error.to_string());
        let moment = |text: &Option<String>| match text {
            Some(text) => Ok::<_, ReplayFault>(Some(place(&history, parse_moment(text, parse_time).map_err(word)?)?)),
            None => Ok(None),
        };
        let request = Request {
            candidate,
            mode: asked.mode,
            from: moment(&asked.from)?,
            to: moment(&asked.to)?,
            partition: asked.partition.map(PartitionId),
            filter: parse_filter(&asked.filter, parse_time).map_err(word)?,
            // At most half of the machine: a lower priority does not limit the use of memory bandwidth.
            jobs: std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2),
        };
        let meter = Meter {
            on_begin: &|bytes| self.meter.bytes.store(bytes, Ordering::Relaxed),
            on_done: &|bytes, decisions| {
                self.meter.bytes_done.fetch_add(bytes, Ordering::Relaxed);
                self.meter.decisions.fetch_add(decisions, Ordering::Relaxed);
            },
        };
        let state = self.folder.join(STATE);
        let keep = Keep { folder: Some(state), bytes: REPLAY_SAVE_BYTES, stop: self.stop.clone() };
        let report = run_kept(&history, &request, &meter, &keep)?;
        let verdict = ReplayVerdict::of(&report, &parse_approved(&asked.approve).map_err(word)?);
        self.write_results(data, record, &report, verdict)
    }

    fn write_results(
        &self,
        data: &Path,
        record: &ReplayRecord,
        report: &Report,
        verdict: ReplayVerdict,
    ) -> Result<ReplayRecord, ReplayFailure> {
        let write = |file: ResultFile, text: String| write_synced(&self.folder.join(file.name()), text.as_bytes());
        let json = serde_json::to_string_pretty(report).expect("texts and integers only");
        write(ResultFile::Json, json + "\n")?;
        write(ResultFile::Html, html::page(report, verdict))?;
        let certified: Result<Certificate, CertificateError> =
            Certificate::sign(report, &NodeKey::of_folder(&RealDisk, data)?);
        let certificate_problem = match certified {
            Ok(certificate) => {
                write(ResultFile::Certificate, certificate.to_json())?;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        fail::fail_point!("replays::written", |_| std::process::abort());
        Ok(ReplayRecord {
            state: JobState::Done,
            exit_code: Some(verdict.exit_code()),
            verdict: Some(verdict.text().to_owned()),
            differences: Some(report.difference_count()),
            certificate_problem,
            ..record.clone()
        })
    }

    fn conclude(&self, record: ReplayRecord, replayed: Result<ReplayRecord, ReplayFailure>) {
        let mut current = self.record.lock();
        if current.state == JobState::Cancelled {
            // The thread that cancelled the replay has left its folder to this one.
            if let Err(error) = remove(&self.folder) {
                tracing::warn!(id = record.id, %error, "the files of a cancelled replay cannot be removed");
            }
            return;
        }
        *current = match replayed {
            Ok(done) => done,
            // The node is ending; the record says that the replay is under way.
            Err(ReplayFailure::Fault(ReplayFault::Stopped { .. })) => return,
            Err(failure) => ReplayRecord { state: JobState::Failed, problem: Some(failure.to_string()), ..record },
        };
        tracing::info!(id = current.id, state = current.state.name(), problem = current.problem, "a replay is over");
        let written = current.write(&self.folder).and_then(|()| remove(&self.folder.join(STATE)));
        if let Err(error) = written {
            tracing::error!(id = current.id, %error, "the result of a replay cannot be written");
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = durable::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}
