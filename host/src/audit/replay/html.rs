//! The report as one HTML page that needs nothing else: an auditor can file it, and open it in twenty years.
//!
//! In: a report and its verdict. Out: HTML with its style and its charts inside, no script, no address of anything outside. Everything from
//! the history is escaped: a command's body may hold whatever a client sent.

mod chart;

use std::fmt::Write;

use serde_json::Value as Json;

use crate::audit::replay::class::Class;
use crate::audit::replay::render::time_text;
use crate::audit::replay::report::{Difference, Report, RowDifferences, Side, Verdict};
use crate::ids::Micros;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #d5d9de}h3{font-size:1rem;margin-bottom:.3rem}\
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.25rem .7rem;border:1px solid #d5d9de;text-align:left;vertical-align:top}\
td.n{text-align:right;font-variant-numeric:tabular-nums}code,pre{font:12.5px/1.4 ui-monospace,monospace}pre{white-space:pre-wrap;\
overflow-wrap:anywhere;margin:0}.verdict{padding:.7rem 1rem;border-radius:.4rem;font-weight:600}.good{background:#d9f2e0}\
.warn{background:#fdf0cf}.bad{background:#fbdcdc}.sides{display:grid;grid-template-columns:1fr 1fr;gap:1rem}small{color:#59626d}\
svg text{font:11px system-ui,sans-serif;fill:#59626d}@media print{body{margin:0;max-width:none}}";

/// Writes the page.
pub fn page(report: &Report, verdict: Verdict) -> String {
    let mut out = String::new();
    write_page(&mut out, report, verdict).expect("writing to memory cannot fail");
    out
}

fn write_page(out: &mut String, report: &Report, verdict: Verdict) -> std::fmt::Result {
    let title = format!("Replay of {} under {}", report.machine, report.candidate.text());
    write!(out, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>", escape(&title))?;
    write!(out, "<style>{STYLE}</style></head><body><h1>{}</h1>", escape(&title))?;
    let tone = match verdict {
        Verdict::Same => "good",
        Verdict::Approved => "warn",
        Verdict::Unapproved | Verdict::Inconclusive => "bad",
    };
    write!(out, "<p class=\"verdict {tone}\">{}</p>", escape(verdict.text()))?;
    write_facts(out, report)?;
    write_classes(out, report)?;
    write!(out, "<h2>Outcomes over time</h2>{}", chart::timeline(&report.timeline))?;
    if !report.first.is_empty() {
        write!(out, "<h2>First difference of each class</h2>")?;
        report.first.iter().try_for_each(|difference| write_difference(out, difference))?;
    }
    if let Some(rows) = &report.rows {
        write_rows(out, rows)?;
    }
    write_list(out, report)?;
    write_coverage(out, report)?;
    write_partitions(out, report)?;
    write!(out, "<h2>Notes</h2><ul>")?;
    report.notes.iter().try_for_each(|note| write!(out, "<li>{}</li>", escape(note)))?;
    writeln!(out, "</ul></body></html>")
}

fn write_facts(out: &mut String, report: &Report) -> std::fmt::Result {
    let deciders: Vec<String> = report.deciders.iter().map(|module| module.text()).collect();
    let counts = &report.counts;
    let decisions = format!(
        "{} decided again: {} commands and {} calls between partitions; {} recorded events applied; {} rejections of the host taken as facts",
        counts.decisions, counts.commands, counts.calls, counts.events, counts.facts
    );
    let facts = [
        ("Cluster", report.cluster.clone()),
        ("Mode", report.mode.name().to_owned()),
        (
            "Candidate",
            format!("{}, schema {}, {}", report.candidate.text(), report.candidate.schema, report.candidate.id),
        ),
        (
            "Active at the end",
            format!("{}, schema {}, {}", report.current.text(), report.current.schema, report.current.id),
        ),
        ("Decided by", deciders.join(", ")),
        ("Replayed", decisions),
    ];
    write!(out, "<table>")?;
    for (name, value) in facts {
        write!(out, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value))?;
    }
    write!(out, "</table>")
}

fn write_classes(out: &mut String, report: &Report) -> std::fmt::Result {
    write!(
        out,
        "<h2>Outcomes by class</h2><table><tr><th></th><th>class</th><th>count</th><th>root</th><th>knock-on</th></tr>"
    )?;
    for class in Class::ALL {
        let found = report.classes.get(&class).copied().unwrap_or_default();
        write!(out, "<tr><td>{}</td><td>{class}</td><td class=\"n\">{}</td>", chart::swatch(class), found.count)?;
        write!(out, "<td class=\"n\">{}</td><td class=\"n\">{}</td></tr>", found.root, found.knock_on)?;
    }
    write!(
        out,
        "</table><p><small>A root differs by itself; a knock-on follows from rows that an earlier difference changed.</small></p>"
    )
}

fn write_difference(out: &mut String, difference: &Difference) -> std::fmt::Result {
    let brief = &difference.brief;
    write!(
        out,
        "<h3>{} {}</h3><p><code>{}</code> at {} ({}): <b>{}</b> {} by {}, {}</p><pre>{}</pre>",
        chart::swatch(brief.class),
        brief.class,
        escape(&brief.position),
        escape(&difference.at),
        if brief.is_root { "root" } else { "knock-on" },
        escape(&brief.command),
        escape(&brief.id),
        escape(&difference.caller),
        escape(&brief.part),
        json(&difference.body)
    )?;
    write!(out, "<div class=\"sides\">")?;
    write_side(out, "Recorded", &difference.recorded)?;
    write_side(out, "Candidate", &difference.candidate)?;
    write!(out, "</div>")
}

fn write_side(out: &mut String, name: &str, side: &Side) -> std::fmt::Result {
    write!(out, "<div><h3>{name}: {}</h3><p><b>{}</b>", escape(&side.module.text()), side.outcome)?;
    if let Some(code) = &side.code {
        write!(out, " <code>{}</code>", escape(code))?;
    }
    if let Some(detail) = &side.detail {
        write!(out, ": {}", escape(detail))?;
    }
    write!(out, "</p>")?;
    if let Some(panic) = &side.panic {
        write!(out, "<pre>{}\n{}</pre>", escape(panic), escape(&side.backtrace.join("\n")))?;
    }
    if !side.events.is_empty() {
        write!(out, "<table><tr><th>event</th></tr>")?;
        side.events.iter().try_for_each(|event| write!(out, "<tr><td><pre>{}</pre></td></tr>", json(event)))?;
        write!(out, "</table>")?;
    }
    if !side.rows.is_empty() {
        write!(out, "<table><tr><th>row</th><th>before</th><th>after</th></tr>")?;
        for row in &side.rows {
            let after = if row.before == row.after { "<small>the same</small>".to_owned() } else { pre(&row.after) };
            let name = format!("{} {}", row.entity, row.key);
            write!(out, "<tr><td>{}</td><td>{}</td><td>{after}</td></tr>", escape(&name), pre(&row.before))?;
        }
        write!(out, "</table>")?;
    }
    write!(out, "</div>")
}

fn write_rows(out: &mut String, rows: &RowDifferences) -> std::fmt::Result {
    write!(out, "<h2>Rows that would differ today: {}</h2>", rows.count)?;
    if rows.numbers.is_empty() {
        return Ok(());
    }
    write!(out, "{}", chart::numbers(&rows.numbers))?;
    write!(
        out,
        "<table><tr><th>entity</th><th>number</th><th>recorded</th><th>candidate</th><th>difference</th></tr>"
    )?;
    for number in &rows.numbers {
        write!(out, "<tr><td>{}</td><td>{}</td>", escape(&number.entity), escape(&number.path))?;
        write!(out, "<td class=\"n\">{}</td><td class=\"n\">{}</td>", number.recorded, number.candidate)?;
        write!(out, "<td class=\"n\">{}</td></tr>", number.difference)?;
    }
    write!(out, "</table>")
}

fn write_list(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.differences.is_empty() {
        return Ok(());
    }
    let (listed, count) = (report.differences.len(), report.difference_count());
    write!(
        out,
        "<h2>Differences, the first {listed} of {count}</h2><table><tr><th>time</th><th>position</th><th>class</th>"
    )?;
    write!(out, "<th>command</th><th>id</th><th>part</th><th>recorded</th><th>candidate</th></tr>")?;
    for brief in &report.differences {
        let cells = [
            time_text(Micros(brief.time)),
            brief.position.clone(),
            format!("{}{}", brief.class, if brief.is_root { "" } else { " (knock-on)" }),
            brief.command.clone(),
            brief.id.clone(),
            brief.part.clone(),
            brief.recorded_outcome.clone(),
            brief.candidate_outcome.clone(),
        ];
        write!(out, "<tr>")?;
        cells.iter().try_for_each(|cell| write!(out, "<td>{}</td>", escape(cell)))?;
        write!(out, "</tr>")?;
    }
    write!(out, "</table>")
}

fn write_coverage(out: &mut String, report: &Report) -> std::fmt::Result {
    let coverage = &report.coverage;
    write!(out, "<h2>What the history exercised</h2><table><tr><th></th><th>seen</th><th>never</th></tr>")?;
    let rows = [
        ("commands", &coverage.commands, &coverage.commands_never),
        ("rejections", &coverage.rejections, &coverage.rejections_never),
        ("events", &coverage.events, &coverage.events_never),
    ];
    for (name, seen, never) in rows {
        let seen: Vec<String> = seen.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        let (seen, never) = (escape(&seen.join(", ")), escape(&never.join(", ")));
        write!(out, "<tr><th>{name}</th><td>{seen}</td><td>{never}</td></tr>")?;
    }
    write!(out, "</table>")
}

fn write_partitions(out: &mut String, report: &Report) -> std::fmt::Result {
    write!(out, "<h2>Partitions</h2><table><tr><th>partition</th><th>entries</th><th>decided from</th><th>up to</th>")?;
    write!(out, "<th>time</th><th>head</th></tr>")?;
    for covered in &report.partitions {
        write!(out, "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td>", covered.partition, covered.entries)?;
        write!(out, "<td class=\"n\">{}</td><td><code>{}</code></td>", covered.first_index, escape(&covered.position))?;
        write!(
            out,
            "<td>{}</td><td><code>{}</code></td></tr>",
            time_text(Micros(covered.time)),
            escape(&covered.head)
        )?;
    }
    write!(out, "</table>")
}

fn pre(value: &Json) -> String {
    format!("<pre>{}</pre>", json(value))
}

fn json(value: &Json) -> String {
    escape(&value.to_string())
}

/// Text as it may stand in HTML, in attributes as well.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}
