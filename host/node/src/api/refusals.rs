//! What an operator hears of strangers: every refused token is counted, and at most one line a second names an address.
//!
//! In: what was refused. Out: a counter, and a line in the log unless there was one just now. Neither has any part of a
//! token. It decides nothing.

use std::net::SocketAddr;
use std::time::Instant;

use parking_lot::Mutex;

use super::problem::Problem;
use crate::limits::{REFUSAL_LINE_EVERY, REFUSED_PATH_CHARS_MAX};

/// Paces log lines that anybody can cause: one in each period, with a count of those that were left out.
#[derive(Default)]
pub struct PacedLines {
    state: Mutex<PaceState>,
}

#[derive(Default)]
struct PaceState {
    last: Option<Instant>,
    unsaid: u64,
}

impl PacedLines {
    /// Whether it is time for a line, and how many were left out since the last one.
    pub fn turn(&self) -> Option<u64> {
        let mut said = self.state.lock();
        let now = Instant::now();
        if said.last.is_some_and(|last| now.duration_since(last) < REFUSAL_LINE_EVERY) {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

/// Requests that were refused because of their token.
#[derive(Default)]
pub struct Refusals(PacedLines);

impl Refusals {
    pub fn note(&self, problem: &Problem, path: &str, address: Option<SocketAddr>) {
        let status = problem.status();
        let reason = if status == 401 { "unknown" } else { "role" };
        metrics::counter!("statehouse_tokens_refused_total", "reason" => reason).increment(1);
        if let Some(unsaid) = self.0.turn() {
            let path: String = path.chars().take(REFUSED_PATH_CHARS_MAX).collect();
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::warn!(address, path, status, detail = problem.detail(), unsaid, "a token was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_left_out_are_counted() {
        let paced = PacedLines::default();
        assert_eq!(paced.turn(), Some(0));
        assert_eq!((paced.turn(), paced.turn()), (None, None));
        paced.state.lock().last = None;
        assert_eq!(paced.turn(), Some(2));
        assert_eq!(paced.turn(), None);
    }
}
