//! Replays that a node carries out on request: one at a time, with the lowest priority, kept in its data folder.
//!
//! ```text
//! <data>/replays/<id>/job.json                             what was asked, and the result
//!                     state/                               its progress, see `replay/resume.rs`; gone when it is over
//!                     report.json report.html certificate.json
//! ```
//! In: requests for replays. Out: their progress, and their files. It reads the folder as any auditor would. A node
//! that is restarted continues with the replays that were under way. It knows nothing of HTTP.

mod carry_out;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

pub use record::{JobState, ReplayRecord, ReplayRequest};

use crate::audit::replay::words::{ParseTime, WordError, parse_approved, parse_filter, parse_moment};
use crate::clock::Clock;
use crate::durable;
use crate::limits::REPLAY_JOBS_MAX;
use crate::registry::Stop;

/// Why a job is not accepted, or not shown.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("there is no replay `{0}` here; each node knows its own")]
    Unknown(String),
    #[error("there are {0} replays here already: delete one that is not needed any more")]
    TooMany(usize),
    #[error("the replay is {state}; {what} exists only when it is done{reason}")]
    NotThere { state: &'static str, what: &'static str, reason: String },
    #[error("module {0} is not on this node: stage it first, with `statehouse module stage`")]
    NoModule(String),
    #[error(transparent)]
    Word(#[from] WordError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayProgress {
    /// Bytes of the journal as far as they are known, and how many of them are done.
    pub bytes: u64,
    pub bytes_done: u64,
    pub decisions: u64,
    /// Since this process took the replay up.
    pub seconds: u64,
    pub decisions_per_second: u64,
    pub seconds_left: Option<u64>,
}

/// The replays of a node.
pub struct Replays {
    shared: Arc<JobQueue>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

struct JobQueue {
    data: PathBuf,
    parse_time: ParseTime,
    jobs: Mutex<BTreeMap<String, Arc<ReplayJob>>>,
    /// Notified when there is work, or when the thread must end.
    wake: Condvar,
    is_closing: AtomicBool,
}

/// One replay.
struct ReplayJob {
    folder: PathBuf,
    record: Mutex<ReplayRecord>,
    stop: Arc<Stop>,
    meter: JobMeter,
}

#[derive(Default)]
struct JobMeter {
    bytes: AtomicU64,
    bytes_done: AtomicU64,
    decisions: AtomicU64,
    begun: Mutex<Option<Instant>>,
}

impl Replays {
    /// Reads the replays in a data folder, and continues those that are not over.
    ///
    /// # Errors
    /// The folder cannot be read or made, or no thread can be started.
    pub fn open(data: &Path, parse_time: ParseTime) -> Result<Self, JobError> {
        let folder = data.join("replays");
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| JobError::Io { path, source }
        };
        durable::create_dir_all(&folder).map_err(io(&folder))?;
        let mut jobs = BTreeMap::new();
        for file in std::fs::read_dir(&folder).map_err(io(&folder))? {
            let path = file.map_err(io(&folder))?.path();
            match ReplayRecord::read(&path) {
                Ok(record) => drop(jobs.insert(record.id.clone(), Arc::new(ReplayJob::new(path, record)))),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a file among the replays is not a replay")
                }
            }
        }
        let shared = Arc::new(JobQueue {
            data: data.to_owned(),
            parse_time,
            jobs: Mutex::new(jobs),
            wake: Condvar::new(),
            is_closing: AtomicBool::new(false),
        });
        let worker = {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("replays".to_owned());
            thread.spawn(move || shared.work()).map_err(io(&folder))?
        };
        Ok(Self { shared, worker: Mutex::new(Some(worker)) })
    }

    /// Accepts a replay; it begins when those before it are over.
    ///
    /// # Errors
    /// A text is invalid, the module is not here, or there are too many replays already.
    pub fn start(
        &self,
        machine: &str,
        asked: ReplayRequest,
        by: &str,
        clock: &dyn Clock,
    ) -> Result<ReplayRecord, JobError> {
        let time = self.shared.parse_time;
        parse_filter(&asked.filter, time)?;
        parse_approved(&asked.approve)?;
        for word in [&asked.from, &asked.to].into_iter().flatten() {
            parse_moment(word, time)?;
        }
        let module = self.shared.data.join("modules").join(format!("{}.wasm", asked.candidate));
        if !module.is_file() {
            return Err(JobError::NoModule(asked.candidate.to_string()));
        }
        let mut jobs = self.shared.jobs.lock();
        if REPLAY_JOBS_MAX <= jobs.len() {
            return Err(JobError::TooMany(jobs.len()));
        }
        let record = ReplayRecord::new(machine, asked, by, clock.now());
        let folder = self.shared.data.join("replays").join(&record.id);
        record.write(&folder).map_err(|source| JobError::Io { path: folder.clone(), source })?;
        jobs.insert(record.id.clone(), Arc::new(ReplayJob::new(folder, record.clone())));
        self.shared.wake.notify_all();
        Ok(record)
    }

    /// The replays of a machine, oldest first.
    pub fn list(&self, machine: &str) -> Vec<(ReplayRecord, ReplayProgress)> {
        let jobs = self.shared.jobs.lock();
        let views = jobs.values().map(|job| job.view());
        let mut found: Vec<_> = views.filter(|(record, _)| record.machine == machine).collect();
        found.sort_by(|(a, _), (b, _)| (a.created, &a.id).cmp(&(b.created, &b.id)));
        found
    }

    /// # Errors
    /// There is no replay with that id.
    pub fn find(&self, machine: &str, id: &str) -> Result<(ReplayRecord, ReplayProgress), JobError> {
        Ok(self.job(machine, id)?.view())
    }

    /// One of its files; they are small enough to be returned whole.
    ///
    /// # Errors
    /// The replay is not over, or has no such file; the error says why.
    pub fn file(&self, machine: &str, id: &str, file: ResultFile) -> Result<Vec<u8>, JobError> {
        let job = self.job(machine, id)?;
        let record = job.record.lock().clone();
        let path = job.folder.join(file.name());
        match std::fs::read(&path) {
            Ok(bytes) if record.state == JobState::Done => Ok(bytes),
            Err(source) if record.state == JobState::Done && source.kind() != std::io::ErrorKind::NotFound => {
                Err(JobError::Io { path, source })
            }
            _ => {
                let reason = record.problem.or(record.certificate_problem).map(|text| format!(": {text}"));
                let (state, what) = (record.state.name(), file.what());
                Err(JobError::NotThere { state, what, reason: reason.unwrap_or_default() })
            }
        }
    }

    /// Stops a replay that is not over, and forgets it with all its files.
    ///
    /// # Errors
    /// There is no replay with that id, or its files cannot be removed.
    pub fn delete(&self, machine: &str, id: &str) -> Result<ReplayRecord, JobError> {
        let job = self.job(machine, id)?;
        self.shared.jobs.lock().remove(id);
        job.stop.ask();
        let mut record = job.record.lock();
        // The thread that carries it out removes the folder once nothing writes into it any more.
        let is_running = record.state == JobState::Running;
        record.state = JobState::Cancelled;
        if !is_running {
            remove(&job.folder).map_err(|source| JobError::Io { path: job.folder.clone(), source })?;
        }
        Ok(record.clone())
    }

    /// Stops what is under way, so that the next start continues it; returns once nothing is written any more.
    pub fn close(&self) {
        {
            let jobs = self.shared.jobs.lock();
            self.shared.is_closing.store(true, Ordering::Relaxed);
            jobs.values().for_each(|job| job.stop.ask());
            self.shared.wake.notify_all();
        }
        let worker = self.worker.lock().take();
        if worker.is_some_and(|worker| worker.join().is_err()) {
            tracing::error!("the thread of the replays panicked");
        }
    }

    fn job(&self, machine: &str, id: &str) -> Result<Arc<ReplayJob>, JobError> {
        let job = self.shared.jobs.lock().get(id).cloned();
        let job = job.filter(|job| job.record.lock().machine == machine);
        job.ok_or_else(|| JobError::Unknown(id.to_owned()))
    }
}

impl Drop for Replays {
    fn drop(&mut self) {
        self.close();
    }
}

/// The files that a replay leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultFile {
    Json,
    Html,
    Certificate,
}

impl ResultFile {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "report.json",
            Self::Html => "report.html",
            Self::Certificate => "certificate.json",
        }
    }

    fn what(self) -> &'static str {
        if self == Self::Certificate { "its certificate" } else { "its report" }
    }
}

impl JobQueue {
    /// Carries replays out, one after the other, until it is told to end.
    fn work(&self) {
        lower_priority();
        loop {
            let job = {
                let mut jobs = self.jobs.lock();
                loop {
                    if self.is_closing.load(Ordering::Relaxed) {
                        return;
                    }
                    let waiting = jobs.values().filter(|job| !job.record.lock().state.is_over());
                    if let Some(job) = waiting.min_by_key(|job| job.record.lock().created) {
                        break job.clone();
                    }
                    self.wake.wait(&mut jobs);
                }
            };
            job.carry_out(&self.data, self.parse_time);
        }
    }
}

impl ReplayJob {
    fn new(folder: PathBuf, record: ReplayRecord) -> Self {
        let (stop, meter) = (Arc::default(), JobMeter::default());
        Self { folder, record: Mutex::new(record), stop, meter }
    }

    fn view(&self) -> (ReplayRecord, ReplayProgress) {
        (self.record.lock().clone(), self.meter.progress())
    }
}

impl JobMeter {
    fn progress(&self) -> ReplayProgress {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (bytes, bytes_done, decisions) = (read(&self.bytes), read(&self.bytes_done), read(&self.decisions));
        let Some(begun) = *self.begun.lock() else { return ReplayProgress::default() };
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let left = u128::from(millis) * u128::from(bytes.saturating_sub(bytes_done)) / u128::from(bytes_done.max(1));
        ReplayProgress {
            bytes,
            bytes_done,
            decisions,
            seconds: millis / 1000,
            decisions_per_second: decisions.saturating_mul(1000) / millis,
            seconds_left: (0 < bytes_done).then(|| u64::try_from(left / 1000).unwrap_or(u64::MAX)),
        }
    }
}

/// The partitions of this node have priority; threads that are started from this one inherit the low priority.
fn lower_priority() {
    const LOWEST: i32 = 19;
    // On Linux the priority belongs to a thread, and `None` is the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, LOWEST) {
        tracing::warn!(%error, "the priority of replays could not be lowered");
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
