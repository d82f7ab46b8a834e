//! Which folder may know which: imports between the folders of the host's crates, and the external crates that one
//! folder owns.
//!
//! In: the layer table of `ARCHITECTURE.md` (`| layer | folders | edges inside the layer |`, topmost first), and
//! sources. Out: findings. Unit tests may reach anywhere. That a crate knows nothing of those above it is not checked
//! here, because Cargo does; that kernel, journal, engine and the logic of `system` depend on nothing but what
//! is listed is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::tokens::{Token, end_of_group};
use crate::tree::{Finding, Source, check_rule, check_sources, report, root, texts};

/// The crates whose folders are in the table. The node names those of the crates below it as its own.
const CRATES: [&str; 8] = [
    "host/audit/src/",
    CLI,
    "host/engine/src/",
    "host/journal/src/",
    "host/kernel/src/",
    "host/node/src/",
    "host/system/src/",
    "host/text/src/",
];

/// The command line, which is one folder of the table: what is in it may know all of it, and everything below.
const CLI: &str = "host/cli/src/";

/// All that the kernel may depend on. None of these waits, reads a clock or a file, or makes numbers by chance.
const KERNEL_MAY: [&str; 11] = [
    "blake3",
    "bytes",
    // `tests/tidy/determinism.rs` says where, and how.
    "hashbrown",
    "minicbor",
    "rust_decimal",
    "serde",
    "statehouse-abi",
    "statehouse-guest",
    "statehouse-projection",
    "thiserror",
    "uuid",
];

/// The same for the engine, which may have files, threads and processes of its own, but no network and no runtime.
const ENGINE_MAY: [&str; 20] = [
    "blake3",
    "bytes",
    "fail",
    "landlock",
    "libc",
    "minicbor",
    "parking_lot",
    "rustc-demangle",
    "rustix",
    "seccompiler",
    "statehouse-abi",
    "statehouse-journal",
    "statehouse-kernel",
    "statehouse-projection",
    "tempfile",
    "thiserror",
    "tracing",
    "wasmi",
    "wasmparser",
    "wasmtime",
];

/// All that the journal may depend on, for it is a part of every auditor's program. None of these is a runtime, a
/// database or a network; only a log that is written to needs `tokio`, which is optional.
const JOURNAL_MAY: [&str; 18] = [
    "blake3",
    "bytes",
    "ed25519-dalek",
    "fail",
    "jiff",
    "memmap2",
    "minicbor",
    "parking_lot",
    "rand",
    "rustix",
    "serde",
    "serde_json",
    "statehouse-kernel",
    "tempfile",
    "thiserror",
    "tokio",
    "tracing",
    "uuid",
];

/// All that the native logic of `system` may depend on. Of the journal it has the form of a key.
const SYSTEM_MAY: [&str; 5] =
    ["blake3", "statehouse-abi", "statehouse-guest", "statehouse-journal", "statehouse-kernel"];

/// External crates and the only folders of the host that may name them.
const OWNERS: [(&str, &[&str]); 18] = [
    ("axum", &["api"]),
    // A node's clients come over TLS, and the command line is one of them.
    ("tokio_rustls", &["api", "cli", "peer"]),
    ("rustls_platform_verifier", &["cli"]),
    // The tests of `peer` and `system` make certificates, too.
    ("rcgen", &["cli", "peer", "system"]),
    ("reqwest", &["webhooks"]),
    ("base64", &["webhooks"]),
    ("openraft", &["consensus"]),
    ("rocksdb", &["store"]),
    ("wasmtime", &["guest"]),
    ("wasmi", &["guest"]),
    ("wasmparser", &["guest"]),
    ("memmap2", &["disk"]),
    ("object_store", &["archive"]),
    ("tonic", &["peer"]),
    ("prost", &["peer"]),
    ("webpki", &["peer"]),
    ("ed25519_dalek", &["key"]),
    // `json` alone turns requests into values; the others write reports and small files, and `printable` is tested
    // with JSON.
    (
        "serde_json",
        &[
            "api",
            "archive",
            "audit",
            "cli",
            "data_folder",
            "json",
            "printable",
            "rehearsal",
            "segments",
            "system",
            "webhooks",
        ],
    ),
];

#[test]
fn imports_only_go_down_the_layer_table() {
    let table = Table::of_architecture();
    check_sources(|source| table.check(source));

    let text = "| 1 | `api` `router` | `api → router` |\n| 2 | `log` | – |\n";
    let rule = |source: &Source| Table::parse(text).check(source);
    check_rule(rule, "host/node/src/log/frame.rs", "use crate::api::Problem;", "use crate::log::Lsn;");
    check_rule(rule, "host/node/src/router/local.rs", "use crate::{log::g, api::h};", "use crate::log::Lsn;");
    check_rule(rule, "host/node/src/api/route.rs", "use crate::unknown::X;", "use crate::{log::Lsn, router::Route};");
    check_rule(rule, "host/kernel/src/log/plan.rs", "use crate::router::Route;", "use crate::log::Lsn;");
    assert_eq!(rule(&Source::of("host/node/src/new/mod.rs", "fn f() {}")).len(), 1, "a folder in no layer is refused");
}

#[test]
fn the_layer_table_names_only_folders_that_exist() {
    let table = Table::of_architecture();
    let is_in = |folder: PathBuf, name: &str| folder.join(name).is_dir() || folder.join(format!("{name}.rs")).is_file();
    let exists = |name: &&String| CRATES.iter().any(|of| is_in(root().join(of), name));
    let missing: Vec<&String> = table.layers.keys().filter(|name| !exists(name)).collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md: the layer table names {missing:?}, which the host does not have; remove them"
    );
}

#[test]
fn only_the_owning_folder_names_its_crate() {
    check_sources(ownership);
    check_rule(ownership, "host/node/src/api/route.rs", "use rocksdb::DB;", "use axum::Router;");
    check_rule(
        ownership,
        "host/node/src/disk/read.rs",
        "fn f() { let x = serde_json::json!({}); }",
        "use memmap2::Mmap;",
    );
}

#[test]
fn kernel_and_journal_depend_on_nothing_but_what_is_listed() {
    assert_eq!(
        names(&dependencies("host/kernel/Cargo.toml")),
        KERNEL_MAY,
        "host/kernel/Cargo.toml: the kernel sees no clock, file, network or runtime; if a new dependency is none of \
         these, and says so, list it in tests/tidy/layers.rs"
    );
    let journal = dependencies("host/journal/Cargo.toml");
    assert_eq!(
        names(&journal),
        JOURNAL_MAY,
        "host/journal/Cargo.toml: an auditor's program has all of it; if a new dependency is no runtime, database or \
         network, list it in tests/tidy/layers.rs"
    );
    let tokio = journal.iter().find(|line| line.starts_with("tokio"));
    assert!(tokio.is_some_and(|line| line.contains("optional = true")), "an auditor needs no tokio: {tokio:?}");
}

/// The lines of a manifest that each name a dependency.
fn dependencies(manifest: &str) -> Vec<String> {
    let manifest = texts().iter().find(|file| file.path == manifest).expect("it is a crate");
    let mut sections = manifest.text.split("\n[");
    let section = sections.find_map(|section| section.strip_prefix("dependencies]")).unwrap_or_default();
    let lines = section.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    lines.map(str::to_owned).collect()
}

fn names(lines: &[String]) -> Vec<&str> {
    lines.iter().filter_map(|line| Some(line.split_once(['.', ' ', '='])?.0)).collect()
}

#[test]
fn the_engine_depends_on_nothing_but_what_is_listed() {
    assert_eq!(
        names(&dependencies("host/engine/Cargo.toml")),
        ENGINE_MAY,
        "host/engine/Cargo.toml: the engine sees no network and no runtime, so that an auditor can link it; if a new \
         dependency is neither, list it in tests/tidy/layers.rs"
    );
}

#[test]
fn the_logic_of_system_depends_on_nothing_but_what_is_listed() {
    assert_eq!(
        names(&dependencies("host/system/Cargo.toml")),
        SYSTEM_MAY,
        "host/system/Cargo.toml: replicas and auditors run it alike; if a new dependency is no runtime, database or \
         network, list it in tests/tidy/layers.rs"
    );
}

struct Table {
    /// The number of each folder's layer; 0 is the topmost.
    layers: BTreeMap<String, usize>,
    /// Edges allowed inside a layer.
    edges: Vec<(String, String)>,
}

impl Table {
    fn of_architecture() -> Self {
        let page =
            texts().iter().find(|file| file.path == "ARCHITECTURE.md").expect("the repository has an ARCHITECTURE.md");
        let section = page.text.split("\n## ").find(|section| section.starts_with("Layers"));
        let table = Self::parse(section.expect("ARCHITECTURE.md has a section `## Layers`"));
        assert!(
            !table.layers.is_empty(),
            "ARCHITECTURE.md: the section `## Layers` has no table `| 1 | folders | edges |`"
        );
        table
    }

    fn parse(text: &str) -> Self {
        let mut table = Self { layers: BTreeMap::new(), edges: Vec::new() };
        for line in text.lines() {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let &[number, folders, edges, ..] = cells.as_slice() else { continue };
            let Ok(layer) = number.parse::<usize>() else { continue };
            table.layers.extend(quoted(folders).map(|folder| (folder.to_owned(), layer)));
            let edge = |text: &str| text.split_once(" → ").map(|(from, to)| (from.to_owned(), to.to_owned()));
            table.edges.extend(quoted(edges).filter_map(edge));
        }
        table
    }

    fn check(&self, source: &Source) -> Vec<Finding> {
        let Some(from) = folder(source).filter(|_| !source.is_in(CLI)) else { return Vec::new() };
        let Some(from_layer) = self.layers.get(from) else {
            let advice = format!("`{from}` is not in the layer table of ARCHITECTURE.md; put it where it belongs");
            return vec![source.finding(1, advice)];
        };
        let mut findings = Vec::new();
        for (to, line) in imports(&source.product_tokens()) {
            let Some(to_layer) = self.layers.get(&to) else {
                findings
                    .push(source.finding(line, format!("`crate::{to}` is not in the layer table of ARCHITECTURE.md")));
                continue;
            };
            let is_listed = self.edges.iter().any(|edge| edge.0 == from && edge.1 == to);
            if to != from && to_layer <= from_layer && !is_listed {
                let advice = format!(
                    "`{from}` (layer {from_layer}) imports `{to}` (layer {to_layer}); imports only go down: \
                     move the shared part below both, hand it in as an argument, \
                     or list the edge `{from} → {to}` if the layer is the same"
                );
                findings.push(source.finding(line, advice));
            }
        }
        findings
    }
}

/// The texts in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The folder (or single file) of one of the crates that the source belongs to; none for the roots.
fn folder(source: &Source) -> Option<&str> {
    if source.is_in(CLI) {
        return Some("cli");
    }
    let first = CRATES.iter().find_map(|of| source.path.strip_prefix(of))?.split('/').next()?;
    let name = first.trim_end_matches(".rs");
    (!["lib", "main"].contains(&name)).then_some(name)
}

/// What follows each `crate::`; groups are opened one level.
fn imports(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut imports = Vec::new();
    for at in 0..tokens.len().saturating_sub(3) {
        let path = &tokens[at..at + 4];
        if path[0].text != "crate" || path[1].text != ":" || path[2].text != ":" {
            continue;
        }
        if path[3].text != "{" {
            imports.push((path[3].text.clone(), path[3].line));
            continue;
        }
        let end = end_of_group(tokens, at + 3);
        let mut depth = 0usize;
        for (before, token) in tokens[at + 3..end].iter().zip(&tokens[at + 4..end]) {
            match before.text.as_str() {
                "{" | "(" => depth += 1,
                "}" | ")" => depth -= 1,
                _ => {}
            }
            let begins_path = before.text == "{" || before.text == ",";
            if depth == 1 && begins_path && token.text.starts_with(|c: char| c.is_ascii_lowercase()) {
                imports.push((token.text.clone(), token.line));
            }
        }
    }
    imports
}

fn ownership(source: &Source) -> Vec<Finding> {
    if !CRATES.iter().any(|of| source.is_in(of)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (name, owners) in OWNERS {
        if folder(source).is_some_and(|folder| owners.contains(&folder)) {
            continue;
        }
        let is_named = |pair: &&[Token]| pair[0].text == name && pair[1].text == ":";
        for pair in source.tokens.windows(2).filter(is_named) {
            let advice = format!("names `{name}`, which only {} may; go through what it exports", owners.join(", "));
            findings.push(source.finding(pair[0].line, advice));
        }
    }
    findings
}

#[test]
fn the_lists_agree_with_each_other() {
    let table = Table::of_architecture();
    let unknown =
        OWNERS.iter().flat_map(|(_, owners)| owners.iter()).filter(|owner| !table.layers.contains_key(**owner));
    let findings = unknown.map(|owner| Finding {
        path: "tests/tidy/layers.rs".to_owned(),
        line: 1,
        advice: format!("`{owner}` owns a crate but is in no layer"),
    });
    report(findings.collect());
}
