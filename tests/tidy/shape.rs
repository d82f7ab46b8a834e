//! Rules about the shape of files and functions: how they open, how long they are, what they are called.
//!
//! In: sources. Out: findings. It does not judge what the code does.

use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::tree::{Finding, Source, check_rule, check_sources};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 120;
/// The minimum for a file of at least [`OPENING_SHORT_FILE_LINES`]; a shorter one may say it in one line.
const OPENING_LINES_MIN: usize = 3;
const OPENING_SHORT_FILE_LINES: usize = 100;
/// The most lines of prose; tables and diagrams are not counted.
const OPENING_PROSE_LINES_MAX: usize = 10;
const MODULE_NAMES_BANNED: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "misc", "imp", "types"];

/// Files above the limit, with the length each may have at most. This list may only shrink.
const LONG_FILES: [(&str, usize); 0] = [];
/// Functions above the limit as (file, function, lines). This list may only shrink.
const LONG_FUNCTIONS: [(&str, &str, usize); 0] = [];

#[test]
fn every_file_opens_with_what_it_is() {
    check_sources(opening);
    let good = "//! What it is.\n//!\n//! | a table |\n//! What it does not know.\n";
    check_rule(opening, "host/node/src/log/frame.rs", "// no doc\nfn f() {}", good);
    let long = format!("//! Too little for so much.\n{}", "fn f() {}\n".repeat(OPENING_SHORT_FILE_LINES));
    check_rule(opening, "host/node/src/log/frame.rs", &long, good);
}

#[test]
fn no_file_is_longer_than_500_lines() {
    check_sources(file_length);
    let long = "fn f() {}\n".repeat(FILE_LINES_MAX + 1);
    let tested = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
    check_rule(file_length, "host/node/src/log/frame.rs", &long, &tested);
}

#[test]
fn no_function_is_longer_than_70_lines() {
    check_sources(function_length);
    let long = format!("fn f() {{\n{}}}", "g();\n".repeat(FUNCTION_LINES_MAX));
    let table = format!("fn f() {{\nmatch x {{\n{}}}\n}}", "1 => 2,\n".repeat(FUNCTION_LINES_MAX));
    check_rule(function_length, "host/node/src/log/frame.rs", &long, &table);
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    check_sources(module_name);
    check_rule(module_name, "host/node/src/log/frame.rs", "mod util { }", "mod frame { }");
    check_rule(module_name, "host/node/src/log/frame.rs", "mod types;", "mod frame;");
}

#[test]
fn no_line_is_wider_than_120_columns() {
    check_sources(width);
    let long = format!("// {}\nfn f() {{}}", "x".repeat(LINE_COLUMNS_MAX));
    let raw = format!("//! | {} |\nfn f() {{ g(r#\"{}\"#); }}", "x".repeat(200), "x".repeat(200));
    check_rule(width, "host/node/src/log/frame.rs", &long, &raw);
}

/// Tables and raw strings cannot be wrapped.
fn width(source: &Source) -> Vec<Finding> {
    if !source.is_in("host/") && !source.is_in("tests/") {
        return Vec::new();
    }
    let raw = source.tokens.iter().filter(|token| token.text.starts_with("r\"") || token.text.starts_with("r#"));
    let raw: Vec<_> = raw.map(|token| token.line..=token.line + token.text.matches('\n').count()).collect();
    let lines = source.text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let is_wide = |(number, line): &(usize, &str)| {
        LINE_COLUMNS_MAX < line.chars().count()
            && !line.starts_with("//! |")
            && !raw.iter().any(|lines| lines.contains(number))
    };
    let advice = format!("a line of more than {LINE_COLUMNS_MAX} columns; wrap it");
    lines.filter(is_wide).map(|(number, _)| source.finding(number, advice.clone())).collect()
}

fn opening(source: &Source) -> Vec<Finding> {
    let opening: Vec<&str> = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
    let is_short = source.code_line_count() < OPENING_SHORT_FILE_LINES;
    let lines_min = if is_short { 1 } else { OPENING_LINES_MIN };
    if opening.len() < lines_min {
        let advice = format!(
            "opens with {} lines of `//!`, at least {lines_min}; say what the file is, what goes in and comes out, \
             and what it does not know",
            opening.len()
        );
        return vec![source.finding(1, advice)];
    }
    let mut in_fence = false;
    let mut prose_count = 0;
    for line in &opening {
        let line = line.trim_start_matches("//!").trim();
        if line.starts_with("```") {
            in_fence = !in_fence;
        } else if !in_fence && !line.starts_with('|') && !line.is_empty() {
            prose_count += 1;
        }
    }
    if prose_count > OPENING_PROSE_LINES_MAX {
        let advice = format!("opens with {prose_count} lines of prose; say it in {OPENING_PROSE_LINES_MAX}");
        return vec![source.finding(1, advice)];
    }
    Vec::new()
}

fn file_length(source: &Source) -> Vec<Finding> {
    let count = source.code_line_count();
    let listed = LONG_FILES.iter().find(|(path, _)| *path == source.path).map(|(_, lines)| *lines);
    let verdict = verdict(count, FILE_LINES_MAX, listed, "LONG_FILES", "give each idea a file of its own");
    verdict.map(|advice| source.finding(1, advice)).into_iter().collect()
}

fn function_length(source: &Source) -> Vec<Finding> {
    struct Functions<'a> {
        source: &'a Source,
        findings: Vec<Finding>,
    }
    impl Functions<'_> {
        fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
            let line = signature.span().start().line;
            let count = block.span().end().line - line + 1 - table_lines(block);
            let name = signature.ident.to_string();
            let is_listed = |entry: &&(&str, &str, usize)| entry.0 == self.source.path && entry.1 == name;
            let listed = LONG_FUNCTIONS.iter().find(is_listed).map(|entry| entry.2);
            let advice = "keep the branching in it and move straight-line work into functions";
            if let Some(text) = verdict(count, FUNCTION_LINES_MAX, listed, "LONG_FUNCTIONS", advice) {
                self.findings.push(self.source.finding(line, format!("fn {name}: {text}")));
            }
        }
    }
    impl<'ast> Visit<'ast> for Functions<'_> {
        fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
            self.check(&function.sig, &function.block);
            syn::visit::visit_item_fn(self, function);
        }
        fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
            self.check(&function.sig, &function.block);
            syn::visit::visit_impl_item_fn(self, function);
        }
        fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
            if let Some(block) = &function.default {
                self.check(&function.sig, block);
            }
            syn::visit::visit_trait_item_fn(self, function);
        }
    }
    let mut functions = Functions { source, findings: Vec::new() };
    functions.visit_file(&source.ast);
    functions.findings
}

/// Lines of the block that belong to matches which are nothing but tables of one-line arms.
fn table_lines(block: &syn::Block) -> usize {
    struct Tables(usize);
    impl<'ast> Visit<'ast> for Tables {
        fn visit_expr_match(&mut self, table: &'ast syn::ExprMatch) {
            let is_one_line = |arm: &syn::Arm| arm.span().start().line == arm.span().end().line;
            if table.arms.iter().all(is_one_line) {
                self.0 += table.arms.len();
            } else {
                syn::visit::visit_expr_match(self, table);
            }
        }
    }
    let mut tables = Tables(0);
    tables.visit_block(block);
    tables.0
}

fn module_name(source: &Source) -> Vec<Finding> {
    let advice =
        |name: &str| format!("a module called `{name}` says nothing; name the thing, or put it beside its only caller");
    let mut findings = Vec::new();
    for part in source.path.split('/') {
        let name = part.trim_end_matches(".rs");
        if MODULE_NAMES_BANNED.contains(&name) {
            findings.push(source.finding(1, advice(name)));
        }
    }
    for item in &source.ast.items {
        if let syn::Item::Mod(module) = item
            && MODULE_NAMES_BANNED.contains(&module.ident.to_string().as_str())
        {
            findings.push(source.finding(item.span().start().line, advice(&module.ident.to_string())));
        }
    }
    findings
}

/// Judges a length against its limit, or against its entry in a list of exceptions that may only shrink.
fn verdict(count: usize, max: usize, listed: Option<usize>, list: &str, advice: &str) -> Option<String> {
    match listed {
        None if count > max => Some(format!("{count} lines, at most {max}; {advice}")),
        None => None,
        Some(_) if count <= max => Some(format!("fits now ({count} lines); remove it from {list} in shape.rs")),
        Some(lines) if count > lines => Some(format!("grew from {lines} to {count} lines; {advice}")),
        Some(lines) if count < lines => Some(format!("shrank to {count} lines; say so in {list} in shape.rs")),
        Some(_) => None,
    }
}

#[test]
fn the_ratchet_only_turns_one_way() {
    let turn = |count, listed| verdict(count, 70, listed, "LIST", "split it").is_some();
    assert_eq!([turn(70, None), turn(71, None)], [false, true]);
    assert_eq!(
        [turn(80, Some(80)), turn(81, Some(80)), turn(79, Some(80)), turn(70, Some(80))],
        [false, true, true, true]
    );
}
