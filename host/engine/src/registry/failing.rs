//! Logic whose every call fails in the same way, for tests of what the host makes of it.
//!
//! In: a fault. Out: that fault, and how often it was asked for. Its description is that of the module `faulty`.

use std::sync::atomic::{AtomicUsize, Ordering};

use faulty::Faulty;
use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;

use crate::ids::ModuleId;
use crate::machine::logic::{Fault, Logic, Pace};
use crate::machine::native::NativeLogic;

pub struct FailingLogic {
    inner: NativeLogic<Faulty>,
    fault: Fault,
    calls: AtomicUsize,
}

impl FailingLogic {
    pub fn with(fault: Fault) -> Self {
        Self { inner: NativeLogic::new(), fault, calls: AtomicUsize::new(0) }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn fail<T>(&self) -> Result<T, Fault> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Err(self.fault.clone())
    }
}

impl Logic for FailingLogic {
    fn id(&self) -> ModuleId {
        self.inner.id()
    }

    fn describe(&self) -> &Describe {
        self.inner.describe()
    }

    fn plan(&self, _: &[u8]) -> Result<Vec<u8>, Fault> {
        self.fail()
    }

    fn execute(&self, _: Pace, _: Context, _: &[u8], _: &[u8]) -> Result<Vec<u8>, Fault> {
        self.fail()
    }

    fn apply(&self, _: Pace, _: Context, _: &[u8], _: &[u8], _: &[u8]) -> Result<Vec<u8>, Fault> {
        self.fail()
    }

    fn query(&self, _: &QueryIn) -> Result<QueryOut, Fault> {
        self.fail()
    }

    fn render(&self, _: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        self.fail()
    }

    fn check(&self, _: &CheckIn) -> Result<CheckOut, Fault> {
        self.fail()
    }

    fn migrate(&self, _: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        vec![self.fail()]
    }
}
