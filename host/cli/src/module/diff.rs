//! `module diff`: how the declarations of two versions of a module differ, and whether the second can follow the first.
//!
//! In: two modules as `module inspect --json` shows them. Out: what was added, removed or changed, item by item and
//! member by member, and the reasons against an upgrade and against a rollback. Only a replay can tell what they
//! *decide* differently.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value as Json, json};
use statehouse_abi::describe::Describe;
use statehouse_engine::guest::{Engine, EngineOptions, check_successor, validate};

use super::inspect;
use super::named::{NamedModule, Releases};
use crate::output::{print, print_json, table};

/// Compare what two modules declare
///
/// Exit code 0: the interfaces are the same. 1: they differ. 2: the second module cannot succeed the first.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The earlier module: a .wasm file, or a release as module@version
    a: String,
    /// The later module: a .wasm file, or a release as module@version
    b: String,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    releases: Releases,
}

/// The interface. If two modules have the same interface, they differ at most in what they decide.
const INTERFACE: [&str; 9] =
    ["name", "schema", "accepts", "commands", "queries", "rejections", "events", "invariants", "exports"];
/// Other facts that are shown about both.
const FACTS: [&str; 7] = ["version", "id", "size", "functions", "memory_bytes_min", "compiler", "schema"];

/// One member that differs; without `before` it was added, without `after` it was removed.
#[derive(Debug, PartialEq, Eq)]
struct MemberChange {
    /// For example `commands.deposit.body.fields.account.required`.
    path: String,
    before: Option<Json>,
    after: Option<Json>,
}

pub(super) fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let [a, b] = [args.releases.read(&args.a)?, args.releases.read(&args.b)?];
    let report = DiffReport::of(&ComparedParts::of(&a)?, &ComparedParts::of(&b)?);
    if args.json {
        print_json(&report.to_json())?
    } else {
        print(&report.text())?
    }
    Ok(ExitCode::from(report.code()))
}

/// The parts of a module that are compared.
struct ComparedParts {
    describe: Describe,
    json: Json,
}

impl ComparedParts {
    /// Asks the module, which need not be compiled for that.
    fn of(named: &NamedModule) -> anyhow::Result<Self> {
        let engine = Engine::new(EngineOptions { instances_max: 1, ..EngineOptions::default() })?;
        let describe = engine.describe(&named.wasm);
        let describe = describe.with_context(|| format!("{} is no module", named.file.display()))?;
        let json = inspect::to_json(&describe, &named.wasm, &validate(&named.wasm).unwrap_or_default());
        Ok(Self { describe, json })
    }
}

struct DiffReport {
    a: Json,
    b: Json,
    changes: Vec<MemberChange>,
    /// The reasons against `b` after `a`.
    forward: Vec<String>,
    /// The reasons against `a` after `b`: a rollback.
    back: Vec<String>,
}

impl DiffReport {
    fn of(a: &ComparedParts, b: &ComparedParts) -> Self {
        let against = |before: &ComparedParts, after: &ComparedParts| {
            check_successor(&before.describe, &after.describe).iter().map(ToString::to_string).collect()
        };
        let (forward, back) = (against(a, b), against(b, a));
        let (a, b) = (a.json.clone(), b.json.clone());
        let mut changes = Vec::new();
        for part in INTERFACE {
            compare(part, &a[part], &b[part], &mut changes);
        }
        Self { a, b, changes, forward, back }
    }

    fn code(&self) -> u8 {
        match (self.forward.is_empty(), self.changes.is_empty()) {
            (false, _) => 2,
            (true, false) => 1,
            (true, true) => 0,
        }
    }

    fn to_json(&self) -> Json {
        let facts =
            |one: &Json| Json::Object(FACTS.map(|fact| (fact.to_owned(), one[fact].clone())).into_iter().collect());
        let changes = self.changes.iter();
        let changes =
            changes.map(|change| json!({"path": change.path, "before": change.before, "after": change.after}));
        json!({
            "a": facts(&self.a), "b": facts(&self.b), "changes": changes.collect::<Vec<_>>(),
            "incompatible": self.forward, "rollback_incompatible": self.back,
        })
    }

    fn text(&self) -> String {
        let names = [&self.a, &self.b].map(|one| format!("{} {}", plain(&one["name"]), plain(&one["version"])));
        let mut facts = table(&["", &names[0], &names[1]]);
        for fact in FACTS.into_iter().skip(1) {
            facts.add_row([fact.to_owned(), plain(&self.a[fact]), plain(&self.b[fact])]);
        }
        let mut lines = vec![facts.to_string()];
        if self.changes.is_empty() {
            lines.push(
                "the same interface: routes, bodies, queries, rejections, events, invariants, schemas, exports".into(),
            );
        }
        lines.extend(self.changes.iter().map(MemberChange::text));
        lines.extend(
            self.forward.iter().map(|why| format!("INCOMPATIBLE: {} cannot follow {}: {why}", names[1], names[0])),
        );
        if self.forward.is_empty() {
            lines.push(format!(
                "compatible: {} can follow {}; a replay shows what it decides otherwise",
                names[1], names[0]
            ));
        }
        let back = self.back.iter();
        lines.extend(back.map(|why| format!("no way back: {} cannot follow {}: {why}", names[0], names[1])));
        lines.join("\n") + "\n"
    }
}

impl MemberChange {
    fn text(&self) -> String {
        match (&self.before, &self.after) {
            (None, Some(after)) => format!("+ {}: {}", self.path, plain(after)),
            (Some(before), None) => format!("- {}: {}", self.path, plain(before)),
            (before, after) => {
                let [before, after] = [before, after].map(|side| side.as_ref().map(plain).unwrap_or_default());
                format!("~ {}: {before} → {after}", self.path)
            }
        }
    }
}

/// Compares members of objects and named items of lists one by one, and everything else as a whole.
fn compare(path: &str, a: &Json, b: &Json, changes: &mut Vec<MemberChange>) {
    if a == b {
        return;
    }
    let [members_a, members_b] = [members(a), members(b)];
    let (Some(members_a), Some(members_b)) = (members_a, members_b) else {
        changes.push(MemberChange { path: path.to_owned(), before: known(a), after: known(b) });
        return;
    };
    let find = |members: &[(String, &Json)], name: &str| {
        members.iter().find(|(other, _)| other == name).map(|(_, value)| (*value).clone())
    };
    for (name, before) in &members_a {
        let path = format!("{path}.{name}");
        match find(&members_b, name) {
            Some(after) => compare(&path, before, &after, changes),
            None => changes.push(MemberChange { path, before: known(before), after: None }),
        }
    }
    for (name, after) in members_b.iter().filter(|(name, _)| find(&members_a, name).is_none()) {
        changes.push(MemberChange { path: format!("{path}.{name}"), before: None, after: known(after) });
    }
}

/// The parts of a value that have names; a list has them if all its items have.
fn members(value: &Json) -> Option<Vec<(String, &Json)>> {
    match value {
        Json::Object(members) => Some(members.iter().map(|(name, value)| (name.clone(), value)).collect()),
        Json::Array(items) => items.iter().map(|item| Some((item_name(item)?, item))).collect(),
        _ => None,
    }
}

fn item_name(item: &Json) -> Option<String> {
    let name = item.get("name").or_else(|| item.get("code"))?;
    name.as_str().map(str::to_owned)
}

fn known(value: &Json) -> Option<Json> {
    Some(value.clone()).filter(|value| !value.is_null())
}

/// A value on one line. For an item, only its summary, if it has one.
fn plain(value: &Json) -> String {
    match value {
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        Json::Array(items) if items.is_empty() => "-".to_owned(),
        Json::Array(items) if items.iter().all(|item| !item.is_object()) => {
            items.iter().map(plain).collect::<Vec<_>>().join(", ")
        }
        Json::Object(members) => {
            let summary = members.get("summary").or_else(|| members.get("title")).and_then(Json::as_str);
            let route = members.get("path").and_then(Json::as_str);
            let method = members.get("method").and_then(Json::as_str).unwrap_or("GET");
            match (route, summary.filter(|summary| !summary.is_empty())) {
                (Some(route), Some(summary)) => format!("{method} {route}: {summary}"),
                (None, Some(summary)) => summary.to_owned(),
                _ => value.to_string(),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn declared(version: &str) -> ComparedParts {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules/releases");
        let file = folder.join(format!("wallet-{version}.wasm"));
        let wasm = std::fs::read(&file).expect("a release stays");
        ComparedParts::of(&NamedModule { file, wasm }).expect("a release is a module")
    }

    /// Exit code, changes, and the reasons against the upgrade and against the rollback.
    fn check(report: &DiffReport, expected: Expect) {
        let mut lines = vec![format!("code {}", report.code())];
        lines.extend(report.changes.iter().map(MemberChange::text));
        lines.extend(report.forward.iter().map(|why| format!("forward: {why}")));
        lines.extend(report.back.iter().map(|why| format!("back: {why}")));
        expected.assert_eq(&(lines.join("\n") + "\n"));
    }

    #[test]
    fn releases_are_compared_by_what_they_declare() {
        let [second, refactored, limits] = ["1.0.1", "1.1.0", "2.0.0"].map(declared);
        check(
            &DiffReport::of(&second, &refactored),
            expect![[r#"
            code 0
        "#]],
        );
        check(
            &DiffReport::of(&refactored, &limits),
            expect![[r#"
            code 1
            ~ schema: 2 → 3
            ~ accepts: 1 → 1, 2
            + commands.set_daily_limit: POST accounts/{account}/daily_limit: Sets how much may leave an account on one UTC day, or lets everything leave
            + queries.account.response.fields.daily_limits: Currency, and what may leave on one UTC day: `limit`, and `left` of it today; absent where there is no limit
            + rejections.daily_limit_exceeded: The payer may not pay that much on one day
            + events.DailyLimitSet: No more than an amount may leave an account on one day, or everything may
            back: it neither has schema 3 nor accepts it, and its predecessor writes it: it is older, and cannot read what its successor wrote
            back: it does not know the event DailyLimitSet, which may be recorded: keep the event, and stop emitting it
        "#]],
        );
        check(
            &DiffReport::of(&limits, &refactored),
            expect![[r#"
            code 2
            ~ schema: 3 → 2
            ~ accepts: 1, 2 → 1
            - commands.set_daily_limit: POST accounts/{account}/daily_limit: Sets how much may leave an account on one UTC day, or lets everything leave
            - queries.account.response.fields.daily_limits: Currency, and what may leave on one UTC day: `limit`, and `left` of it today; absent where there is no limit
            - rejections.daily_limit_exceeded: The payer may not pay that much on one day
            - events.DailyLimitSet: No more than an amount may leave an account on one day, or everything may
            forward: it neither has schema 3 nor accepts it, and its predecessor writes it: it is older, and cannot read what its successor wrote
            forward: it does not know the event DailyLimitSet, which may be recorded: keep the event, and stop emitting it
        "#]],
        );
        let report = DiffReport::of(&refactored, &limits);
        let text = report.text();
        assert!(text.contains("compatible: wallet 2.0.0 can follow wallet 1.1.0"), "{text}");
        assert!(text.contains("no way back: wallet 1.1.0 cannot follow wallet 2.0.0"), "{text}");
        let json = report.to_json();
        assert_eq!((&json["a"]["version"], &json["b"]["schema"]), (&json!("1.1.0"), &json!(3)));
    }

    #[test]
    fn named_items_are_matched_by_name_and_the_rest_as_a_whole() {
        let mut changes = Vec::new();
        let a = json!([{"name": "x", "n": 1, "list": [1, 2]}, {"name": "gone"}]);
        let b = json!([{"name": "new"}, {"name": "x", "n": 2, "list": [2, 1], "more": true}]);
        compare("p", &a, &b, &mut changes);
        let lines: Vec<String> = changes.iter().map(MemberChange::text).collect();
        assert_eq!(
            lines,
            [
                "~ p.x.n: 1 → 2",
                "~ p.x.list: 1, 2 → 2, 1",
                "+ p.x.more: true",
                "- p.gone: {\"name\":\"gone\"}",
                "+ p.new: {\"name\":\"new\"}"
            ]
        );
    }
}
