//! The page of a replay on the terminal.
//!
//! In: a report. Out: text. The meaning of the report is described in `audit/replay/report.rs`; this file does not know
//! it.

use std::fmt::Write;
use std::time::Duration;

use crate::audit::replay::explain::Explanation;
use crate::audit::replay::report::{Difference, Side};
use crate::audit::replay::{Class, ReplayVerdict, Report};
use crate::cli::output::table;
use crate::ids::Micros;
use crate::rfc3339::print_time;

/// How many differing numbers fit a page.
const NUMBERS_SHOWN: usize = 20;

pub fn report_page(report: &Report, verdict: ReplayVerdict, took: Duration) -> String {
    let counts = &report.counts;
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut out = format!(
        "replay of {} under {}, {}\n  active at the end: {}\n  {} decisions ({} commands, {} calls) and {} events in \
         {}.{:03} s: {} decisions/s\n",
        report.machine,
        report.candidate.text(),
        report.mode.name(),
        report.current.text(),
        counts.decisions,
        counts.commands,
        counts.calls,
        counts.events,
        millis / 1000,
        millis % 1000,
        counts.decisions.saturating_mul(1000) / millis
    );
    let mut classes = table(&["class", "count", "root", "knock-on"]);
    for class in Class::ALL {
        let Some(found) = report.classes.get(&class) else { continue };
        classes.add_row([
            class.to_string(),
            found.count.to_string(),
            found.root.to_string(),
            found.knock_on.to_string(),
        ]);
    }
    let mut partitions = table(&["partition", "entries", "decided from", "up to", "time"]);
    for covered in &report.partitions {
        partitions.add_row([
            covered.partition.to_string(),
            covered.entries.to_string(),
            covered.first_index.to_string(),
            covered.position.clone(),
            print_time(Micros(covered.time)),
        ]);
    }
    push(&mut out, format_args!("{classes}\n{partitions}\n"));
    for difference in &report.first {
        push(&mut out, format_args!("\nfirst {}\n{}", difference.brief.class, difference_text(difference)));
    }
    rows(&mut out, report);
    coverage(&mut out, report);
    for note in &report.notes {
        push(&mut out, format_args!("note: {note}\n"));
    }
    push(&mut out, format_args!("{}\n", verdict.text()));
    out
}

/// The life of one command: the record, the same module now, and the candidate.
pub fn explanation_page(explanation: &Explanation) -> String {
    let mut out = format!("{}\n{}", explanation.difference.brief.class, difference_text(&explanation.difference));
    side_text(&mut out, "decided again by the recorded module", &explanation.control);
    out
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory cannot fail");
}

fn difference_text(difference: &Difference) -> String {
    let brief = &difference.brief;
    let mut out = format!(
        "  {} {}  {} {} ({}) by {}\n  body {}\n",
        brief.position, difference.at, brief.command, brief.id, brief.part, difference.caller, difference.body
    );
    side_text(&mut out, "recorded", &difference.recorded);
    side_text(&mut out, "candidate", &difference.candidate);
    out
}

fn side_text(out: &mut String, name: &str, side: &Side) {
    push(out, format_args!("  {name}, {}: {}", side.module.text(), side.outcome));
    for text in [&side.code, &side.detail].into_iter().flatten() {
        push(out, format_args!(" – {text}"));
    }
    push(out, format_args!("\n"));
    if let Some(panic) = &side.panic {
        push(out, format_args!("    panic  {panic}\n"));
    }
    side.backtrace.iter().for_each(|frame| push(out, format_args!("           {frame}\n")));
    for op in &side.ops {
        push(out, format_args!("    op     {} {} {}\n", op.role, op.entity, op.bytes));
    }
    side.events.iter().for_each(|event| push(out, format_args!("    event  {event}\n")));
    for row in &side.rows {
        let arrow = if row.before == row.after { String::new() } else { format!(" → {}", row.after) };
        push(out, format_args!("    row    {} {} {}{arrow}\n", row.entity, row.key, row.before));
    }
}

fn rows(out: &mut String, report: &Report) {
    let Some(rows) = &report.rows else { return };
    push(out, format_args!("\nrows that would differ at the end: {}\n", rows.count));
    if rows.numbers.is_empty() {
        return;
    }
    let mut numbers = table(&["entity", "number", "recorded", "candidate", "difference"]);
    for number in rows.numbers.iter().take(NUMBERS_SHOWN) {
        numbers.add_row([&number.entity, &number.path, &number.recorded, &number.candidate, &number.difference]);
    }
    push(out, format_args!("{numbers}\n"));
}

fn coverage(out: &mut String, report: &Report) {
    let coverage = &report.coverage;
    let lines = [
        ("commands", &coverage.commands, &coverage.commands_never),
        ("rejections", &coverage.rejections, &coverage.rejections_never),
        ("events", &coverage.events, &coverage.events_never),
    ];
    push(out, format_args!("\n"));
    for (name, seen, never) in lines {
        let seen: Vec<String> = seen.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
        push(out, format_args!("{name} exercised: {seen}\n"));
        if !never.is_empty() {
            push(out, format_args!("{name} never: {}\n", never.join(", ")));
        }
    }
}
