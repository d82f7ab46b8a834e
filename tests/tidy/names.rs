//! The names of types: each names one type of the host, so that a reader who searches for it finds it.
//!
//! In: sources of the host, tests left out. Out: findings. The list of names that still have several types may only
//! shrink: a name that has fewer types than the list allows is a finding as well. It does not judge whether a name is
//! good.

use std::collections::BTreeMap;

use crate::tree::{Finding, Source, report, root, sources};

/// Names that have more than one type, each with how many, one a line.
const SHARED: &str = "tests/tidy/shared_names.txt";

#[test]
fn a_name_of_a_type_names_one_type() {
    let sources = sources();
    let found = declared(&sources);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let lines = found.iter().filter(|(_, places)| 1 < places.len());
        let list: String = lines.map(|(name, places)| format!("{name} {}\n", places.len())).collect();
        std::fs::write(root().join(SHARED), list).expect("the list can be written");
    }
    let list = std::fs::read_to_string(root().join(SHARED)).expect("the list is in the repository");
    report(findings(&found, &list));
}

#[test]
fn a_second_type_of_a_name_is_noticed_and_so_is_one_that_is_gone() {
    let one = Source::of("host/node/src/log/frame.rs", "struct Frame; fn f() { struct Local; }");
    let other =
        Source::of("host/node/src/peer/frame.rs", "pub enum Frame {}\n#[cfg(test)]\nmod tests { struct Frame; }");
    let elsewhere = Source::of("guest-sdk/src/frame.rs", "pub struct Frame;");
    let found = declared(&[one, other, elsewhere]);
    assert_eq!(findings(&found, "").len(), 1, "the second one");
    assert!(findings(&found, "Frame 2\n").is_empty());
    assert_eq!(findings(&found, "Frame 3\n").len(), 1, "one of three is gone");
    assert_eq!(findings(&found, "Frame 2\nSlot 2\n").len(), 1, "both of two are gone");
}

/// Where the host declares a type, by its name: path and line.
fn declared(sources: &[Source]) -> BTreeMap<String, Vec<(String, usize)>> {
    let mut found: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_in("host/")) {
        for item in &source.ast.items {
            let Some(name) = type_name(item) else { continue };
            let line = name.span().start().line;
            if !source.is_test_line(line) {
                found.entry(name.to_string()).or_default().push((source.path.clone(), line));
            }
        }
    }
    found
}

pub fn type_name(item: &syn::Item) -> Option<&syn::Ident> {
    match item {
        syn::Item::Struct(item) => Some(&item.ident),
        syn::Item::Enum(item) => Some(&item.ident),
        syn::Item::Union(item) => Some(&item.ident),
        syn::Item::Trait(item) => Some(&item.ident),
        syn::Item::Type(item) => Some(&item.ident),
        _ => None,
    }
}

fn findings(found: &BTreeMap<String, Vec<(String, usize)>>, list: &str) -> Vec<Finding> {
    let line = |line: &str| {
        let (name, count) = line.split_once(' ').expect("a line of the list is a name and a number");
        (name.to_owned(), count.parse::<usize>().expect("a number of types"))
    };
    let allowed: BTreeMap<String, usize> = list.lines().map(line).collect();
    let mut findings = Vec::new();
    for (name, places) in found {
        let count = allowed.get(name).copied().unwrap_or(1);
        if count < places.len() {
            let (path, line) = places.last().cloned().expect("it is declared");
            let others: Vec<&str> = places.iter().map(|(path, _)| path.as_str()).collect();
            let advice = format!("`{name}` names {} types ({}); find one of its own", places.len(), others.join(", "));
            findings.push(Finding { path, line, advice });
        }
    }
    for (name, count) in allowed {
        let now = found.get(&name).map_or(0, Vec::len);
        if now < count {
            let advice = format!("`{name}` names {now} types and no longer {count}: write that into the list");
            findings.push(Finding { path: SHARED.to_owned(), line: 1, advice });
        }
    }
    findings
}
