//! The README fits on a page, and the book holds together: every page is in its summary, every link leads somewhere,
//! no line is too long to read.
//!
//! In: the Markdown of the repository. Out: findings. This file does not know whether a page is true: what is made
//! from the code, or run, is tested where the code is.

use std::collections::BTreeSet;

use crate::tree::{Finding, Text, report, root, texts};

const README_LINES_MAX: usize = 90;
/// The limit of prose; code and tables may be wider.
const COLUMNS_MAX: usize = 100;
const BOOK: &str = "host/book/src/";
const RUNBOOK: &str = "host/book/src/operate/runbook.md";
/// Shorter parts of a message occur anywhere, so they are not looked for.
const MESSAGE_CHARS_MIN: usize = 8;
const SUMMARY: &str = "host/book/src/SUMMARY.md";
/// Pages outside the book whose prose is kept narrow as well.
const PAGES: [&str; 4] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "STYLE.md"];

#[test]
fn the_readme_fits_on_a_page() {
    let readme = pages().find(|page| page.path == "README.md").expect("the repository has a README.md");
    let count = readme.text.lines().count();
    assert!(
        count <= README_LINES_MAX,
        "README.md: {count} lines, at most {README_LINES_MAX}; what is longer belongs into the book"
    );
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = pages().find(|page| page.path == SUMMARY).expect("the book has a summary");
    let listed: BTreeSet<String> = links(&summary.text).map(|(_, link)| format!("{BOOK}{link}")).collect();
    let missing = pages().filter(|page| page.path.starts_with(BOOK) && page.path != SUMMARY);
    let missing = missing.filter(|page| !listed.contains(&page.path));
    let advice = "is not in SUMMARY.md, so no reader finds it";
    report(missing.map(|page| Finding { path: page.path.clone(), line: 1, advice: advice.to_owned() }).collect());
}

#[test]
fn every_link_leads_somewhere() {
    let mut findings = Vec::new();
    for page in pages() {
        for (line, link) in links(&page.text).filter(|(_, link)| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.path.clone() } else { resolve(&page.path, file) };
            let known = texts().iter().find(|text| text.path == target);
            let is_there = match known {
                Some(text) => heading.is_empty() || anchors(&text.text).contains(heading),
                None => heading.is_empty() && root().join(&target).exists(),
            };
            if !is_there {
                findings.push(Finding { path: page.path.clone(), line, advice: format!("`{link}` leads nowhere") });
            }
        }
    }
    report(findings);
}

#[test]
fn no_line_of_prose_is_too_long() {
    report(pages().flat_map(|page| long_lines(&page.path, &page.text)).collect());
    assert_eq!(long_lines("p.md", &"word ".repeat(21)).len(), 1);
    let code = format!("```sh\n{}\n```\n| {} |\n", "word ".repeat(21), "word ".repeat(21));
    assert_eq!(long_lines("p.md", &code).len(), 0);
}

/// The runbook must quote what a node says, or nobody finds it there.
#[test]
fn every_message_of_the_runbook_is_in_the_code() {
    let sources = texts().iter().filter(|text| is_of_node(&text.path));
    let said: String = sources.map(|source| spoken(&source.text) + "\n").collect();
    let runbook = pages().find(|page| page.path == RUNBOOK).expect("the book has a runbook");
    let headings = prose(&runbook.text).filter(|(_, line)| line.starts_with("### "));
    let mut findings = Vec::new();
    for (line, heading) in headings {
        for message in heading.split('`').skip(1).step_by(2) {
            for part in parts(message).filter(|part| !said.contains(part.as_str())) {
                let advice = format!("nothing in the host says `{part}`; quote what a node says");
                findings.push(Finding { path: RUNBOOK.to_owned(), line, advice });
            }
        }
    }
    report(findings);
}

fn is_of_node(path: &str) -> bool {
    path.ends_with(".rs")
        && ["audit", "cli", "engine", "journal", "kernel", "node", "system", "text"]
            .iter()
            .any(|of| path.starts_with(&format!("host/{of}/src/")))
}

/// The source as its texts are printed: in one line, without backticks.
fn spoken(source: &str) -> String {
    let joined = source.replace("\\\n", " ").replace('`', "");
    joined.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The parts of a message between placeholders, which are words in capitals and `…`.
fn parts(message: &str) -> impl Iterator<Item = String> {
    let is_stand_in = |word: &str| {
        let letters = word.trim_matches(|c: char| !c.is_alphanumeric());
        word.starts_with('…') || (!letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_uppercase()))
    };
    let words = message.replace("(…)", "… ").replace("…;", "… ");
    let mut parts = vec![String::new()];
    for word in words.split_whitespace() {
        let last = parts.last_mut().expect("there is one");
        if is_stand_in(word) {
            parts.push(String::new());
        } else {
            *last = format!("{last} {word}");
        }
    }
    let trimmed = parts.into_iter().map(|part| part.trim_matches(|c: char| !c.is_alphanumeric()).to_owned());
    trimmed.filter(|part| MESSAGE_CHARS_MIN <= part.len())
}

fn pages() -> impl Iterator<Item = &'static Text> {
    let is_page = |path: &str| PAGES.contains(&path) || (path.starts_with(BOOK) && path.ends_with(".md"));
    texts().iter().filter(move |text| is_page(&text.path))
}

fn long_lines(path: &str, text: &str) -> Vec<Finding> {
    let long = prose(text).filter(|(_, line)| COLUMNS_MAX < line.trim_end().chars().count());
    let long = long.filter(|(_, line)| !["|", "#", "<!--"].iter().any(|begin| line.starts_with(begin)));
    let advice = format!("more than {COLUMNS_MAX} columns; break the line");
    long.map(|(line, _)| Finding { path: path.to_owned(), line, advice: advice.clone() }).collect()
}

/// Lines outside of code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The targets of `[…](…)`, with their lines.
fn links(text: &str) -> impl Iterator<Item = (usize, String)> {
    prose(text).flat_map(|(number, line)| {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.map(|target| (number, target.to_owned())).collect::<Vec<_>>()
    })
}

/// The names that headings have in links.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(|(_, heading)| anchor(heading)).collect()
}

/// The path that a link of a page leads to, from the root.
fn resolve(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn messages_are_taken_apart_and_links_and_headings_are_read() {
    let found: Vec<String> = parts("this node's clock has jumped N s …, and no entry follows it").collect();
    assert_eq!(found, ["this node's clock has jumped", "and no entry follows it"]);
    assert_eq!(spoken("\"a `{b}` \\\n    c\""), "\"a {b} c\"");
    assert_eq!(
        links("a [b](c.md#d) [e](f)\n```\n[g](h)\n```").map(|(_, link)| link).collect::<Vec<_>>(),
        ["c.md#d", "f"]
    );
    assert_eq!(resolve("host/book/src/operate/disks.md", "../audit/verify.md"), "host/book/src/audit/verify.md");
    let anchors = anchors("# `halted: REASON`\n## Two histories");
    assert!(anchors.contains("halted-reason") && anchors.contains("two-histories"), "{anchors:?}");
}
