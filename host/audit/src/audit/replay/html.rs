//! The report as one HTML page without external files: an auditor can file it, print it, and open it in twenty years.
//!
//! In: a report and its verdict. Out: HTML with its style and its charts inside, without scripts or external addresses,
//! and with no time but those of the history: the same report gives the same page. Everything from the history is
//! escaped, because a command's body may hold whatever a client sent. It does not know how the report was made.

mod chart;
mod difference;

use std::fmt::Write;

use crate::audit::replay::class::Class;
use crate::audit::replay::report::{ReplayVerdict, Report, RowDifferences};
use crate::audit::replay::request::ReplayMode;
use crate::ids::Micros;
use crate::printable::is_unseen;
use crate::rfc3339::print_time;

const STYLE: &str = "\
:root{color-scheme:light}body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;margin:2.5rem auto;\
max-width:72rem;padding:0 1.25rem;color:#1b1f24;background:#fff}h1{font-size:1.7rem;line-height:1.25;\
margin:.1rem 0 1rem}h2{font-size:1.2rem;margin:2.6rem 0 .8rem;padding-bottom:.3rem;border-bottom:2px solid #e3e7eb}\
h3{font-size:1rem;margin:1.6rem 0 .3rem}.over{font-size:.8rem;letter-spacing:.08em;text-transform:uppercase;\
color:#59626d;margin:0}table{border-collapse:collapse;margin:.6rem 0;width:100%}td,th{padding:.32rem .7rem;\
border:1px solid #dfe3e8;text-align:left;vertical-align:top}th{background:#f5f7f9;font-weight:600}\
table.facts th:first-child{width:11rem}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
td.w{white-space:nowrap}tr.none td{color:#8b949e}\
code,.m{font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}.m{overflow-wrap:anywhere}\
.verdict{padding:.8rem 1.1rem;border-radius:.4rem;border-left:.45rem solid;margin:0 0 1rem}.verdict b{display:block;\
font-size:1.05rem}.good{background:#e6f6ea;border-color:#2f9e62}.warn{background:#fdf3d8;border-color:#e0a100}\
.bad{background:#fce6e5;border-color:#d2473f}.cards{display:grid;\
grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.2rem 0}\
.cards div{border:1px solid #dfe3e8;border-radius:.4rem;padding:.6rem .9rem}.cards b{display:block;font-size:1.35rem;\
font-variant-numeric:tabular-nums}.cards span{color:#59626d;font-size:.85rem}.sides{display:grid;\
grid-template-columns:1fr 1fr;gap:1.2rem}.sides>div{min-width:0}.sides h4{margin:.4rem 0 .2rem;font-size:.92rem}\
.sides p{margin:.2rem 0 .5rem}small,.q{color:#59626d}del{background:#fbdcdc;text-decoration:none;border-radius:.2rem;\
padding:0 .2rem}ins{background:#d5f0dd;text-decoration:none;border-radius:.2rem;padding:0 .2rem}\
.bar{background:#eef1f4;height:.7rem;border-radius:.2rem;min-width:8rem}.bar i{display:block;height:100%;\
border-radius:.2rem}.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:.2rem 0 .6rem;font-size:.88rem}\
section.d{border:1px solid #dfe3e8;border-radius:.4rem;padding:.6rem 1rem .8rem;margin:1rem 0}\
section.d h3{margin-top:.2rem}svg text{font:12px system-ui,sans-serif;fill:#59626d}footer{margin-top:3rem;\
padding-top:.8rem;border-top:1px solid #e3e7eb;font-size:.88rem;color:#59626d}@media print{body{margin:0;\
max-width:none;font-size:11px}h2{break-after:avoid}section.d,tr,svg{break-inside:avoid}\
thead{display:table-header-group}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}\
@media(max-width:45rem){.sides{grid-template-columns:1fr}}";

/// Writes the page.
pub fn page(report: &Report, verdict: ReplayVerdict) -> String {
    let mut out = String::new();
    write_page(&mut out, report, verdict).expect("writing to memory cannot fail");
    out
}

fn write_page(out: &mut String, report: &Report, verdict: ReplayVerdict) -> std::fmt::Result {
    let title = format!("Replay of {} under {}", report.machine, report.candidate.text());
    write!(out, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>", escape(&title))?;
    write!(out, "<meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>")?;
    write!(out, "<p class=\"over\">Statehouse · replay of recorded history</p><h1>{}</h1>", escape(&title))?;
    write_verdict(out, report, verdict)?;
    write_cards(out, report)?;
    write_facts(out, report)?;
    write_classes(out, report)?;
    write!(out, "<h2>Outcomes over time</h2>{}", chart::timeline(&report.timeline, report.difference_count()))?;
    if !report.first.is_empty() {
        write!(out, "<h2>First difference of each class</h2>")?;
        report.first.iter().try_for_each(|first| difference::write(out, first))?;
    }
    if let Some(rows) = &report.rows {
        write_rows(out, rows)?;
    }
    write_list(out, report)?;
    write_coverage(out, report)?;
    write_partitions(out, report)?;
    write!(out, "<h2>What this report does not say</h2><ul>")?;
    report.notes.iter().try_for_each(|note| write!(out, "<li>{}</li>", escape(note)))?;
    write!(out, "</ul>")?;
    write_footer(out, report)
}

fn write_verdict(out: &mut String, report: &Report, verdict: ReplayVerdict) -> std::fmt::Result {
    let (tone, word) = match verdict {
        ReplayVerdict::Same => ("good", "Nothing differs"),
        ReplayVerdict::Approved => ("warn", "Only approved differences"),
        ReplayVerdict::Unapproved => ("bad", "Not approved"),
        ReplayVerdict::Inconclusive => ("bad", "Inconclusive"),
    };
    let differences = report.difference_count();
    let found = if differences == 0 {
        "every one of them came out as it was recorded".to_owned()
    } else {
        format!("{} came out differently", grouped(differences))
    };
    let (first, last) = span(report);
    write!(
        out,
        "<div class=\"verdict {tone}\"><b>{word}</b>{}</div><p>{} recorded decisions of {} partitions, from {first} to \
         {last}, were made again by <b>{}</b>: {found}.</p>",
        escape(verdict.text()),
        grouped(report.counts.decisions),
        report.partitions.len(),
        escape(&report.candidate.text())
    )
}

/// From the first slice that has a decision to the last entry.
fn span(report: &Report) -> (String, String) {
    let first = report.timeline.slices.keys().next().map(|at| at.saturating_mul(report.timeline.width));
    let last = report.partitions.iter().map(|covered| covered.time).max();
    let text = |time: Option<i64>| time.map_or_else(|| "–".to_owned(), |time| escape(&moment(time)));
    (text(first), text(last))
}

fn write_cards(out: &mut String, report: &Report) -> std::fmt::Result {
    let roots: u64 =
        report.classes.iter().filter(|(class, _)| **class != Class::Same).map(|(_, found)| found.root).sum();
    let mut cards = vec![
        (report.counts.decisions, "decisions made again"),
        (report.difference_count(), "differences"),
        (roots, "of them roots"),
        (report.counts.commands, "commands of clients"),
        (report.counts.calls, "calls between partitions"),
        (report.counts.events, "recorded events applied"),
    ];
    if let Some(rows) = &report.rows {
        cards.push((rows.count, "rows would differ today"));
    }
    write!(out, "<div class=\"cards\">")?;
    for (count, name) in cards {
        write!(out, "<div><b>{}</b><span>{name}</span></div>", grouped(count))?;
    }
    write!(out, "</div>")
}

fn write_facts(out: &mut String, report: &Report) -> std::fmt::Result {
    let deciders: Vec<String> = report.deciders.iter().map(|module| module.text()).collect();
    let mode = match report.mode {
        ReplayMode::Isolated => {
            "isolated: each decision is made on the rows that the recorded events gave, compared, and discarded"
        }
        ReplayMode::Cumulative => {
            "cumulative: the candidate lives with the consequences of its own decisions, in all partitions"
        }
    };
    let scope = if report.is_whole { "the whole history, all differences" } else { "a part: see the notes" };
    let module = |facts: &crate::audit::replay::report::ModuleFacts| {
        let name = format!("{} {}, schema {}", facts.name, facts.version, facts.schema);
        format!("{}<br><code>{}</code>", escape(&name), facts.id)
    };
    let facts = [
        ("Cluster", format!("<code>{}</code>", escape(&report.cluster))),
        ("Mode", mode.to_owned()),
        ("Scope", scope.to_owned()),
        ("Candidate", module(&report.candidate)),
        ("Active at the end", module(&report.current)),
        ("Decided by", escape(&deciders.join(", "))),
        ("Taken as facts", format!("{} rejections by the host itself", grouped(report.counts.facts))),
    ];
    write!(out, "<table class=\"facts\">")?;
    facts.iter().try_for_each(|(name, value)| write!(out, "<tr><th>{name}</th><td>{value}</td></tr>"))?;
    write!(out, "</table>")
}

fn meaning(class: Class) -> &'static str {
    match class {
        Class::Same => "the same events, or the same rejection",
        Class::PlanDiffers => "planned into other steps, or refused when planned",
        Class::ReasonDiffers => "rejected both times, for another reason or in other words",
        Class::EventsDiffer => "accepted both times, with other events",
        Class::AcceptedToRejected => "was accepted, would be rejected",
        Class::RejectedToAccepted => "was rejected, would be accepted",
        Class::Trap => "the candidate fails",
        Class::Budget => "the candidate uses up its budget",
        Class::RowsDiffer => "the same events make other rows",
        Class::HostDrift => "the recorded module decides otherwise here: the host differs, not the logic",
    }
}

fn write_classes(out: &mut String, report: &Report) -> std::fmt::Result {
    write!(
        out,
        "<h2>Outcomes by class</h2><table><thead><tr><th>class</th><th>meaning</th><th class=\"n\">count</th>"
    )?;
    write!(out, "<th class=\"n\">root</th><th class=\"n\">knock-on</th><th>share</th></tr></thead>")?;
    let most = report.classes.values().map(|found| found.count).max().unwrap_or(0).max(1);
    for class in Class::ALL {
        let found = report.classes.get(&class).copied().unwrap_or_default();
        let none = if found.count == 0 { " class=\"none\"" } else { "" };
        write!(out, "<tr{none}><td class=\"w\">{} {class}</td><td>{}</td>", chart::swatch(class), meaning(class))?;
        for count in [found.count, found.root, found.knock_on] {
            // Decisions that are the same have neither roots nor consequences.
            let is_meant = class != Class::Same || count == found.count;
            write!(out, "<td class=\"n\">{}</td>", if is_meant { grouped(count) } else { String::new() })?;
        }
        let share = if found.count == 0 { 0 } else { (found.count * 100 / most).max(1) };
        let colour = chart::colour(class);
        write!(out, "<td><div class=\"bar\"><i style=\"width:{share}%;background:{colour}\"></i></div></td></tr>")?;
    }
    write!(
        out,
        "</table><p><small>A root differs on its own; a knock-on follows from rows that an earlier difference has \
         changed.</small></p>"
    )
}

fn write_rows(out: &mut String, rows: &RowDifferences) -> std::fmt::Result {
    write!(out, "<h2>Rows that would differ today: {}</h2>", grouped(rows.count))?;
    if rows.numbers.is_empty() {
        let text = if rows.count == 0 { "Every row would be the same." } else { "No number in them differs." };
        return write!(out, "<p>{text}</p>");
    }
    write!(out, "{}", chart::numbers(&rows.numbers))?;
    write!(
        out,
        "<table><thead><tr><th>entity</th><th>number</th><th class=\"n\">recorded</th><th class=\"n\">candidate</th>"
    )?;
    write!(out, "<th class=\"n\">difference</th></tr></thead>")?;
    for number in &rows.numbers {
        write!(out, "<tr><td>{}</td><td>{}</td>", escape(&number.entity), escape(&number.path))?;
        for value in [&number.recorded, &number.candidate, &number.difference] {
            write!(out, "<td class=\"n\">{}</td>", escape(value))?;
        }
        write!(out, "</tr>")?;
    }
    write!(out, "</table>")
}

fn write_list(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.differences.is_empty() {
        return Ok(());
    }
    let (listed, count) = (report.differences.len(), report.difference_count());
    let which =
        if listed as u64 == count { "all".to_owned() } else { format!("the first {} of", grouped(listed as u64)) };
    write!(out, "<h2>Differences in the order of time: {which} {}</h2>", grouped(count))?;
    write!(
        out,
        "<table><thead><tr><th>time and position</th><th>class</th><th>command</th><th>recorded</th>\
         <th>candidate</th></tr></thead>"
    )?;
    for brief in &report.differences {
        let knock_on = if brief.is_root { "" } else { "<br><small>knock-on</small>" };
        write!(
            out,
            "<tr><td class=\"w\">{}<br><code>{}</code></td><td class=\"w\">{} {}{knock_on}</td>",
            escape(&moment(brief.time)),
            escape(&brief.position),
            chart::swatch(brief.class),
            brief.class
        )?;
        write!(
            out,
            "<td>{} <small>{}</small><br><code>{}</code></td><td>{}</td><td>{}</td></tr>",
            escape(&brief.command),
            escape(&brief.part),
            escape(&brief.id),
            escape(&brief.recorded_outcome),
            escape(&brief.candidate_outcome)
        )?;
    }
    write!(out, "</table>")
}

fn write_coverage(out: &mut String, report: &Report) -> std::fmt::Result {
    let coverage = &report.coverage;
    write!(out, "<h2>What the history exercised</h2><table class=\"facts\"><thead><tr><th></th><th>seen</th>")?;
    write!(out, "<th>never: nothing is known of these</th></tr></thead>")?;
    let rows = [
        ("commands", &coverage.commands, &coverage.commands_never),
        ("rejections", &coverage.rejections, &coverage.rejections_never),
        ("events", &coverage.events, &coverage.events_never),
    ];
    for (name, seen, never) in rows {
        let seen: Vec<String> = seen.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
        let (seen, never) = (escape(&seen.join(" · ")), escape(&never.join(" · ")));
        write!(out, "<tr><th>{name}</th><td>{seen}</td><td class=\"q\">{never}</td></tr>")?;
    }
    write!(out, "</table>")
}

fn write_partitions(out: &mut String, report: &Report) -> std::fmt::Result {
    write!(
        out,
        "<h2>What was covered</h2><table><thead><tr><th class=\"n\">partition</th><th class=\"n\">entries</th>"
    )?;
    write!(out, "<th class=\"n\">decided from</th><th>up to</th><th>head of the journal there</th></tr></thead>")?;
    for covered in &report.partitions {
        write!(out, "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td>", covered.partition, grouped(covered.entries))?;
        write!(out, "<td class=\"n\">{}</td>", grouped(covered.first_index))?;
        write!(
            out,
            "<td class=\"w\">{}<br><code>{}</code></td><td class=\"m\">{}</td></tr>",
            escape(&moment(covered.time)),
            escape(&covered.position),
            escape(&covered.head)
        )?;
    }
    write!(out, "</table>")
}

fn write_footer(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        out,
        "<footer>Anybody who has the journals can make this report again: <code>statehouse audit replay --candidate \
         {} --mode {}</code> on the folder of any node, or on an export by <code>statehouse audit log \
         --export</code>. The heads above show whether the journals are the recorded ones: compare them with those \
         of a certificate, or of another node. Report format {}, host {}.</footer></body></html>",
        report.candidate.id,
        report.mode.name(),
        report.format,
        env!("CARGO_PKG_VERSION")
    )
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if 0 < at && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A time in a form that people read easily.
fn moment(micros: i64) -> String {
    print_time(Micros(micros)).replace('T', " ").replace('Z', " UTC")
}

/// Escapes text for HTML, including attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter if is_unseen(letter) && !letter.is_ascii_whitespace() => out.extend(letter.escape_default()),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{escape, grouped, moment};

    #[test]
    fn numbers_and_times_are_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(moment(1_772_600_767_000_001), "2026-03-04 05:06:07.000001 UTC");
        assert_eq!(escape("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
