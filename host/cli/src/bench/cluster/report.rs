//! The figures of `bench cluster`: filled in as they are measured, printed as tables for people and as JSON for
//! programs.
//!
//! In: figures. Out: text, beside the fixed figures of other systems. What was not measured is left out. It measures
//! nothing.

use std::fmt::Write;

use serde::Serialize;

use super::failover::{CLIENTS, Silences};
use crate::bench::load::Rate;
use crate::bench::spread::LatencySpread;
use crate::output::table;

/// Measured once, with 2 cores shared by clients and nodes, and never again by this program.
const OTHERS: &str = "on a comparable machine, 2 cores for nodes and clients together:
  batches: TigerBeetle, three replicas, 10 k accounts: 174,000/s, p50 40 ms
  one per request: PostgreSQL 15 (function), a single node: 8,000/s, p50 2.0 ms at 16 clients; \
    11,600/s, p50 5.5 ms at 64
  aims: twice TigerBeetle; four times PostgreSQL; p99 below 1,000 ms without an answer when the leader is killed
";

#[derive(Default, Serialize)]
pub struct BenchReport {
    pub partitions: u32,
    /// How many of a hundred transfers are between two of them, and by which protocol.
    pub cross: u32,
    pub tcc: bool,
    pub rates: Vec<RateRow>,
    pub idle: Option<IdleFigures>,
    pub failover: Option<Silences>,
    pub rolling_restart: Option<Silences>,
    /// The machine's load over the last minute, at the start and at the end: it shows whether other programs worked
    /// too.
    pub load_average: [Option<f64>; 2],
}

#[derive(Serialize)]
pub struct RateRow {
    pub work: &'static str,
    pub accounts: u32,
    pub clients: u32,
    pub transfers_per_second: f64,
    pub spread: LatencySpread,
    /// What leaders have sent to the two other nodes together.
    pub append_bytes_per_transfer: f64,
}

impl RateRow {
    pub fn new(work: &'static str, accounts: u32, clients: u32, rate: Rate, append_bytes: u64) -> Self {
        Self {
            work,
            accounts,
            clients,
            transfers_per_second: rate.transfers_per_second(),
            append_bytes_per_transfer: append_bytes as f64 / rate.transfers.max(1) as f64,
            spread: rate.spread,
        }
    }
}

#[derive(Serialize)]
pub struct IdleFigures {
    pub partitions: u32,
    /// Percent of one core, for each node.
    pub percent: Vec<f64>,
}

impl BenchReport {
    pub fn text(&self) -> String {
        let headings =
            ["what", "accounts", "clients", "transfers/s", "ms p50", "ms p99", "ms max", "bytes sent/transfer"];
        let mut rates = table(&headings);
        for row in &self.rates {
            rates.add_row([
                row.work.to_owned(),
                row.accounts.to_string(),
                row.clients.to_string(),
                format!("{:.0}", row.transfers_per_second),
                format!("{:.2}", row.spread.ms_p50),
                format!("{:.2}", row.spread.ms_p99),
                format!("{:.2}", row.spread.ms_max),
                format!("{:.0}", row.append_bytes_per_transfer),
            ]);
        }
        let mut silences = table(&[
            "nobody's transfer succeeded for",
            "times",
            "ms p50",
            "ms p90",
            "ms p99",
            "ms max",
            "transfers",
            "sent again",
        ]);
        for (what, felt) in [("a killed leader", &self.failover), ("a node restarted", &self.rolling_restart)] {
            let Some(Silences { longest, transfers, sent_again }) = felt else { continue };
            silences.add_row([
                what.to_owned(),
                longest.count.to_string(),
                format!("{:.0}", longest.ms_p50),
                format!("{:.0}", longest.ms_p90),
                format!("{:.0}", longest.ms_p99),
                format!("{:.0}", longest.ms_max),
                transfers.to_string(),
                sent_again.to_string(),
            ]);
        }
        let (partitions, cross) = (self.partitions, self.cross);
        let protocol = if self.tcc { "Try-Confirm/Cancel" } else { "Saga" };
        let mut text = format!(
            "three nodes on this machine; partitions of the wallet: {partitions}; between two of them: {cross} % by \
             {protocol}\n{rates}\n{silences}\n"
        );
        writeln!(text, "the longest of each time, with {CLIENTS} clients at work").expect("a text takes everything");
        if let Some(IdleFigures { partitions, percent }) = &self.idle {
            let each: Vec<_> = percent.iter().map(|percent| format!("{percent:.1} %")).collect();
            let each = each.join(", ");
            writeln!(text, "idle with {partitions} partitions, of one core: {each}").expect("a text takes everything");
        }
        let [start, end] =
            self.load_average.map(|load| load.map_or_else(|| "–".to_owned(), |load| format!("{load:.1}")));
        writeln!(text, "load of the machine: {start} at the start, {end} at the end").expect("a text takes everything");
        text + OTHERS
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;

    use super::*;

    #[test]
    fn a_report_says_what_was_measured_and_what_others_do() {
        let spread = LatencySpread { count: 2, ms_p50: 1.5, ms_p90: 9.0, ms_p99: 9.25, ms_max: 10.0 };
        let rate = Rate { transfers: 1000, seconds: 2.0, spread: spread.clone() };
        let longest = LatencySpread::of(vec![Duration::from_millis(300), Duration::from_millis(500)]);
        let report = BenchReport {
            partitions: 1,
            cross: 0,
            tcc: false,
            rates: vec![RateRow::new("one per request", 10_000, 16, rate, 123_000)],
            idle: Some(IdleFigures { partitions: 16, percent: vec![1.25, 2.0] }),
            failover: Some(Silences { longest, transfers: 7, sent_again: 3 }),
            rolling_restart: None,
            load_average: [Some(0.5), None],
        };
        expect![[r#"
            three nodes on this machine; partitions of the wallet: 1; between two of them: 0 % by Saga
            ┌─────────────────────────────────────────────────────────────────────────────────────────────────────┐
            │ what              accounts   clients   transfers/s   ms p50   ms p99   ms max   bytes sent/transfer │
            ╞═════════════════════════════════════════════════════════════════════════════════════════════════════╡
            │ one per request   10000      16        500           1.50     9.25     10.00    123                 │
            └─────────────────────────────────────────────────────────────────────────────────────────────────────┘
            ┌──────────────────────────────────────────────────────────────────────────────────────────────────────┐
            │ nobody's transfer succeeded for   times   ms p50   ms p90   ms p99   ms max   transfers   sent again │
            ╞══════════════════════════════════════════════════════════════════════════════════════════════════════╡
            │ a killed leader                   2       300      500      500      500      7           3          │
            └──────────────────────────────────────────────────────────────────────────────────────────────────────┘
            the longest of each time, with 16 clients at work
            idle with 16 partitions, of one core: 1.2 %, 2.0 %
            load of the machine: 0.5 at the start, – at the end
            on a comparable machine, 2 cores for nodes and clients together:
              batches: TigerBeetle, three replicas, 10 k accounts: 174,000/s, p50 40 ms
              one per request: PostgreSQL 15 (function), a single node: 8,000/s, p50 2.0 ms at 16 clients; 11,600/s, p50 5.5 ms at 64
              aims: twice TigerBeetle; four times PostgreSQL; p99 below 1,000 ms without an answer when the leader is killed
        "#]]
        .assert_eq(&report.text());
    }
}
