//! Words that do not reach main: unfinished work, `unwrap`, and places that exist on one machine only.
//!
//! In: every Rust source, and every readable file for words that can occur in any file. Out: findings. Words that this
//! file must not contain itself are put together from halves.

use crate::tokens::find;
use crate::tree::{Finding, Source, check_rule, check_sources, report, texts};

/// Folders of the machines the project was written on or may be built on.
const MACHINE_PATHS: [&str; 5] =
    [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("C:", "\\")];

const UNFINISHED: [(&str, &str); 4] = [
    ("dbg !", "remove it, or trace it with `tracing`"),
    ("todo !", "finish it, or leave it out cleanly"),
    ("unimplemented !", "finish it, or leave it out cleanly"),
    ("# [ ignore", "make the test run, or delete it"),
];

/// Phrases of a dialect that a native reader stumbles over, and what to say instead.
const DIALECT: [(&str, &str); 11] = [
    (BEHIND, "after, later than or past"),
    (concat!(" Who", "ever "), "who it is: the caller, the reader"),
    (concat!(" who", "ever "), "who it is: the caller, the reader"),
    (concat!(" What", "ever "), "what it is"),
    (concat!(" Which", "ever "), "which one it is"),
    (concat!(" comes ", "to "), "computes, reaches or results in"),
    (concat!(" come ", "to "), "compute, reach or result in"),
    (concat!(" came ", "to "), "computed, reached or resulted in"),
    (concat!(" goes ", "on"), "continues"),
    (concat!(" go ", "on"), "continue"),
    (concat!(" went ", "on"), "continued"),
];
const BEHIND: &str = concat!(" beh", "ind");
/// A line with one of these words may say that something lags, or stands, there.
const BEHIND_IS_RIGHT: [&str; 4] = ["lag", "NAT", "proxy", "proxies"];

#[test]
fn nothing_unfinished_reaches_main() {
    check_sources(unfinished);
    check_rule(unfinished, "host/node/src/log/frame.rs", "fn f() { todo!() }", "fn f() { tools!() }");
    check_rule(unfinished, "host/node/src/log/frame.rs", "#[ignore = \"slow\"]\nfn f() {}", "fn ignore() {}");

    let fix = concat!("FIX", "ME");
    let lines = texts().iter().flat_map(|file| file.text.lines().enumerate().map(move |(n, line)| (file, n + 1, line)));
    let is_unfinished = |line: &str| line.contains(fix) || is_todo_without_issue(line);
    let advice = "unfinished; do it now, or write TODO(#issue)";
    let findings = lines.filter(|(_, _, line)| is_unfinished(line));
    report(
        findings.map(|(file, n, _)| Finding { path: file.path.clone(), line: n, advice: advice.to_owned() }).collect(),
    );
}

#[test]
fn comments_are_plain_english() {
    check_sources(dialect);
    let bad = concat!("// What stands beh", "ind it is lost.\nfn f() {}");
    check_rule(dialect, "host/node/src/log/frame.rs", bad, "// A follower lags behind its leader.\nfn goes_on() {}");
    check_rule(
        dialect,
        "host/node/src/log/frame.rs",
        concat!("/// Who", "ever asks is told.\nfn f() {}"),
        "/// It is told.\nfn f() {}",
    );
}

#[test]
fn nothing_is_unwrapped() {
    check_sources(unwrap);
    let good = "/// a.unwrap()\nfn f() { a.unwrap_or(1); assert_eq!(a, \".unwrap()\"); }";
    check_rule(unwrap, "host/node/src/log/frame.rs", "fn f() { assert_eq!(a.unwrap(), 1); }", good);
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    let mut findings = Vec::new();
    for file in texts() {
        for (index, line) in file.text.lines().enumerate() {
            if let Some(place) = MACHINE_PATHS.iter().find(|place| line.contains(**place)) {
                let advice = format!(
                    "names a path of one machine (`{place}`); make it relative, or read it from the environment"
                );
                findings.push(Finding { path: file.path.clone(), line: index + 1, advice });
            }
        }
    }
    report(findings);
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let found = UNFINISHED.iter().flat_map(|(sequence, advice)| {
        let word = sequence.replace(' ', "");
        find(&source.tokens, sequence).into_iter().map(move |token| (token.line, format!("`{word}`; {advice}")))
    });
    found.map(|(line, advice)| source.finding(line, advice)).collect()
}

fn dialect(source: &Source) -> Vec<Finding> {
    if !source.is_in("host/") && !source.is_in("tests/") {
        return Vec::new();
    }
    let lines = source.text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_start()));
    let comments = lines.filter(|(_, line)| line.starts_with("//"));
    let found = comments.filter_map(|(number, line)| {
        let words = line.trim_start_matches(['/', '!']);
        let is_right = BEHIND_IS_RIGHT.iter().any(|word| words.contains(word));
        let is_there = |(phrase, _): &&(&str, &str)| words.contains(phrase) && !(*phrase == BEHIND && is_right);
        let (phrase, instead) = DIALECT.iter().find(is_there)?;
        Some(source.finding(number, format!("`{}`: say {instead}", phrase.trim())))
    });
    found.collect()
}

fn is_todo_without_issue(line: &str) -> bool {
    let word = concat!("TO", "DO");
    line.split_once(word).is_some_and(|(before, after)| {
        let is_word =
            !before.ends_with(|c: char| c.is_alphanumeric()) && !after.starts_with(|c: char| c.is_alphanumeric());
        is_word && !after.starts_with("(#")
    })
}

fn unwrap(source: &Source) -> Vec<Finding> {
    let advice = "`unwrap`; return an error, or `expect(\"why this cannot fail\")`";
    find(&source.tokens, ". unwrap ( )").into_iter().map(|token| source.finding(token.line, advice)).collect()
}
