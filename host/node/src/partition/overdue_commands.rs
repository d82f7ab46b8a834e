//! Reports commands that have been in flight for long: one line of the log for each of them, once a minute.
//!
//! ```text
//! WARN a command is in flight command=… for_s=75 waits_for="partition 2 to answer the undo, refused 9 times: …"
//! ```
//! In: the phase status table, on the leader. Out: lines for operators. This file changes nothing, and does not know
//! what an operator does about a command.

use std::time::Duration;

use crate::ids::Micros;
use crate::limits::{STUCK_LINES_MAX, STUCK_REPORT_EVERY};
use crate::partition::base::Base;
use crate::partition::leader::LeaderState;
use crate::partition::now::Now;
use crate::saga::{Saga, WaitsFor};

impl LeaderState {
    /// How long until the next report; `None` if nothing is in flight.
    pub(super) fn until_stuck_report(&self, base: &Base, now: &Now) -> Option<Duration> {
        let left = self.stuck_report_due(base)?.0.saturating_sub(base.present(now).0).max(0);
        Some(Duration::from_micros(left.unsigned_abs()))
    }

    fn stuck_report_due(&self, base: &Base) -> Option<Micros> {
        let every = i64::try_from(STUCK_REPORT_EVERY.as_micros()).expect("a minute fits");
        let oldest = base.table.under_way().1?;
        let next = self.coordinator.stuck_reported.map_or(i64::MIN, |reported| reported.0.saturating_add(every));
        Some(Micros(next.max(oldest.0.saturating_add(every))))
    }

    /// Reports the commands that have waited for long, if a report is due.
    pub(super) fn report_stuck(&mut self, base: &Base, now: Micros) {
        if self.stuck_report_due(base).is_none_or(|due| now < due) {
            return;
        }
        self.coordinator.stuck_reported = Some(now);
        let partition = base.partition;
        let (mut shown, mut hidden) = (0, 0);
        for saga in base.table.oldest() {
            let age = Duration::from_micros(now.0.saturating_sub(saga.started().0).max(0).unsigned_abs());
            if age < STUCK_REPORT_EVERY {
                break;
            }
            if STUCK_LINES_MAX <= shown {
                hidden += 1;
                continue;
            }
            shown += 1;
            let (command, for_s, waits_for) = (saga.command.id(), age.as_secs(), waits_text(saga));
            tracing::warn!(%partition, %command, for_s, waits_for, "a command is in flight");
        }
        if 0 < hidden {
            tracing::warn!(%partition, hidden, "more commands have been in flight for over a minute");
        }
    }
}

fn waits_text(saga: &Saga) -> String {
    let text = |waits: WaitsFor| {
        let what = waits.kind.name();
        let refused = match saga.last_refusal(waits.key) {
            Some(code) => format!(", refused {} times: {code}", waits.refused_count),
            None => String::new(),
        };
        format!("partition {} to answer the {what}{refused}", waits.partition)
    };
    saga.waits_for().into_iter().map(text).collect::<Vec<_>>().join("; ")
}
