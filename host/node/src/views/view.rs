//! A view on this node: its thread, the build that serves queries, and the one that is made beside it.
//!
//! ```text
//! wanted ─▶ build in its own folder ─▶ follows ─▶ caught up: the file `serving` names it ─▶ the old one is deleted
//! ```
//! In: what is wanted, and partitions. Out: builds to query, and a status. After a crash it continues with what is on
//! disk: the name of a build's folder says what it is, and `serving` changes atomically.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select_all};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::durable::{self, PRIVATE};
use crate::ids::{ModuleId, PartitionId};
use crate::machine::logic::Logic;
use crate::partition::{Partition, PartitionError};
use crate::views::build::{Build, BuildProblem, ReadResult};
use crate::views::error::ViewError;
use crate::views::{ViewSource, ViewsContext, WantedView};

/// The file that names the folder of the build that serves.
const SERVING: &str = "serving";
/// How long the thread waits at most when nothing has happened.
const PAUSE: Duration = Duration::from_millis(200);
/// How soon an archive is asked again that did not have what is needed, or could not be read.
const ARCHIVE_AGAIN: Duration = Duration::from_secs(5);
/// A build this near to the end counts as caught up, even while entries keep arriving.
const CAUGHT_UP_ENTRIES: u64 = 16;
/// Higher than that of everything else, so that the partitions of this node have precedence.
const NICENESS: i32 = 10;

/// A view's thread.
pub(super) struct ViewThread {
    pub view: Arc<View>,
    thread: JoinHandle<()>,
}

pub struct View {
    pub(super) source: ViewSource,
    pub(super) name: String,
    folder: PathBuf,
    shared: Arc<ViewsContext>,
    wanted: Mutex<WantedView>,
    pub(super) held: RwLock<HeldBuilds>,
    /// Counts writes, for those who wait for one.
    moved: watch::Sender<u64>,
    stopping: CancellationToken,
    wake: tokio::sync::Notify,
}

#[derive(Default)]
pub(super) struct HeldBuilds {
    pub serving: Option<Arc<Build>>,
    pub building: Option<Arc<Build>>,
    /// Builds that no longer serve, kept while somebody still reads them.
    retired: Vec<Arc<Build>>,
    pub problem: Option<String>,
}

impl ViewThread {
    /// The new thread first waits for `before`, which still deletes the files of a dropped view of the same name.
    pub fn start(
        shared: Arc<ViewsContext>,
        source: ViewSource,
        wanted: WantedView,
        before: Option<JoinHandle<()>>,
    ) -> std::io::Result<Self> {
        let folder = shared.folder.join(&source.machine).join(&wanted.name);
        let view = Arc::new(View {
            source,
            name: wanted.name.clone(),
            folder,
            shared,
            wanted: Mutex::new(wanted),
            held: RwLock::default(),
            moved: watch::Sender::new(0),
            stopping: CancellationToken::new(),
            wake: tokio::sync::Notify::new(),
        });
        let (running, runtime) = (view.clone(), Handle::current());
        let thread = std::thread::Builder::new().name(format!("view-{}", view.name));
        let thread = thread.spawn(move || {
            if before.is_some_and(|before| before.join().is_err()) {
                tracing::error!(view = running.name, "the thread that deletes a view panicked");
            }
            running.run(&runtime);
        })?;
        Ok(Self { view, thread })
    }

    /// Waits until the thread has ended, with everything durable.
    pub fn close(self) {
        self.view.stop();
        if self.thread.join().is_err() {
            tracing::error!(view = self.view.name, "the thread of a view panicked");
        }
    }

    /// Stops the view and deletes its files; returns the thread that does so.
    pub fn forget(self) -> Option<JoinHandle<()>> {
        self.view.stop();
        let folder = self.view.folder.clone();
        delete(move || {
            self.close();
            remove(&folder);
        })
    }
}

impl View {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The build that serves queries.
    pub(super) fn serving(&self) -> Option<Arc<Build>> {
        self.held.read().serving.clone()
    }

    /// The builds there are, and whether the wanted one is among them.
    pub(super) fn builds(&self) -> (Vec<Arc<Build>>, bool) {
        let WantedView { logic, build: number, .. } = self.wanted.lock().clone();
        let held = self.held.read();
        let builds: Vec<_> = held.serving.iter().chain(&held.building).cloned().collect();
        let is_complete = builds.iter().any(|build| build.is(&logic, number));
        (builds, is_complete)
    }

    /// The logic that declares the view: that of the build that serves, or else the wanted one.
    pub fn logic(&self) -> Arc<dyn Logic> {
        self.serving().map_or_else(|| self.wanted.lock().logic.clone(), |serving| serving.logic.clone())
    }

    pub(super) fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    pub fn set_wanted(&self, wanted: WantedView) {
        let mut known = self.wanted.lock();
        if (known.build, known.logic.id()) != (wanted.build, wanted.logic.id()) {
            *known = wanted;
            self.wake.notify_one();
        }
    }

    pub fn stop(&self) {
        self.stopping.cancel();
    }

    fn is_stopped(&self) -> bool {
        self.stopping.is_cancelled()
    }

    fn run(&self, runtime: &Handle) {
        // On Linux a priority belongs to a thread, and `None` means the calling thread.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::debug!(%error, "the priority of a view could not be lowered");
        }
        self.note(self.open_serving());
        let serving = self.serving().map(|serving| name_of(serving.logic.id(), serving.number));
        let wanted = self.wanted.lock().clone();
        self.delete_others(&[serving, Some(name_of(wanted.logic.id(), wanted.build))]);
        while !self.is_stopped() {
            let is_prepared = self.prepare();
            let is_ready = is_prepared.is_ok();
            self.note(is_prepared);
            let is_busy = is_ready && self.go_on(runtime);
            self.note(self.take_over());
            self.measure();
            if !is_busy {
                runtime.block_on(self.wait());
            }
        }
        let held = std::mem::take(&mut *self.held.write());
        for build in held.serving.into_iter().chain(held.building) {
            if let Err(error) = build.store.flush() {
                tracing::warn!(
                    view = self.name, %error,
                    "the rows of a view are not all on disk; they are made again from the journal"
                );
            }
        }
    }

    fn note(&self, result: Result<(), ViewError>) {
        let problem = result.err().map(|error| error.to_string());
        if self.held.read().problem != problem {
            if let Some(problem) = &problem {
                tracing::error!(view = self.name, problem, "a view has stopped");
            }
            self.held.write().problem = problem;
        }
    }

    /// Opens the build that served when the process ended.
    fn open_serving(&self) -> Result<(), ViewError> {
        durable::create_dir_all(&self.folder).map_err(self.failed("made"))?;
        let named = match std::fs::read_to_string(self.folder.join(SERVING)) {
            Ok(named) => named,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.failed("read")(error)),
        };
        let Some((module, number)) = parse_name(named.trim()) else { return Ok(()) };
        let wanted = self.wanted.lock().logic.clone();
        let load = |reason| ViewError::Module { module, reason };
        let logic = if wanted.id() == module { wanted } else { self.shared.modules.load(module).map_err(load)? };
        match Build::open(&self.folder.join(named.trim()), &self.shared.store, logic, number) {
            Ok(build) => {
                self.held.write().serving = Some(Arc::new(build));
                Ok(())
            }
            // It is made again, in a folder of the same name.
            Err(error) => {
                tracing::warn!(view = self.name, %error, "the rows of a view cannot be opened, and are made again");
                remove(&self.folder.join(named.trim()));
                Ok(())
            }
        }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> ViewError {
        let path = self.folder.clone();
        move |source| ViewError::Folder { path, action, source }
    }

    /// Opens the wanted build, unless it serves already or is being made.
    fn prepare(&self) -> Result<(), ViewError> {
        self.delete_retired();
        let WantedView { logic, build: number, .. } = self.wanted.lock().clone();
        let is_wanted = |build: &Arc<Build>| build.is(&logic, number);
        let (serving, building) = {
            let held = self.held.read();
            (held.serving.clone(), held.building.clone())
        };
        if building.as_ref().is_some_and(is_wanted) {
            return Ok(());
        }
        if let Some(before) = building {
            let mut held = self.held.write();
            held.building = None;
            held.retired.push(before);
        }
        if serving.as_ref().is_some_and(is_wanted) {
            return Ok(());
        }
        let name = name_of(logic.id(), number);
        self.delete_others(&[Some(name.clone()), serving.map(|serving| name_of(serving.logic.id(), serving.number))]);
        let folder = self.folder.join(name);
        let build = Build::open(&folder, &self.shared.store, logic, number).inspect_err(|_| {
            // Nothing serves from it yet, so it may start again from nothing.
            remove(&folder);
        })?;
        self.held.write().building = Some(Arc::new(build));
        Ok(())
    }

    /// Deletes builds that were given up or replaced before the process ended.
    fn delete_others(&self, kept: &[Option<String>]) {
        let retired: Vec<String> =
            self.held.read().retired.iter().map(|build| name_of(build.logic.id(), build.number)).collect();
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_kept = kept.iter().flatten().chain(&retired).any(|kept| *kept == name);
            if !is_kept && parse_name(&name).is_some() {
                remove(&entry.path());
            }
        }
    }

    fn delete_retired(&self) {
        let retired = std::mem::take(&mut self.held.write().retired);
        for build in retired {
            match Arc::try_unwrap(build) {
                Ok(build) => {
                    let dir = build.store.dir().to_owned();
                    drop(build);
                    remove(&dir);
                }
                Err(build) => self.held.write().retired.push(build),
            }
        }
    }

    /// Makes one step of each build in each partition; returns whether there was anything to follow.
    fn go_on(&self, runtime: &Handle) -> bool {
        let mut is_busy = false;
        for build in &self.builds().0 {
            if build.is_standing() || build.rests_until.lock().is_some_and(|until| Instant::now() < until) {
                continue;
            }
            match self.follow(build, runtime) {
                Ok(has_moved) => {
                    is_busy |= has_moved;
                    *build.problem.lock() = None;
                    if has_moved {
                        self.moved.send_modify(|count| *count += 1);
                    }
                }
                Err(error) if error.spoils_rows() => {
                    tracing::warn!(view = self.name, %error, "a view is built again");
                    self.make_again(build);
                    return true;
                }
                // The step was given up because the view is being stopped.
                Err(_) if self.is_stopped() => return false,
                Err(error) => {
                    *build.rests_until.lock() = error.is_of_archive().then(|| Instant::now() + ARCHIVE_AGAIN);
                    let problem = Some(BuildProblem { text: error.to_string(), is_final: error.is_final() });
                    let mut known = build.problem.lock();
                    if *known != problem {
                        tracing::error!(view = self.name, %error, "a view has stopped");
                        *known = problem;
                        self.moved.send_modify(|count| *count += 1);
                    }
                }
            }
        }
        is_busy
    }

    fn follow(&self, build: &Build, runtime: &Handle) -> Result<bool, ViewError> {
        let mut has_moved = false;
        for id in (0..self.source.partition_count).map(PartitionId) {
            if self.is_stopped() {
                break;
            }
            let Some(partition) = (self.source.find)(id) else { continue };
            let wait = |reading: BoxFuture<'_, ReadResult>| {
                let read = self.stopping.run_until_cancelled(reading);
                runtime.block_on(read).unwrap_or(Err(PartitionError::Deadline))
            };
            has_moved |= build.step(&partition, self.shared.modules.as_ref(), wait)?;
        }
        Ok(has_moved)
    }

    /// Deletes a build whose rows are worthless, for example of another history, so that it starts from the beginning.
    fn make_again(&self, spoilt: &Arc<Build>) {
        let is_it = |held: &Option<Arc<Build>>| held.as_ref().is_some_and(|build| Arc::ptr_eq(build, spoilt));
        let mut held = self.held.write();
        let has_served = is_it(&held.serving);
        if has_served {
            held.serving = None;
        } else if is_it(&held.building) {
            held.building = None;
        }
        drop(held);
        // A query that still reads this build gets an error, because its files are gone; its rows were wrong.
        let dir = spoilt.store.dir().to_owned();
        let aside = dir.with_extension("spoilt");
        remove(&aside);
        if let Err(error) = std::fs::rename(&dir, &aside) {
            tracing::warn!(view = self.name, %error, "the rows of a view cannot be set aside");
        }
        remove(&aside);
        if has_served && let Err(error) = std::fs::remove_file(self.folder.join(SERVING)) {
            tracing::debug!(view = self.name, %error, "nothing served");
        }
    }

    /// Lets the new build serve once it has caught up.
    fn take_over(&self) -> Result<(), ViewError> {
        let (serving, building) = {
            let held = self.held.read();
            (held.serving.clone(), held.building.clone())
        };
        let Some(building) = building else { return Ok(()) };
        let Some(lag) = self.lag_of(&building) else { return Ok(()) };
        let patience = serving.and_then(|serving| self.lag_of(&serving)).map_or(0, |lag| lag.entries);
        if CAUGHT_UP_ENTRIES.max(patience) < lag.entries || building.problem.lock().is_some() {
            return Ok(());
        }
        building.store.flush()?;
        fail::fail_point!("views::before_serving", |_| std::process::abort());
        let name = name_of(building.logic.id(), building.number);
        durable::write(&self.folder, SERVING, PRIVATE, name.as_bytes()).map_err(self.failed("written"))?;
        fail::fail_point!("views::after_serving", |_| std::process::abort());
        tracing::info!(view = self.name, build = name, "a view serves");
        let mut held = self.held.write();
        let before = held.serving.replace(building);
        held.building = None;
        held.retired.extend(before);
        drop(held);
        self.moved.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Waits until something may have happened.
    async fn wait(&self) {
        let partitions: Vec<Arc<Partition>> =
            (0..self.source.partition_count).filter_map(|id| (self.source.find)(PartitionId(id))).collect();
        let serving = self.held.read().serving.clone();
        let is_new = |partition: &Arc<Partition>| {
            let cursor = serving.as_ref().and_then(|serving| serving.cursor(partition.id()));
            cursor.is_some_and(|cursor| cursor.log_next <= partition.progress().log_index)
        };
        let mut waits: Vec<_> = Vec::new();
        for partition in &partitions {
            let mut progress = partition.watch_progress();
            progress.mark_unchanged();
            waits.push(async move { drop(progress.changed().await) }.boxed());
        }
        // Entries may have arrived before the watch began.
        if partitions.iter().any(is_new) {
            let is_standing = serving.as_ref().is_some_and(|serving| serving.problem.lock().is_some());
            if !is_standing {
                return;
            }
        }
        waits.push(async { self.wake.notified().await }.boxed());
        waits.push(self.stopping.cancelled().boxed());
        // Either way it is time to look.
        drop(tokio::time::timeout(PAUSE, select_all(waits)).await);
    }
}

fn name_of(module: ModuleId, number: u64) -> String {
    format!("{module}-{number}")
}

fn parse_name(name: &str) -> Option<(ModuleId, u64)> {
    let (module, number) = name.split_once('-')?;
    Some((module.parse().ok()?, number.parse().ok()?))
}

pub(super) fn remove(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(
                path = %path.display(), %error,
                "files that a view does not need any more cannot be deleted"
            );
        }
        _ => {}
    }
}

/// Deletes files on a thread of its own.
pub(super) fn delete(deleting: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("view-forget".to_owned()).spawn(deleting);
    thread.inspect_err(|error| tracing::error!(%error, "the rows of a view could not be deleted")).ok()
}
