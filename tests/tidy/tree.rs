//! The files of the repository, read once and parsed, and how findings about them are reported.
//!
//! In: the list git prints (tracked files and new ones that are not ignored). Out: [`sources`] for Rust, [`texts`] for
//! everything readable. It knows which lines are tests, and no rule.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use syn::spanned::Spanned;

use crate::tokens::{Token, flatten};

/// One readable file of the repository.
pub struct Text {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
}

/// One parsed Rust file.
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
    pub ast: syn::File,
    /// Every token outside comments, macro arguments included.
    pub tokens: Vec<Token>,
    /// Lines of inline `#[cfg(test)]` modules; 1-based.
    test_lines: Vec<RangeInclusive<usize>>,
    is_test_file: bool,
}

impl Source {
    /// Parses `text` as the file `path`.
    pub fn of(path: &str, text: &str) -> Self {
        let ast = syn::parse_file(text).unwrap_or_else(|error| {
            panic!("{path}:{}: does not parse ({error}); fix the syntax first", error.span().start().line)
        });
        let test_lines = ast.items.iter().filter_map(inline_test_module).collect();
        let stream = text.parse().expect("a file that syn parsed is a token stream");
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens: flatten(stream),
            test_lines,
            is_test_file: is_test_path(path),
            ast,
        }
    }

    pub fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// Whether the line (1-based) belongs to a test: a test file, the test package, or an inline test module.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.is_test_file || self.is_in("tests/") || self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// Lines that count towards the length of the file: all except unit tests.
    pub fn code_line_count(&self) -> usize {
        if self.is_test_file {
            return 0;
        }
        let test_line_count: usize = self.test_lines.iter().map(|lines| lines.clone().count()).sum();
        self.text.lines().count() - test_line_count
    }

    /// Tokens that belong to no test.
    pub fn product_tokens(&self) -> Vec<Token> {
        self.tokens.iter().filter(|token| !self.is_test_line(token.line)).cloned().collect()
    }

    /// Tokens of tests only.
    pub fn test_tokens(&self) -> Vec<Token> {
        self.tokens.iter().filter(|token| self.is_test_line(token.line)).cloned().collect()
    }

    pub fn finding(&self, line: usize, advice: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, advice: advice.into() }
    }
}

/// One breach of one rule.
#[derive(Debug)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    /// What is wrong, and what to do.
    pub advice: String,
}

/// Applies one rule to every source and fails with the list of its findings.
pub fn check_sources(rule: impl Fn(&Source) -> Vec<Finding>) {
    report(sources().iter().flat_map(rule).collect());
}

/// Fails with the list, unless it is empty.
pub fn report(findings: Vec<Finding>) {
    let lines: Vec<String> =
        findings.iter().map(|finding| format!("{}:{}: {}", finding.path, finding.line, finding.advice)).collect();
    assert!(lines.is_empty(), "{} finding(s)\n{}", lines.len(), lines.join("\n"));
}

/// Asserts that the rule finds something in `bad` and nothing in `good`, both read as the file `path`.
pub fn check_rule(rule: impl Fn(&Source) -> Vec<Finding>, path: &str, bad: &str, good: &str) {
    assert!(!rule(&Source::of(path, bad)).is_empty(), "the rule overlooks: {bad}");
    let wrong = rule(&Source::of(path, good));
    assert!(wrong.is_empty(), "the rule refuses: {good}: {wrong:?}");
}

/// Every Rust file. Each test parses all of them itself: the positions of tokens belong to the thread that parsed them.
pub fn sources() -> Vec<Source> {
    let rust = texts().iter().filter(|file| file.path.ends_with(".rs"));
    let mut sources: Vec<Source> = rust.map(|file| Source::of(&file.path, &file.text)).collect();
    let test_files: BTreeSet<String> = sources.iter().flat_map(declared_test_files).collect();
    for source in &mut sources {
        source.is_test_file |= test_files.contains(&source.path);
    }
    sources
}

pub fn texts() -> &'static [Text] {
    static TEXTS: LazyLock<Vec<Text>> = LazyLock::new(|| {
        let read = |path: &String| std::fs::read_to_string(root().join(path)).ok();
        paths().iter().filter_map(|path| Some(Text { path: path.clone(), text: read(path)? })).collect()
    });
    &TEXTS
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.expect("this package lies in a folder of a folder of the root").to_owned()
}

fn paths() -> &'static [String] {
    static PATHS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut git = Command::new("git");
        git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
        let output = git.output().expect("tidy lists files with git; install it");
        assert!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
        let list = String::from_utf8(output.stdout).expect("paths of the repository are UTF-8");
        list.lines().map(str::to_owned).collect()
    });
    &PATHS
}

/// `tests.rs`, `conformance.rs` and everything in a folder `tests` or `benches` of a crate. The test package itself
/// also has code: only its lines are tests, see [`Source::is_test_line`].
fn is_test_path(path: &str) -> bool {
    let is_test = |part: &str| ["tests", "benches", "tests.rs", "conformance.rs"].contains(&part);
    !path.starts_with("tests/") && path.split('/').any(is_test)
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Meta>().is_ok_and(|condition| condition.path().is_ident("test"))
}

fn inline_test_module(item: &syn::Item) -> Option<RangeInclusive<usize>> {
    let syn::Item::Mod(module) = item else { return None };
    let is_test = module.content.is_some() && module.attrs.iter().any(is_cfg_test);
    is_test.then(|| item.span().start().line..=item.span().end().line)
}

/// The files that a source declares with `#[cfg(test)] mod name;`.
fn declared_test_files(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let folder = if ["mod", "lib", "main"].contains(&stem) { folder.to_owned() } else { format!("{folder}/{stem}") };
    let declared = source.ast.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() && module.attrs.iter().any(is_cfg_test) => {
            Some(module.ident.to_string())
        }
        _ => None,
    });
    declared.flat_map(|name| [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]).collect()
}
