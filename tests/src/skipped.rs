//! Tests that cannot run on this machine. Their reasons are at the end of `make test`, so that nobody takes them for
//! passed.

use std::fs::OpenOptions;
use std::io::Write;

/// Names the file that collects the skipped tests of a run, one line each; `.ci/test` prints it.
const COLLECTED_IN: &str = "STATEHOUSE_SKIPPED";

/// Notes that the calling test checks nothing here, and why. The caller returns.
///
/// # Panics
/// The file cannot be written.
pub fn skipped(reason: &str) {
    // A test runs in a thread of its name; an asynchronous one may run in a thread of its runtime.
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped: {reason}");
    if let Some(path) = std::env::var_os(COLLECTED_IN) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("the file can be opened");
        // One write, so that lines of tests that run at the same time are not mixed.
        file.write_all(format!("{test}: {}\n", reason.replace('\n', " ")).as_bytes()).expect("it can be written");
    }
}
