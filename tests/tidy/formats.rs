//! `host/journal/FORMATS.md` draws every format: each golden file, and each file of the kernel and the journal that
//! has a table of bytes, is named there.
//!
//! In: the page and the files of the repository. Out: findings. Whether a table is right is for review, and for the
//! golden files.

use crate::tree::{Finding, report, root, sources, texts};

const PAGE: &str = "host/journal/FORMATS.md";
/// How the comment of a file begins the table of a format.
const TABLES: [&str; 2] = ["//! | offset |", "//! | section |"];

#[test]
fn the_page_of_formats_names_each() {
    let page = texts().iter().find(|file| file.path == PAGE).expect("the journal has a page of its formats");
    let quoted: Vec<&str> = page.text.split('`').skip(1).step_by(2).collect();
    let is_named = |path: &str| quoted.contains(&path);
    let finding = |path: &str, advice: String| Finding { path: path.to_owned(), line: 1, advice };
    let mut findings = Vec::new();
    for source in sources() {
        let has_table = TABLES.iter().any(|begin| source.text.lines().any(|line| line.starts_with(begin)));
        if has_table && (source.is_in("host/journal/") || source.is_in("host/kernel/")) && !is_named(&source.path) {
            findings.push(finding(&source.path, format!("draws a format that {PAGE} does not; add it there")));
        }
    }
    for path in texts().iter().map(|file| &file.path).filter(|path| path.contains("/golden/")) {
        let is_of_host = path.starts_with("host/");
        if is_of_host && !is_named(path) {
            findings.push(finding(path, format!("pins a format; name it in {PAGE}")));
        }
    }
    for path in quoted.iter().filter(|word| word.starts_with("host/") || word.starts_with("guest-sdk/")) {
        if !root().join(path).exists() {
            findings.push(finding(PAGE, format!("`{path}` does not exist; name what does")));
        }
    }
    report(findings);
}
