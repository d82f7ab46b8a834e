//! File descriptors: a process takes as many as the system gives it, before it does anything else.
//!
//! The usual limit of a shell or a service, 1,024, is one for programs of long ago; the hard one, which an administrator sets, is what
//! counts. It does not know what they are for.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to the hard one, and gives what it is then; `None` where there is none.
pub fn raise() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current,
        Err(error) => {
            tracing::warn!(%error, ?before, "the limit of open files stays as it is");
            before
        }
    }
}
