//! File descriptors: a process takes as many as the system allows, before it does anything else.
//!
//! The usual soft limit of a shell or a service, 1,024, is outdated; the hard limit, which an administrator sets, is
//! the one that counts. It does not know what the descriptors are used for.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to the hard limit, and returns the limit that then applies; `None` if there is none.
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
