//! Errors on purpose, before each call of RocksDB: its files are on the real file system, past the disk that can be simulated, so this is how tests
//! make any operation of a store fail.
//!
//! In: how many calls from now on one is to fail, and how. Out: that error, once. Where nobody asks for errors it is a look at an empty option.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::StoreError;

/// Clones fail together; the default never fails.
#[derive(Clone, Default)]
pub struct StoreFaults(Option<Arc<Mutex<Calls>>>);

#[derive(Default)]
struct Calls {
    count: u64,
    failing: Option<(u64, ErrorKind)>,
}

impl StoreFaults {
    /// Counts calls, and fails one when it is told to.
    pub fn armed() -> Self {
        Self(Some(Arc::default()))
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.0.as_ref().map_or(0, |calls| calls.lock().count)
    }

    /// The call after so many more fails, and no other.
    pub fn fail_after(&self, calls: u64, kind: ErrorKind) {
        let mut state = self.0.as_ref().expect("it is armed").lock();
        state.failing = Some((state.count + calls, kind));
    }

    /// To be asked before each call.
    pub(super) fn check(&self, path: &Path, action: &'static str) -> Result<(), StoreError> {
        let Some(calls) = &self.0 else { return Ok(()) };
        let mut calls = calls.lock();
        calls.count += 1;
        match calls.failing {
            Some((failing, kind)) if failing + 1 == calls.count => Err(StoreError::io(path, action)(kind.into())),
            _ => Ok(()),
        }
    }
}
