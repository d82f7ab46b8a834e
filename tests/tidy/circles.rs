//! Circles: files of the host that import each other, directly or through others. No file of a circle can be
//! understood, tested or moved alone.
//!
//! In: sources of the host, tests left out. Out: findings. The list of files that are still in a circle may only
//! shrink: a listed file that is in none any more is a finding as well. A file that only declares and re-exports,
//! `mod.rs` or `lib.rs`, is looked through. It does not judge which of the imports is wrong.

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::{Token, end_of_group};
use crate::tree::{Finding, Source, report, root, sources};

/// The files that are in a circle, one a line, as paths in their package's `src`.
const LIST: &str = "tests/tidy/circles.txt";

/// The segments of a path in Rust.
type Path = Vec<String>;

#[test]
fn a_file_imports_none_that_imports_it_in_turn() {
    let found = in_circles(&sources());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let list: String = found.keys().map(|file| format!("{file}\n")).collect();
        std::fs::write(root().join(LIST), list).expect("the list can be written");
    }
    let list = std::fs::read_to_string(root().join(LIST)).expect("the list is in the repository");
    report(findings(&found, &list));
}

#[test]
fn a_circle_is_noticed_through_groups_and_re_exports_and_so_is_one_that_is_gone() {
    let of = |path: &str, text: &str| Source::of(&format!("host/node/src/{path}"), text);
    let all = [
        of("a/mod.rs", "mod one; mod two; mod three; mod four;\npub use one::{Other, One as First};"),
        of("a/one.rs", "use crate::{b, a::{two::{self, Two}, four}};"),
        of("a/two.rs", "fn f() { super::three::g(); }"),
        of("a/three.rs", "use crate::a::First;"),
        of("a/four.rs", "use super::{Unknown, Other};\n#[cfg(test)]\nmod tests { use crate::a::five; }"),
        of("a/five.rs", "use crate::a::four;"),
    ];
    let found = in_circles(&all);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["a/four.rs", "a/one.rs", "a/three.rs", "a/two.rs"]);
    let list = names.join("\n");
    assert!(findings(&found, &list).is_empty());
    assert_eq!(findings(&found, &format!("{list}\na/five.rs")).len(), 1, "it is in none any more");
    assert_eq!(findings(&found, "a/four.rs\na/three.rs\na/two.rs").len(), 1, "a new one");
}

/// A package's files, by what they are called in paths.
#[derive(Default)]
struct Package<'a> {
    files: BTreeMap<Path, &'a Source>,
    /// What the files that are looked through re-export: the path of the file and the name, and what it stands for.
    exports: BTreeMap<(Path, String), Path>,
}

impl<'a> Package<'a> {
    fn of(files: Vec<(&'a str, &'a Source)>) -> Self {
        let mut package = Self::default();
        for (name, source) in files {
            let here = module_of(name);
            if is_looked_through(name) {
                for (path, alias) in re_exports(&source.product_tokens()) {
                    let exported = alias.or_else(|| path.last().cloned()).unwrap_or_default();
                    package.exports.insert((here.clone(), exported), absolute(&here, path));
                }
            }
            package.files.insert(here, source);
        }
        package
    }

    /// The file that a path leads to; `None` if there is none, or one that is looked through.
    fn find(&self, path: &[String], hops: usize) -> Option<&Path> {
        let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
        let (file, source) = self.files.get_key_value(&path[..length])?;
        if !is_looked_through(&source.path) {
            return Some(file);
        }
        let exported = self.exports.get(&(file.clone(), path.get(length)?.clone()))?;
        let further: Path = exported.iter().chain(&path[length + 1..]).cloned().collect();
        if 0 < hops { self.find(&further, hops - 1) } else { None }
    }

    fn imports(&self, here: &Path, source: &Source) -> BTreeSet<&Path> {
        let paths = paths(&source.product_tokens()).into_iter().map(|path| absolute(here, path));
        paths.filter_map(|path| self.find(&path, 4)).filter(|file| *file != here).collect()
    }

    /// The files from which imports lead back to them, each with one that it imports on the way.
    fn circles(&self) -> BTreeMap<Path, Path> {
        let of = |(here, source): (&Path, &&Source)| (here.clone(), self.imports(here, source));
        let imports: BTreeMap<Path, BTreeSet<&Path>> = self.files.iter().map(of).collect();
        let mut found = BTreeMap::new();
        for (file, all) in imports.iter().filter(|(file, _)| is_led_to(&imports, file, file)) {
            let next = all.iter().find(|next| ***next == *file || is_led_to(&imports, next, file));
            found.extend(next.map(|next| (file.clone(), (*next).clone())));
        }
        found
    }
}

/// Whether the imports of `from` lead to `to`, directly or through others.
fn is_led_to(imports: &BTreeMap<Path, BTreeSet<&Path>>, from: &Path, to: &Path) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        open.extend(imports.get(file).into_iter().flatten().copied().filter(|next| seen.insert(*next)));
    }
    seen.contains(to)
}

/// The files in circles, as paths in `src`, each with where it is and one that it imports.
fn in_circles(sources: &[Source]) -> BTreeMap<String, (String, String)> {
    let mut packages: BTreeMap<&str, Vec<(&str, &Source)>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_in("host/") && !source.is_test_line(1)) {
        if let Some((package, name)) = source.path.split_once("/src/") {
            packages.entry(package).or_default().push((name, source));
        }
    }
    let mut found = BTreeMap::new();
    for (root, files) in packages {
        let package = Package::of(files);
        let name = |file: &Path| {
            let path = package.files[file].path.clone();
            (path[root.len() + "/src/".len()..].to_owned(), path)
        };
        for (file, next) in package.circles() {
            let (short, path) = name(&file);
            found.insert(short, (path, name(&next).0));
        }
    }
    found
}

fn findings(found: &BTreeMap<String, (String, String)>, list: &str) -> Vec<Finding> {
    let listed: BTreeSet<&str> = list.lines().collect();
    let new = found.iter().filter(|(file, _)| !listed.contains(file.as_str()));
    let new = new.map(|(_, (path, next))| Finding {
        path: path.clone(),
        line: 1,
        advice: format!("imports `{next}`, which leads back here; move what both need below both"),
    });
    let gone = listed.iter().filter(|file| !found.contains_key(**file)).map(|file| Finding {
        path: LIST.to_owned(),
        line: 1,
        advice: format!("`{file}` is in no circle any more; remove it"),
    });
    new.chain(gone).collect()
}

fn is_looked_through(path: &str) -> bool {
    ["mod.rs", "lib.rs"].contains(&path.rsplit('/').next().unwrap_or(path))
}

/// What a file is called in paths.
fn module_of(name: &str) -> Path {
    let mut segments: Path = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if segments.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
        segments.pop();
    }
    segments
}

/// The path from the root of the package. One that begins with no keyword begins at `here`.
fn absolute(here: &[String], path: Path) -> Path {
    let mut whole = here.to_vec();
    for segment in path {
        match segment.as_str() {
            "crate" => whole.clear(),
            "super" => _ = whole.pop(),
            "self" => {}
            _ => whole.push(segment),
        }
    }
    whole
}

/// All paths that begin with `crate`, `super` or `self`, groups taken apart.
fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut paths = Vec::new();
    for at in 0..tokens.len() {
        let is_inside = 1 < at && tokens[at - 1].text == ":" && tokens[at - 2].text == ":";
        let begins = ["crate", "super", "self"].contains(&tokens[at].text.as_str()) && !is_inside;
        if begins && tokens.get(at + 1).is_some_and(|next| next.text == ":") {
            take_apart(tokens, at, &[], &mut paths);
        }
    }
    paths.into_iter().map(|(path, _)| path).collect()
}

/// What `pub use` names, each with the name that it gets.
fn re_exports(tokens: &[Token]) -> Vec<(Path, Option<String>)> {
    let mut paths = Vec::new();
    for at in 0..tokens.len() {
        if tokens[at].text != "pub" {
            continue;
        }
        let after =
            if tokens.get(at + 1).is_some_and(|next| next.text == "(") { end_of_group(tokens, at + 1) } else { at + 1 };
        if tokens.get(after).is_some_and(|token| token.text == "use") {
            take_apart(tokens, after + 1, &[], &mut paths);
        }
    }
    paths
}

/// Adds the paths of the tree that begins at `at`, with the names that `as` gives them. Returns where the tree ends.
fn take_apart(tokens: &[Token], mut at: usize, before: &[String], paths: &mut Vec<(Path, Option<String>)>) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => {
                let end = end_of_group(tokens, at);
                at += 1;
                while at + 1 < end {
                    at = take_apart(tokens, at, &path, paths) + 1;
                }
                return end;
            }
            ":" if tokens.get(at + 1).is_some_and(|next| next.text == ":") => at += 2,
            text if text.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(text.to_owned());
                at += 1;
                if tokens[at..].first().is_none_or(|next| next.text != ":") {
                    break;
                }
            }
            _ => break,
        }
    }
    let alias = tokens.get(at).filter(|token| token.text == "as").and_then(|_| tokens.get(at + 1));
    paths.push((path, alias.map(|alias| alias.text.clone())));
    if alias.is_some() { at + 2 } else { at }
}
