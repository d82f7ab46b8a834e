//! The reference pages of the book, made from the code or compared with it: a page can neither be wrong nor leave
//! something out.
//!
//! | page | how |
//! |---|---|
//! | `cli.md` | made from clap's tree of commands |
//! | `problems.md` | made from the table of codes, with advice for each |
//! | `limits.md` | made from the constants, with a text for those that concern users |
//! | `roles.md` | made from the table of routes, beside that table in the node (`api/route/tests.rs`) |
//! | `config.md`, `metrics.md` | written by hand; each key, and each metric, is in the code and on the page |
//!
//! `UPDATE_EXPECT=1` writes the pages that are made. Nothing here runs in the program.

mod commands;
mod problems;
mod limits;
mod metrics;
mod keys;

use std::path::{Path, PathBuf};

use crate::output;

/// Columns of a line of prose.
const WIDTH: usize = 98;

/// The first line of a page that is made.
const MADE: &str = "<!-- This page is made from the code by a test: UPDATE_EXPECT=1 writes it. Do not edit it. -->";

/// Breaks prose into lines, but never within a piece of code.
pub fn wrap(text: &str, first: &str, others: &str) -> String {
    output::wrap(text, WIDTH, first, others)
}

/// A page that is written by hand.
fn page(name: &str) -> String {
    let path = host().join("book/src/reference").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A source file of the node.
fn source(path: &str) -> String {
    let path = host().join("node/src").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folder with the crates of the host, and the book.
fn host() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fails with the items that only one side has.
#[track_caller]
fn assert_same<T: Ord + std::fmt::Debug>(what: &str, of_code: Vec<T>, of_page: Vec<T>) {
    let missing: Vec<&T> = of_code.iter().filter(|one| !of_page.contains(one)).collect();
    let foreign: Vec<&T> = of_page.iter().filter(|one| !of_code.contains(one)).collect();
    assert!(missing.is_empty(), "{what} that the page does not have; describe them: {missing:#?}");
    assert!(foreign.is_empty(), "{what} that the code does not have; remove them from the page: {foreign:#?}");
}

#[test]
fn prose_is_broken_outside_code() {
    let code = format!("`{}`", ["word"; 30].join(" "));
    let text = format!("{} {code} end", ["a"; 60].join(" "));
    let wrapped = wrap(&text, "- ", "  ");
    assert!(wrapped.lines().any(|line| line.contains(&code)), "{wrapped}");
    assert!(wrapped.starts_with("- a a") && wrapped.lines().skip(1).all(|line| line.starts_with("  ")), "{wrapped}");
}
