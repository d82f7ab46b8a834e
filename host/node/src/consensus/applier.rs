//! The boundary to the partition: committed entries cross it in log order, each exactly once.
//!
//! Only this folder can make a [`CommittedValue`], so a function that takes one cannot run before a majority has the
//! entry. This file does not know what a partition does with an entry, or on which thread.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::ApplierError;
use crate::log::{EntryId, LogEntry};

/// A value that a majority of the voters has: it will never change and never be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedValue<T>(T);

impl<T> CommittedValue<T> {
    pub(super) fn new(value: T) -> Self {
        Self(value)
    }

    /// What a test says is committed, because it drives a partition without a group.
    #[cfg(test)]
    pub fn by_test(value: T) -> Self {
        Self(value)
    }

    pub fn get(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }
}

/// A partition's state up to `last`. The partition keeps it somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub last: Option<EntryId>,
    /// The bytes of the last `Payload::Membership` up to `last`.
    pub membership: Option<Bytes>,
    /// The information that another replica needs to fetch the snapshot. While a clone of this exists, the snapshot is
    /// being sent.
    pub offer: Arc<Bytes>,
}

/// A partition's end of the group. All calls come from one task of the group, one at a time.
pub trait Applier: Send + 'static {
    /// The last entry whose effects will survive a crash *now*, and the bytes of the last `Payload::Membership` up to
    /// it. This is called once, when the group starts; entries after it are applied, perhaps again.
    fn applied(&self) -> (Option<EntryId>, Option<Bytes>);

    /// Takes entries in log order, each once for each start of the group, without gaps, including blank and membership
    /// entries.
    ///
    /// It may return when the entries are merely queued, and waits while the queue is full; only later entries of the
    /// group wait for it. The bytes of a membership entry must be stored with the state and returned by `applied`. An
    /// error stops the group for good.
    fn apply(
        &mut self,
        entries: Vec<CommittedValue<LogEntry>>,
    ) -> impl Future<Output = Result<(), ApplierError>> + Send;

    /// The snapshot that counts from now on, so that the log up to it may be purged. [`super::Group::adopt_snapshot`]
    /// requests it.
    fn build_snapshot(&mut self) -> impl Future<Output = Result<Snapshot, ApplierError>> + Send {
        async { Err(ApplierError::NoSnapshots) }
    }

    /// Replaces the whole state by `snapshot`, durably, and makes it the current one. No group of this host calls it: a
    /// snapshot replaces the state while the partition is closed.
    fn install_snapshot(&mut self, snapshot: Snapshot) -> impl Future<Output = Result<(), ApplierError>> + Send {
        async move {
            drop(snapshot);
            Err(ApplierError::NoSnapshots)
        }
    }

    /// The last snapshot built or installed, even before the last start. There must be one once anything was purged. It
    /// must neither end before what was purged nor be ahead of what is applied.
    fn current_snapshot(&self) -> Option<Snapshot> {
        None
    }
}

/// [`Applier`] as an object, so that the type of a group does not depend on its partition.
pub(super) trait AnyApplier: Send + 'static {
    fn applied(&self) -> (Option<EntryId>, Option<Bytes>);
    fn apply(&mut self, entries: Vec<CommittedValue<LogEntry>>) -> BoxFuture<'_, Result<(), ApplierError>>;
    fn build_snapshot(&mut self) -> BoxFuture<'_, Result<Snapshot, ApplierError>>;
    fn install_snapshot(&mut self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), ApplierError>>;
    fn current_snapshot(&self) -> Option<Snapshot>;
}

impl<A: Applier> AnyApplier for A {
    fn applied(&self) -> (Option<EntryId>, Option<Bytes>) {
        Applier::applied(self)
    }

    fn apply(&mut self, entries: Vec<CommittedValue<LogEntry>>) -> BoxFuture<'_, Result<(), ApplierError>> {
        Box::pin(Applier::apply(self, entries))
    }

    fn build_snapshot(&mut self) -> BoxFuture<'_, Result<Snapshot, ApplierError>> {
        Box::pin(Applier::build_snapshot(self))
    }

    fn install_snapshot(&mut self, snapshot: Snapshot) -> BoxFuture<'_, Result<(), ApplierError>> {
        Box::pin(Applier::install_snapshot(self, snapshot))
    }

    fn current_snapshot(&self) -> Option<Snapshot> {
        Applier::current_snapshot(self)
    }
}
