//! `ARCHITECTURE.md` stays short and true: every path it names in backticks exists.
//!
//! In: the page and the files of the repository. Out: findings. A path is looked up from the root, then from
//! the sources of the host's crates. Names of types and routes are for review.

use crate::tree::{Finding, Text, report, root, texts};

const LINES_MAX: usize = 300;
/// Where a path may begin.
const FOLDERS: [&str; 9] = [
    "",
    "host/audit/src",
    "host/cli/src",
    "host/engine/src",
    "host/journal/src",
    "host/kernel/src",
    "host/node/src",
    "host/system/src",
    "host/text/src",
];

#[test]
fn the_page_has_at_most_300_lines() {
    let count = page().text.lines().count();
    assert!(
        count <= LINES_MAX,
        "ARCHITECTURE.md:{LINES_MAX}: {count} lines, at most {LINES_MAX}; it describes what rarely changes"
    );
}

#[test]
fn every_path_it_names_exists() {
    let mut findings = Vec::new();
    for (index, line) in page().text.lines().enumerate() {
        for path in line.split('`').skip(1).step_by(2).filter(|word| is_path(word)) {
            let exists = FOLDERS.iter().any(|folder| root().join(folder).join(path).exists());
            if !exists {
                let advice = format!(
                    "`{path}` does not exist; name what does, from the root or the sources of a crate in host/"
                );
                findings.push(Finding { path: page().path.clone(), line: index + 1, advice });
            }
        }
    }
    report(findings);
}

fn page() -> &'static Text {
    texts().iter().find(|file| file.path == "ARCHITECTURE.md").expect("the repository has an ARCHITECTURE.md")
}

/// Whether a word in backticks is the path of a file or of a folder (which is written with a `/` at its end).
fn is_path(word: &str) -> bool {
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let is_file = [".rs", ".md", ".toml", ".txt", ".wasm"].iter().any(|ending| word.ends_with(ending));
    let is_ending_only = word.starts_with('.') && !word.contains('/');
    is_plain && !is_ending_only && !word.starts_with('/') && (word.ends_with('/') || is_file)
}

#[test]
fn paths_are_told_from_other_words() {
    let paths = ["api/problem.rs", "host/node/src/", "log/", "README.md"];
    let others = ["/v1/wallet/", "api", "<data>/wallet/0/log/", "Entry", "text/event-stream", ".wasm", "a → b/"];
    assert!(paths.into_iter().all(is_path));
    assert!(!others.into_iter().any(is_path));
}
