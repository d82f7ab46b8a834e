//! The module `faulty` with one export changed, for tests of what the kernel does about it.
//!
//! In: what `apply` fails with, or how long the events of `execute` are. Out: that, and how often both were called.

use std::sync::atomic::{AtomicUsize, Ordering};

use faulty::Faulty;
use statehouse_abi::call::{Context, write_execute_out};
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::OutcomeWriter;
use statehouse_abi::value::Value;

use crate::ids::ModuleId;
use crate::machine::logic::{Fault, Logic, Pace};
use crate::machine::native::NativeLogic;
use crate::machine::replica::no_writes;

pub struct ChangedLogic {
    inner: NativeLogic<Faulty>,
    executed: AtomicUsize,
    applied: AtomicUsize,
    /// What `apply` fails with.
    apply: Option<Fault>,
    /// Bytes of the one event that `execute` answers each command with.
    event_bytes: Option<usize>,
}

impl ChangedLogic {
    pub fn of(apply: Option<Fault>, event_bytes: Option<usize>) -> Self {
        Self {
            inner: NativeLogic::new(),
            executed: AtomicUsize::new(0),
            applied: AtomicUsize::new(0),
            apply,
            event_bytes,
        }
    }

    /// How often `execute` was called.
    pub fn executed(&self) -> usize {
        self.executed.load(Ordering::Relaxed)
    }

    /// How often `apply` was called.
    pub fn applied(&self) -> usize {
        self.applied.load(Ordering::Relaxed)
    }
}

impl Logic for ChangedLogic {
    fn id(&self) -> ModuleId {
        self.inner.id()
    }

    fn describe(&self) -> &Describe {
        self.inner.describe()
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        self.inner.plan(plan_in)
    }

    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        self.executed.fetch_add(1, Ordering::Relaxed);
        let Some(size) = self.event_bytes else { return self.inner.execute(pace, context, ops, rows) };
        let ops = OpsBlock::parse_trusted(ops).expect("the host wrote this block");
        let (mut outcome, event) = (OutcomeWriter::default(), vec![7; size]);
        for group in 0..ops.group_count() {
            let first = outcome.event_count();
            outcome.event(ops.group(group).first_op, &event);
            outcome.accept(first);
        }
        Ok(write_execute_out(Vec::new(), &outcome.finish(Vec::new()), &no_writes(), []))
    }

    fn apply(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        self.applied.fetch_add(1, Ordering::Relaxed);
        match &self.apply {
            Some(fault) => Err(fault.clone()),
            None if self.event_bytes.is_some() => Ok(no_writes()),
            None => self.inner.apply(pace, context, ops, rows, outcome),
        }
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault> {
        self.inner.query(query)
    }

    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        self.inner.render(items)
    }

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault> {
        self.inner.check(check)
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        self.inner.migrate(entities)
    }
}
