//! One difference in full: what was asked, and both sides beside each other, with the changes in the rows marked.
//!
//! In: a difference whose parts are rendered by their modules. Out: HTML. It does not know what the members of a row
//! mean.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value as Json;

use super::{chart, escape};
use crate::audit::replay::report::{Difference, RowChange, Side};

pub fn write(out: &mut String, difference: &Difference) -> std::fmt::Result {
    let brief = &difference.brief;
    let kind = if brief.is_root { "differs on its own" } else { "follows from an earlier difference" };
    write!(
        out,
        "<section class=\"d\"><h3>{} {} <small>{kind}</small></h3><p><b>{}</b> <code>{}</code> ({}) by {}, at {} \
         <code>{}</code></p>",
        chart::swatch(brief.class),
        brief.class,
        escape(&brief.command),
        escape(&brief.id),
        escape(&brief.part),
        escape(&difference.caller),
        escape(&super::moment(brief.time)),
        escape(&brief.position)
    )?;
    write!(out, "<p class=\"m\">{}</p><div class=\"sides\">", members(&difference.body))?;
    write_side(out, "Recorded", &difference.recorded)?;
    write_side(out, "Candidate", &difference.candidate)?;
    write!(out, "</div></section>")
}

fn write_side(out: &mut String, name: &str, side: &Side) -> std::fmt::Result {
    write!(out, "<div><h4>{name} <small>{}</small></h4><p><b>{}</b>", escape(&side.module.text()), side.outcome)?;
    if let Some(code) = &side.code {
        write!(out, " <code>{}</code>", escape(code))?;
    }
    if let Some(detail) = &side.detail {
        write!(out, ": {}", escape(detail))?;
    }
    write!(out, "</p>")?;
    if let Some(panic) = &side.panic {
        write!(out, "<p class=\"m\">{}", escape(panic))?;
        side.backtrace.iter().try_for_each(|frame| write!(out, "<br>{}", escape(frame)))?;
        write!(out, "</p>")?;
    }
    if !side.events.is_empty() {
        write!(out, "<table><tr><th>events</th></tr>")?;
        side.events.iter().try_for_each(|event| write!(out, "<tr><td class=\"m\">{}</td></tr>", members(event)))?;
        write!(out, "</table>")?;
    }
    if !side.rows.is_empty() {
        write!(out, "<table><tr><th>row</th><th>before and after</th></tr>")?;
        side.rows.iter().try_for_each(|row| write_row(out, row))?;
        write!(out, "</table>")?;
    }
    write!(out, "</div>")
}

fn write_row(out: &mut String, row: &RowChange) -> std::fmt::Result {
    write!(out, "<tr><td>{} <small>{}</small></td><td class=\"m\">", escape(&row.entity), escape(&row.key))?;
    let (before, after) = (flat(&row.before), flat(&row.after));
    if before.is_empty() && after.is_empty() {
        write!(out, "<span class=\"q\">no row</span>")?;
    }
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    for (at, path) in paths.into_iter().enumerate() {
        let line = if at == 0 { "" } else { "<br>" };
        let name = if path.is_empty() { String::new() } else { format!("{}: ", escape(path)) };
        match (before.get(path), after.get(path)) {
            (Some(before), Some(after)) if before == after => {
                write!(out, "{line}<span class=\"q\">{name}{}</span>", escape(after))?;
            }
            (before, after) => {
                write!(out, "{line}{name}")?;
                before.iter().try_for_each(|text| write!(out, "<del>{}</del> ", escape(text)))?;
                after.iter().try_for_each(|text| write!(out, "<ins>{}</ins>", escape(text)))?;
            }
        }
    }
    write!(out, "</td></tr>")
}

/// The members of a value, on one line.
fn members(value: &Json) -> String {
    let parts: Vec<String> = flat(value)
        .into_iter()
        .map(|(path, text)| {
            let name =
                if path.is_empty() { String::new() } else { format!("<span class=\"q\">{}</span> ", escape(&path)) };
            format!("{name}{}", escape(&text))
        })
        .collect();
    parts.join(" · ")
}

/// Every plain value in it, by its path.
fn flat(value: &Json) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    flatten("", value, &mut found);
    found
}

fn flatten(path: &str, value: &Json, found: &mut BTreeMap<String, String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Json::Null if path.is_empty() => {}
        Json::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| flatten(&below(name), value, found));
        }
        Json::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(at, value)| flatten(&below(&at.to_string()), value, found));
        }
        Json::String(text) => drop(found.insert(path.to_owned(), text.clone())),
        other => drop(found.insert(path.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{members, write_row};
    use crate::audit::replay::report::RowChange;

    #[test]
    fn what_changes_in_a_row_is_marked_and_all_of_it_is_escaped() {
        let (before, after) = (json!({"a": {"b": 1}, "c": "<x>"}), json!({"a": {"b": 2}, "c": "<x>"}));
        let mut out = String::new();
        let row = RowChange { entity: "<e>".to_owned(), key: "k".to_owned(), before, after };
        write_row(&mut out, &row).expect("writing to memory cannot fail");
        let expected = "<tr><td>&lt;e&gt; <small>k</small></td><td class=\"m\">a.b: <del>1</del> <ins>2</ins><br>\
                        <span class=\"q\">c: &lt;x&gt;</span></td></tr>";
        assert_eq!(out, expected);
        assert_eq!(
            members(&json!({"<": [true, null]})),
            "<span class=\"q\">&lt;.0</span> true · <span class=\"q\">&lt;.1</span> null"
        );
        assert_eq!(members(&json!(null)), "");
    }
}
