//! The names of types are nouns: a bare participle says that something happened, and not to what.
//!
//! In: sources of the host and of its tests. Out: findings. The list of participles that are left may only shrink: one
//! that names no type any more is a finding as well. It knows no grammar: a name of one word that ends like a
//! participle, or is an irregular one, is taken for a participle unless it is listed here as a noun.

use std::collections::BTreeMap;

use crate::tree::{Finding, Source, report, root, sources};

/// Names that are participles and have not been replaced yet, one a line.
const LEFT: &str = "tests/tidy/participles.txt";

/// Participles that do not end in `ed` or `ing`. Left out are those that are nouns as often, such as a run or a read.
const IRREGULAR: [&str; 34] = [
    "Begun",
    "Broken",
    "Brought",
    "Built",
    "Caught",
    "Chosen",
    "Done",
    "Drawn",
    "Forbidden",
    "Forgotten",
    "Found",
    "Frozen",
    "Given",
    "Gone",
    "Heard",
    "Held",
    "Hidden",
    "Kept",
    "Known",
    "Left",
    "Lost",
    "Made",
    "Said",
    "Seen",
    "Sent",
    "Shown",
    "Spent",
    "Stuck",
    "Taken",
    "Told",
    "Torn",
    "Unknown",
    "Unread",
    "Written",
];

/// Nouns that only look like participles, each with what it names.
const NOUNS: [(&str, &str); 3] = [
    ("Feed", "the events of a machine as all who follow it get them"),
    ("Finding", "what a check has found, as auditors call it"),
    ("Recording", "what clients asked and heard in a run, as a recorder has it"),
];

#[test]
fn a_name_of_a_type_is_no_participle() {
    let sources = sources();
    let found = participles(&sources);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let list: String = found.keys().map(|name| format!("{name}\n")).collect();
        std::fs::write(root().join(LEFT), list).expect("the list can be written");
    }
    let list = std::fs::read_to_string(root().join(LEFT)).expect("the list is in the repository");
    report(findings(&found, &list));
}

#[test]
fn a_participle_is_noticed_and_so_is_one_that_is_gone() {
    let text = "pub struct Judged; enum Waiting {} type Kept = u8; trait Seen {} mod tests { struct Sent; }";
    let bad = Source::of("host/node/src/log/frame.rs", text);
    let good = "struct Judgement { judged: u8 } enum State { Waiting } struct KeptEntry; type Feed = u8; struct Red2;";
    let good = Source::of("host/node/src/log/frame.rs", good);
    let elsewhere = Source::of("guest-sdk/src/frame.rs", "pub struct Planned;");
    assert!(participles(&[good, elsewhere]).is_empty());
    let found = participles(&[bad]);
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["Judged", "Kept", "Seen", "Sent", "Waiting"]);
    assert_eq!(findings(&found, "").len(), 5);
    assert_eq!(findings(&found, "Judged\nKept\nSeen\nWaiting\n").len(), 1, "one is not listed");
    assert_eq!(findings(&found, "Found\nJudged\nKept\nSeen\nSent\nWaiting\n").len(), 1, "one is gone");
}

/// Where types have a participle for a name, by that name: path and line.
fn participles(sources: &[Source]) -> BTreeMap<String, Vec<(String, usize)>> {
    let mut found: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_in("host/") || source.is_in("tests/")) {
        let mut names = Vec::new();
        collect(&source.ast.items, &mut names);
        for name in names.into_iter().filter(|name| is_participle(&name.to_string())) {
            found.entry(name.to_string()).or_default().push((source.path.clone(), name.span().start().line));
        }
    }
    found
}

/// Adds the names of the types among the items, those of inline modules included.
fn collect<'s>(items: &'s [syn::Item], names: &mut Vec<&'s syn::Ident>) {
    for item in items {
        names.extend(crate::names::type_name(item));
        if let syn::Item::Mod(syn::ItemMod { content: Some((_, items)), .. }) = item {
            collect(items, names);
        }
    }
}

fn is_participle(name: &str) -> bool {
    let is_one_word = name.chars().skip(1).all(|char| char.is_ascii_lowercase());
    let is_noun = NOUNS.iter().any(|(noun, _)| *noun == name);
    let looks_like_one = name.ends_with("ed") || name.ends_with("ing") || IRREGULAR.contains(&name);
    is_one_word && looks_like_one && !is_noun
}

fn findings(found: &BTreeMap<String, Vec<(String, usize)>>, list: &str) -> Vec<Finding> {
    let is_left = |name: &str| list.lines().any(|left| left == name);
    let new = found.iter().filter(|(name, _)| !is_left(name)).flat_map(|(name, places)| {
        let advice = format!("`{name}` is a participle: name what the type is, or what was {}", name.to_lowercase());
        places.iter().map(move |(path, line)| Finding { path: path.clone(), line: *line, advice: advice.clone() })
    });
    let gone = list.lines().filter(|name| !found.contains_key(*name)).map(|name| {
        let advice = format!("`{name}` names no type any more: take it off the list");
        Finding { path: LEFT.to_owned(), line: 1, advice }
    });
    new.chain(gone).collect()
}
