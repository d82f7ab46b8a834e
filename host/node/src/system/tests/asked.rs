//! What the environment asks of a run: a seed, chaos; and what a run shows.
//!
//! In: variables. Out: numbers of rounds, seeds, and logs of the nodes beside the output of a test that fails.

use tracing_subscriber::EnvFilter;

use super::{CHAOS_VARIABLE, SEED_VARIABLE};

/// The seed that the environment asks for, or else a random one.
pub fn seed_of_run() -> u64 {
    seed_asked().unwrap_or_else(rand::random)
}

pub fn seed_asked() -> Option<u64> {
    std::env::var(SEED_VARIABLE).ok().map(|text| text.parse().expect("the seed is a number"))
}

/// How often something is done: a few times in every run, many times when chaos is asked for.
pub fn rounds(few: usize, many: usize) -> usize {
    if is_chaos() { many } else { few }
}

pub fn is_chaos() -> bool {
    std::env::var_os(CHAOS_VARIABLE).is_some()
}

/// What the nodes log belongs to the output of their test, which is shown if the test fails. Without `RUST_LOG` that is
/// what operators see.
pub fn show_logs() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,statehouse=info,openraft=error"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().with_ansi(false);
    // Another test of this process may have been first.
    let _ = logs.try_init();
}
