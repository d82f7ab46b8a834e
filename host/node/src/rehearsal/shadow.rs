//! Shadows: on a chosen node, a candidate also decides what clients send to the active module. It changes nothing.
//!
//! ```text
//! `system`: shadow wanted on this node ─▶ a thread ─▶ each partition: applied entries from the log ─▶ replay::live
//!                                                                              ─▶ a page, twice a second
//! ```
//! In: the directory, and entries once they are applied here. Out: counts of differences by class, the first of each
//! class, and the lag. Nobody waits for a shadow; if it lags, it says so. After a restart it begins again where the
//! partitions are at that time. It does not know what clients were answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::audit::error::AuditError;
use crate::audit::replay::report::Difference;
use crate::audit::replay::{Class, History, PartitionJournal, ReplayFault, ReplayFilter, ReplayMode, Request};
use crate::ids::{LogIndex, ModuleId, PartitionId};
use crate::limits::{SHADOW_BYTES_MAX, SHADOW_VIEW_AGE_MAX};
use crate::log::{LogEntry, Payload};
use crate::machine::entry::Entry;
use crate::machine::logic::Logic;
use crate::partition::Partition;
use crate::registry::{GuardedLogic, Stop, StopCause};
use crate::rehearsal::live::{LiveFindings, LivePartition};
use crate::system::{Cluster, ShadowPages, ShadowWanted};

/// Bytes of entries read at once.
const READ_BYTES: usize = 1 << 20;
/// How long to wait before the next look if nothing has happened.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the page is written.
const PAGE_EVERY: Duration = Duration::from_millis(500);
/// How soon to try again if a partition cannot be followed.
const AGAIN: Duration = Duration::from_secs(2);

/// What a shadow has found since it was started on this node.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowReport {
    pub module: ModuleId,
    pub partitions: Vec<ShadowedPartition>,
    pub decisions: u64,
    /// Differences by class; decisions that are the same are not listed.
    pub differences: BTreeMap<Class, u64>,
    /// The first difference of each class.
    pub first: Vec<Difference>,
}

/// How far a partition is shadowed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShadowedPartition {
    pub partition: u32,
    /// The position up to which it has decided.
    pub position: String,
    /// Entries of the journal that are applied here and that it has not looked at.
    pub lag_entries: u64,
    pub decisions: u64,
    /// How often it began with newer rows, because it held too many or because the partition was reopened.
    pub begun: u64,
    /// Why it does not continue for now.
    pub problem: Option<String>,
}

/// Runs the shadows that are wanted on this node until it stops. What they find is on `pages`.
pub async fn run(cluster: Cluster, pages: Arc<ShadowPages>, stop: CancellationToken) {
    let mut running: BTreeMap<String, (ShadowWanted, Arc<Stop>)> = BTreeMap::new();
    loop {
        let wanted = cluster.shadows_here();
        running.retain(|machine, (shadow, ending)| {
            let stays = wanted.get(machine) == Some(shadow);
            if !stays {
                ending.ask();
            }
            stays
        });
        for (machine, shadow) in wanted {
            if running.contains_key(&machine) {
                continue;
            }
            // The module may have to be fetched from another node, and the machine may not be open yet.
            let Ok(candidate) = cluster.find_logic(shadow.module).await else { continue };
            let Some(count) = cluster.partition_count(&machine) else { continue };
            let ending = Arc::new(Stop::default());
            running.insert(machine.clone(), (shadow, ending.clone()));
            let (cluster, pages) = (cluster.clone(), pages.clone());
            let spawned = std::thread::Builder::new().name(format!("shadow-{machine}")).spawn(move || {
                tracing::info!(machine, module = %candidate.id().short(), "a shadow run begins");
                let history = HostedMachine { cluster, pages, machine, count };
                follow(&history, shadow, candidate, &ending);
                tracing::info!(machine = history.machine, "a shadow run ends");
            });
            if let Err(error) = spawned {
                tracing::error!(%error, "a shadow run cannot be started");
            }
        }
        tokio::select! {
            () = cluster.wait_for_directory(AGAIN) => {}
            () = stop.cancelled() => {
                running.values().for_each(|(_, ending)| ending.ask());
                return;
            }
        }
    }
}

/// A machine that runs here.
struct HostedMachine {
    cluster: Cluster,
    pages: Arc<ShadowPages>,
    machine: String,
    count: u32,
}

impl History for HostedMachine {
    fn cluster(&self) -> String {
        self.cluster.view().cluster.unwrap_or_default()
    }

    fn machine(&self) -> &str {
        &self.machine
    }

    fn partition_count(&self) -> u32 {
        self.count
    }

    fn open(&self, partition: PartitionId) -> Result<Box<dyn PartitionJournal>, AuditError> {
        Err(AuditError::Live(format!("partition {partition} is followed, and not read from its beginning")))
    }

    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.cluster.find_logic_here(id)
    }
}

fn follow(history: &HostedMachine, wanted: ShadowWanted, candidate: Arc<dyn Logic>, stop: &Arc<Stop>) {
    let module = candidate.id();
    let candidate = GuardedLogic::around(candidate, stop);
    let (mode, filter) = (ReplayMode::Isolated, ReplayFilter::default());
    let request = Request { candidate, mode, from: None, to: None, partition: None, filter, jobs: 1 };
    let new = |id| Shadow::new(history, &request, PartitionId(id));
    let mut shadows: Vec<Shadow<'_>> = (0..history.count).map(new).collect();
    let mut page_at = Instant::now();
    while !stop.is_asked() {
        let mut is_busy = false;
        for shadow in &mut shadows {
            match stop.cause() {
                // Nothing more is decided until somebody stops the shadow.
                Some(StopCause::Spent(why)) => shadow.page.problem = Some(why.clone()),
                _ => is_busy |= shadow.go_on(),
            }
        }
        if page_at <= Instant::now() {
            let found = found(module, &shadows);
            measure(&history.machine, &found);
            let text = serde_json::to_string(&found).expect("texts and integers only");
            history.pages.publish(&history.machine, wanted, text);
            page_at = Instant::now() + PAGE_EVERY;
        }
        if !is_busy {
            std::thread::sleep(PAUSE);
        }
    }
    history.pages.forget(&history.machine, wanted);
}

fn found(module: ModuleId, shadows: &[Shadow<'_>]) -> ShadowReport {
    let partitions = shadows.iter().map(|shadow| shadow.page.clone()).collect();
    let (mut decisions, mut differences) = (0, BTreeMap::new());
    let mut first: BTreeMap<Class, &Difference> = BTreeMap::new();
    for shadow in shadows {
        decisions += shadow.finds.decisions;
        for (class, count) in &shadow.finds.classes {
            *differences.entry(*class).or_default() += count;
        }
        for (class, difference) in &shadow.finds.first {
            first.entry(*class).or_insert(difference);
        }
    }
    ShadowReport { module, partitions, decisions, differences, first: first.into_values().cloned().collect() }
}

fn measure(machine: &str, found: &ShadowReport) {
    let of_machine = || ("machine", machine.to_owned());
    metrics::gauge!("statehouse_shadow_decisions", &[of_machine()]).set(found.decisions as f64);
    let lag: u64 = found.partitions.iter().map(|partition| partition.lag_entries).sum();
    metrics::gauge!("statehouse_shadow_lag_entries", &[of_machine()]).set(lag as f64);
    for class in Class::ALL.into_iter().filter(|class| *class != Class::Same) {
        let count = found.differences.get(&class).copied().unwrap_or_default();
        let labels = [of_machine(), ("class", class.name().to_owned())];
        metrics::gauge!("statehouse_shadow_differences", &labels).set(count as f64);
    }
}

/// The shadow of one partition.
struct Shadow<'a> {
    history: &'a HostedMachine,
    request: &'a Request,
    page: ShadowedPartition,
    finds: LiveFindings,
    following: Option<ShadowFollower<'a>>,
    /// The partition as it was last opened, and the end of its log when it was first seen. What lies before was decided
    /// before.
    opened: (Weak<Partition>, Option<LogIndex>),
    again: Instant,
}

/// Exists while the partition is open and the same module decides.
struct ShadowFollower<'a> {
    replica: Arc<Partition>,
    live: LivePartition<'a>,
    next: LogIndex,
    since: Instant,
}

/// What happened to some entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FollowStep {
    Taken,
    Idle,
    /// Another module becomes active.
    Ended,
}

impl<'a> Shadow<'a> {
    fn new(history: &'a HostedMachine, request: &'a Request, id: PartitionId) -> Self {
        let page = ShadowedPartition { partition: id.0, ..ShadowedPartition::default() };
        let opened = (Weak::new(), None);
        Self { history, request, page, finds: LiveFindings::default(), following: None, opened, again: Instant::now() }
    }

    /// Takes the next entries; returns whether there were any.
    fn go_on(&mut self) -> bool {
        if Instant::now() < self.again {
            return false;
        }
        let step = self.step();
        if let Some(following) = &mut self.following {
            self.finds.add(following.live.take());
            let (id, journal) = (PartitionId(self.page.partition), following.live.journal());
            self.page.position = journal.position(id, 0).to_string();
            let applied = following.replica.progress().journal.index;
            self.page.lag_entries = applied.0.saturating_sub(journal.index.0);
        }
        self.page.decisions = self.finds.decisions;
        match step {
            Ok(step) => {
                self.page.problem = None;
                step == FollowStep::Taken
            }
            Err(problem) => {
                self.following = None;
                self.page.problem = Some(problem);
                self.again = Instant::now() + AGAIN;
                false
            }
        }
    }

    fn step(&mut self) -> Result<FollowStep, String> {
        let id = PartitionId(self.page.partition);
        let replica = self.history.cluster.find_replica(&self.history.machine, id);
        let replica = replica.filter(|replica| replica.is_running()).ok_or("it does not run here")?;
        let is_same = |following: &ShadowFollower<'_>| Arc::ptr_eq(&following.replica, &replica);
        if !self.following.as_ref().is_some_and(is_same) {
            self.wait_until_level(&replica)?;
            self.following = self.begin(replica)?;
        }
        let Some(following) = &mut self.following else { return Ok(FollowStep::Idle) };
        let end = following.replica.progress().log_index.next();
        let step = following.take_up_to(end).map_err(|error| error.to_string())?;
        let is_old = SHADOW_BYTES_MAX < following.live.bytes() || SHADOW_VIEW_AGE_MAX < following.since.elapsed();
        if step == FollowStep::Ended {
            self.finds.add(following.live.take());
            self.following = None;
        } else if is_old {
            self.renew()?;
        }
        Ok(step)
    }

    /// A partition that was reopened applies the end of its log again, which must not be counted twice.
    fn wait_until_level(&mut self, replica: &Arc<Partition>) -> Result<(), String> {
        let last = replica.log().last().map(|id| id.index);
        if !std::ptr::eq(self.opened.0.as_ptr(), Arc::as_ptr(replica)) {
            self.opened = (Arc::downgrade(replica), last);
        }
        // What its leader never had is cut off, so the log may be shorter by now.
        let wanted = self.opened.1.min(last);
        let applied = replica.progress().log_index;
        if wanted <= Some(applied) { Ok(()) } else { Err("it is still applying what it recorded before".to_owned()) }
    }

    fn begin(&mut self, replica: Arc<Partition>) -> Result<Option<ShadowFollower<'a>>, String> {
        let point = replica.read_stale().map_err(|error| error.to_string())?;
        let Some(meta) = point.view.meta() else { return Ok(None) };
        let module = point.journal.module;
        // Before the first module there is nothing to decide, and a module has no differences from itself.
        if module == ModuleId::ZERO || module == self.request.candidate.id() {
            return Ok(None);
        }
        let next = meta.applied.index.next();
        let recorder = self.history.load(module)?;
        let live = LivePartition::begin(self.history, self.request, PartitionId(self.page.partition), point, recorder);
        self.page.begun += 1;
        let live = live.map_err(|error| error.to_string())?;
        Ok(Some(ShadowFollower { replica, live, next, since: Instant::now() }))
    }

    /// Continues with newer rows, after the old ones have reached the same entry: no entry is left out.
    fn renew(&mut self) -> Result<(), String> {
        let Some(mut old) = self.following.take() else { return Ok(()) };
        let Some(new) = self.begin(old.replica.clone())? else { return Ok(()) };
        while old.next < new.next {
            let step = old.take_up_to(new.next).map_err(|error| error.to_string())?;
            if step != FollowStep::Taken {
                break;
            }
        }
        self.finds.add(old.live.take());
        self.following = Some(new);
        Ok(())
    }
}

impl ShadowFollower<'_> {
    /// Takes some of the applied entries before `end`.
    fn take_up_to(&mut self, end: LogIndex) -> Result<FollowStep, ReplayFault> {
        if end <= self.next {
            return Ok(FollowStep::Idle);
        }
        let failed = |error: String| ReplayFault::from(AuditError::Live(error));
        let entries = self.replica.log().read(self.next..end, READ_BYTES).map_err(|error| failed(error.to_string()))?;
        if entries.is_empty() {
            return Err(failed("the log does not reach back to this place any more".to_owned()));
        }
        for LogEntry { id, payload } in entries {
            if let Payload::Entry(bytes) = payload {
                let entry = Entry::parse(bytes).map_err(|error| failed(error.to_string()))?;
                if !self.live.on_entry(&entry)? {
                    return Ok(FollowStep::Ended);
                }
            }
            self.next = id.index.next();
        }
        Ok(FollowStep::Taken)
    }
}
