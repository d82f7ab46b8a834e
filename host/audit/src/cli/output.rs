//! Tables for people, JSON for programs, and a progress bar for anything that takes longer than a second.
//!
//! In: text and values. Out: lines on stdout and stderr. It does not know which command prints.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;
use statehouse_abi::value::Value;

use crate::json::Json;
use crate::printable;

/// A table with these headings.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(headings);
    table
}

/// Columns of a line of prose in a terminal.
const PROSE_WIDTH: usize = 100;

/// Prose as a paragraph for a terminal, whose lines after the first are indented.
pub fn paragraph(text: &str) -> String {
    wrap(text, PROSE_WIDTH, "", "  ") + "\n"
}

/// Breaks prose into lines of at most `width` columns, but never within a word or a piece of code. The first line
/// begins with `first`, all others with `others`.
pub fn wrap(text: &str, width: usize, first: &str, others: &str) -> String {
    let (mut lines, mut line, mut is_empty) = (Vec::new(), first.to_owned(), true);
    for word in unbreakable(text) {
        let fits = line.chars().count() + 1 + word.chars().count() <= width;
        if is_empty {
            line += &word;
        } else if fits {
            line = line + " " + &word;
        } else {
            lines.push(std::mem::replace(&mut line, format!("{others}{word}")));
        }
        is_empty = false;
    }
    lines.push(line);
    lines.join("\n")
}

/// Splits text into words; a piece of code is one word. A backtick that nothing closes begins no code: the text may be
/// anybody's.
fn unbreakable(text: &str) -> Vec<String> {
    let mut rest: Vec<&str> = text.split_whitespace().rev().collect();
    let mut words = Vec::new();
    while let Some(word) = rest.pop() {
        let toggles = |word: &&str| !word.matches('`').count().is_multiple_of(2);
        let end = toggles(&word).then(|| rest.iter().rev().position(toggles)).flatten();
        let code = rest.split_off(rest.len() - end.map_or(0, |end| end + 1));
        words.push([word].into_iter().chain(code.into_iter().rev()).collect::<Vec<_>>().join(" "));
    }
    words
}

/// Prints to stdout. Text from a module, a history or a node cannot steer a terminal. If the reader has gone, as with
/// `head`, that is not an error.
pub fn print(text: &str) -> std::io::Result<()> {
    write(&printable::lines(text))
}

/// The same on stderr, for one line or several. If stderr cannot be written, there is nobody to tell.
pub fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "{}", printable::lines(text)));
}

fn write(text: &str) -> std::io::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(print_json_text(&text)?)
}

/// Prints JSON that is text already.
pub fn print_json_text(text: &str) -> std::io::Result<()> {
    write(&printable::json(text))
}

/// A value as JSON.
pub fn to_json(value: &Value) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::to_value(Json(value))?)
}

/// A spinner with a rate on stderr; it only shows on a terminal.
pub fn progress(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}: {human_pos} ({per_sec}) {elapsed}");
    bar.set_style(style.expect("the template is a constant"));
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A bar of bytes on stderr, with the rate of what is counted and the time left; it only shows on a terminal.
pub fn bar(what: &'static str, counted: Arc<AtomicU64>) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let rate = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let count = counted.load(Ordering::Relaxed);
        let millis = u64::try_from(state.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        write!(out, "{count} {what}, {}/s", count.saturating_mul(1000) / millis)
            .expect("a line in memory takes all text");
    };
    let style = ProgressStyle::with_template("{wide_bar} {percent}% {rate}, {eta} left");
    bar.set_style(style.expect("the template is a constant").with_key("rate", rate));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_broken_between_words_and_not_in_code() {
        let check = |text: &str, expected: &str| assert_eq!(wrap(text, 12, "- ", "  "), expected);
        check("", "- ");
        check("one two", "- one two");
        check("one two three four", "- one two\n  three four");
        check("run `a b c d e f` now", "- run\n  `a b c d e f`\n  now");
        check("run `a b`, `c` d", "- run `a b`,\n  `c` d");
        check("an `odd tick here", "- an `odd\n  tick here");
        check("a `b c` d `e f g", "- a `b c` d\n  `e f g");
        check("averyverylongword x", "- averyverylongword\n  x");
    }
}
