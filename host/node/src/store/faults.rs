//! Deliberate errors before each call of RocksDB. RocksDB's files are on the real file system, which the simulated disk
//! does not cover, so this is how tests make any operation of a store fail.
//!
//! In: the number of the call that must fail, counted from now, and the kind of error. Out: that error, once. Or all
//! calls fail for a while. Without such a request this only checks an empty option.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::StoreError;

/// Clones fail together. The default never fails.
#[derive(Clone, Default)]
pub struct StoreFaults(Option<Arc<Mutex<Calls>>>);

#[derive(Default)]
struct Calls {
    count: u64,
    failing: Option<(u64, ErrorKind)>,
    all_failing: Option<ErrorKind>,
}

impl StoreFaults {
    /// Counts calls, and fails one on request.
    pub fn armed() -> Self {
        Self(Some(Arc::default()))
    }

    /// The calls so far.
    pub fn calls(&self) -> u64 {
        self.0.as_ref().map_or(0, |calls| calls.lock().count)
    }

    /// The call after this many more fails, and no other.
    pub fn fail_after(&self, calls: u64, kind: ErrorKind) {
        let mut state = self.0.as_ref().expect("it is armed").lock();
        state.failing = Some((state.count + calls, kind));
    }

    /// All calls fail from now on, until this says `None`.
    pub fn fail_all(&self, kind: Option<ErrorKind>) {
        self.0.as_ref().expect("it is armed").lock().all_failing = kind;
    }

    /// Must be asked before each call.
    pub(super) fn check(&self, path: &Path, action: &'static str) -> Result<(), StoreError> {
        let Some(calls) = &self.0 else { return Ok(()) };
        let mut calls = calls.lock();
        calls.count += 1;
        match calls.failing {
            Some((failing, kind)) if failing + 1 == calls.count => Err(StoreError::io(path, action)(kind.into())),
            _ => calls.all_failing.map_or(Ok(()), |kind| Err(StoreError::io(path, action)(kind.into()))),
        }
    }
}
