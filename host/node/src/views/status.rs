//! The status of a view, for people and for `/metrics`: which build serves, how far it is, and what stops it.
//!
//! In: a view and the partitions it follows. Out: numbers and words. It decides nothing.

use crate::ids::{JournalIndex, Micros, ModuleId, PartitionId, Position};
use crate::machine::journal::Journal;
use crate::views::build::Build;
use crate::views::cursor::ViewCursor;
use crate::views::{View, ViewSource};

/// By how much a view lags behind what this node has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Entries that are missing, over all partitions.
    pub entries: u64,
    /// Journal time between the last entry that was followed and the newest, if there is one to follow; the largest
    /// over all partitions.
    pub micros: i64,
}

#[derive(Clone, Debug)]
pub struct ViewStatus {
    pub name: String,
    /// The build that answers queries; `None` until one was built for the first time.
    pub serving: Option<BuildStatus>,
    /// The build that is made beside it.
    pub building: Option<BuildStatus>,
    /// What stops the view as a whole.
    pub problem: Option<String>,
}

#[derive(Clone, Debug)]
pub struct BuildStatus {
    pub module: ModuleId,
    pub version: String,
    pub number: u64,
    pub lag: Lag,
    pub partitions: Vec<FollowProgress>,
    /// Its size on this node's disk.
    pub bytes: u64,
    pub problem: Option<String>,
    /// Whether it stays stopped until it is made again.
    pub is_stopped: bool,
}

/// How far a partition is followed.
#[derive(Clone, Debug)]
pub struct FollowProgress {
    pub partition: PartitionId,
    pub position: Position,
    pub time: Micros,
    /// The newest entry of the partition on this node; `None` while the partition is not open.
    pub newest: Option<JournalIndex>,
}

impl View {
    /// By how much a build lags behind; `None` while a partition is not open here.
    pub(super) fn lag_of(&self, build: &Build) -> Option<Lag> {
        let mut lag = Lag::default();
        for id in (0..self.source.partition_count).map(PartitionId) {
            let newest = (self.source.find)(id)?.progress().journal;
            let cursor = build.cursor(id).unwrap_or(ViewCursor::genesis(&newest_genesis(&self.source, id)?));
            let entries = cursor.index.distance_to(newest.index);
            lag.entries += entries;
            if 0 < entries && cursor.time != Micros(0) {
                lag.micros = lag.micros.max(newest.time.0 - cursor.time.0);
            }
        }
        Some(lag)
    }

    pub(super) fn measure(&self) {
        let Some(serving) = self.serving() else { return };
        let Some(lag) = self.lag_of(&serving) else { return };
        let labels = [("machine", self.source.machine.clone()), ("view", self.name.clone())];
        metrics::gauge!("statehouse_view_lag_entries", &labels).set(lag.entries as f64);
        metrics::gauge!("statehouse_view_lag_seconds", &labels).set(lag.micros as f64 / 1e6);
        let is_stopped = serving.problem.lock().is_some();
        metrics::gauge!("statehouse_view_stopped", &labels).set(f64::from(u8::from(is_stopped)));
    }

    pub fn status(&self) -> ViewStatus {
        let held = self.held.read();
        ViewStatus {
            name: self.name.clone(),
            serving: held.serving.as_ref().map(|build| self.build_status(build)),
            building: held.building.as_ref().map(|build| self.build_status(build)),
            problem: held.problem.clone(),
        }
    }

    fn build_status(&self, build: &Build) -> BuildStatus {
        let followed = |id: PartitionId| {
            let partition = (self.source.find)(id);
            let genesis = || partition.as_ref().map(|partition| ViewCursor::genesis(&partition.genesis()));
            let cursor = build.cursor(id).or_else(genesis)?;
            let newest = partition.as_ref().map(|partition| partition.progress().journal.index);
            Some(FollowProgress { partition: id, position: cursor.position(id), time: cursor.time, newest })
        };
        let problem = build.problem.lock().clone();
        BuildStatus {
            module: build.logic.id(),
            version: build.logic.describe().version.clone(),
            number: build.number,
            lag: self.lag_of(build).unwrap_or_default(),
            partitions: (0..self.source.partition_count).filter_map(|id| followed(PartitionId(id))).collect(),
            bytes: build.store.size(),
            is_stopped: problem.as_ref().is_some_and(|problem| problem.is_final),
            problem: problem.map(|problem| problem.text),
        }
    }
}

fn newest_genesis(source: &ViewSource, id: PartitionId) -> Option<Journal> {
    Some((source.find)(id)?.genesis())
}
