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
