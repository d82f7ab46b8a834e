//! Scenarios: a text file of inputs, one JSON object a line behind `> `, with the expected outcome beneath each.
//!
//! | input | does |
//! |---|---|
//! | `{"command": "add", "body": {…}}`, optional `caller` `roles` `id` `time` | plays a batch of one |
//! | the same with `"part"`: `try`, `confirm`, `cancel`, and optional `"entity"` | plays only those steps, on that entity alone |
//! | `{"batch": [command, …]}`, optional `time` | plays several commands as one entry |
//! | `{"query": "name", "params": {…}}`, optional `roles` | asks a query |
//! | `{"view": "name", "params": {…}}`, optional `roles` `at` `home` | asks a query of the view that the scenario is about |
//! | `{"check": true}` · `{"rows": true}` | checks the invariants · shows all rows |
//!
//! A view is told of every command as of partition 0, or of `"partition"`. Lines that start with `#` and empty lines stay. Time is in microseconds and rises by one second a line by itself.

use std::fmt::Write;

#[cfg(feature = "expect")]
use expect_test::ExpectFile;
use serde_json::Value as Json;
use statehouse_abi::cold::{QueryOut, RenderItem, Row};
use statehouse_abi::key::split_key;
use statehouse_abi::role;
#[cfg(feature = "expect")]
use statehouse_guest::Module;
use statehouse_guest::{Uuid, Value};
#[cfg(feature = "expect")]
use statehouse_projection::Projection;
use statehouse_projection::abi::QueryOut as ViewOut;

use crate::engine::{Engine, EngineError};
#[cfg(feature = "expect")]
use crate::engine::{Native, Twin, Wasm};
use crate::json::{from_json, to_json};
#[cfg(feature = "expect")]
use crate::view::NativeView;
use crate::view::{Asked, ViewEngine, ViewWorld};
use crate::world::{Command, Outcome, Part, Played, World};

/// What a line that does not say its time adds to the time before: one second.
const TIME_STEP: i64 = 1_000_000;
/// Rows a chunk when invariants are checked: few, so that accumulators matter.
const CHECK_ROWS: usize = 3;

const ROLES: [(&str, u32); 6] = [
    ("client", role::CLIENT),
    ("treasury", role::TREASURY),
    ("auditor", role::AUDITOR),
    ("developer", role::DEVELOPER),
    ("operator", role::OPERATOR),
    ("admin", role::ADMIN),
];

/// Plays the file natively and, when its bytes are given, as wasm, and compares the outcome with the file.
/// With `UPDATE_EXPECT=1` the expected part is rewritten instead.
///
/// # Panics
/// The outcome is not the expected one, the twins do not agree, or the file is malformed.
#[cfg(feature = "expect")]
pub fn check<M: Module>(file: &ExpectFile, wasm: Option<&[u8]>) {
    let text = file.data();
    compare(
        file,
        match wasm {
            None => play(Native::<M>::default(), &text),
            Some(wasm) => Wasm::new(wasm).and_then(|wasm| play(Twin { native: Native::<M>::default(), wasm }, &text)),
        },
    );
}

/// As [`check`], about a view: the commands are those of `source`, the wasm of the view's machine.
///
/// # Panics
/// As [`check`].
#[cfg(feature = "expect")]
pub fn check_view<P: Projection>(file: &ExpectFile, source: &[u8], wasm: Option<&[u8]>) {
    let text = file.data();
    compare(
        file,
        Wasm::new(source).and_then(|source| match wasm {
            None => play_view(source, NativeView::<P>::default(), &text),
            Some(wasm) => play_view(source, Twin { native: NativeView::<P>::default(), wasm: Wasm::new(wasm)? }, &text),
        }),
    );
}

#[cfg(feature = "expect")]
fn compare(file: &ExpectFile, played: Result<String, EngineError>) {
    match played {
        Ok(played) => file.assert_eq(&played),
        Err(error) => panic!("{}: {error}", file.path.display()),
    }
}

/// The scenario again, with what happened beneath each input.
///
/// # Errors
/// The scenario cannot be read, or the module does what is not an outcome.
pub fn play<E: Engine>(engine: E, text: &str) -> Result<String, EngineError> {
    Player { world: World::new(engine)?, view: None, time: 0, ids: 0 }.play(text)
}

/// The same about a view of the machine that `source` is a module of.
///
/// # Errors
/// As [`play`].
pub fn play_view<E: Engine>(source: E, view: impl ViewEngine + 'static, text: &str) -> Result<String, EngineError> {
    let view = Some(ViewWorld::new(Box::new(view))?);
    Player { world: World::new(source)?, view, time: 0, ids: 0 }.play(text)
}

struct Player<E> {
    world: World<E>,
    view: Option<ViewWorld>,
    time: i64,
    /// How many ids were made for commands that have none.
    ids: u128,
}

impl<E: Engine> Player<E> {
    fn play(mut self, text: &str) -> Result<String, EngineError> {
        let mut out = String::new();
        for line in text.lines() {
            let is_kept = line.is_empty() || line.starts_with('#') || line.starts_with("> ");
            if is_kept {
                out.push_str(line);
                out.push('\n');
            }
            if let Some(input) = line.strip_prefix("> ") {
                let input = serde_json::from_str(input).map_err(|error| malformed(format!("{line}: {error}")))?;
                self.input(&input, &mut out)?;
            }
        }
        Ok(out)
    }

    fn input(&mut self, input: &Json, out: &mut String) -> Result<(), EngineError> {
        self.time = input["time"].as_i64().unwrap_or(self.time + TIME_STEP);
        if let Some(batch) = input["batch"].as_array() {
            self.batch(batch, out)
        } else if let Some(part) = input["part"].as_str() {
            self.part(part, input, out)
        } else if input["command"].is_string() {
            self.batch(std::slice::from_ref(input), out)
        } else if let Some(name) = input["query"].as_str() {
            self.query(name, input, out)
        } else if let Some(name) = input["view"].as_str() {
            self.ask(name, input, out)
        } else if input["check"] == true {
            self.check(out)
        } else if input["rows"] == true {
            self.rows(out)
        } else {
            Err(malformed(format!("{input} is no input of a scenario")))
        }
    }

    fn batch(&mut self, batch: &[Json], out: &mut String) -> Result<(), EngineError> {
        let commands = batch.iter().map(|input| self.command(input)).collect::<Result<Vec<_>, _>>()?;
        let partition = batch.first().and_then(|first| first["partition"].as_u64()).unwrap_or_default() as u32;
        let played = self.world.play(&commands, self.time)?;
        for played in &played {
            self.outcome(played, out)?;
        }
        match &mut self.view {
            Some(view) => view.tell(&self.world, partition, &commands, &played),
            None => Ok(()),
        }
    }

    fn part(&mut self, part: &str, input: &Json, out: &mut String) -> Result<(), EngineError> {
        let part = match part {
            "try" => Part::Try,
            "confirm" => Part::Confirm,
            "cancel" => Part::Cancel,
            _ => return Err(malformed(format!("{part} is no part of a command"))),
        };
        let command = self.command(input)?;
        let entity = input["entity"].as_str().map(str::as_bytes);
        let played = self.world.play_part(&command, part, entity, self.time)?;
        if played.outcome == Outcome::Accepted { self.events(&played, out) } else { self.outcome(&played, out) }
    }

    fn command(&mut self, input: &Json) -> Result<Command, EngineError> {
        let name = input["command"].as_str().ok_or_else(|| malformed("a command needs its name"))?;
        let body = from_json(&input["body"]).map_err(malformed)?;
        let decl = self.world.describe().commands.iter().find(|decl| decl.name == name);
        let id_field = decl.and_then(|decl| decl.id_field.as_deref());
        let in_body = id_field.and_then(|field| body.find(field)).and_then(Value::as_text).and_then(Uuid::parse);
        let id = match in_body.or_else(|| input["id"].as_str().and_then(Uuid::parse)) {
            Some(id) => id.0,
            None => {
                self.ids += 1;
                self.ids.to_be_bytes()
            }
        };
        let caller = input["caller"].as_str().unwrap_or("anonymous").into();
        Ok(Command { name: name.into(), body, caller, roles: roles(input)?, id })
    }

    fn outcome(&self, played: &Played, out: &mut String) -> Result<(), EngineError> {
        let facts = &played.facts;
        match &played.outcome {
            Outcome::Refused(refusal) => {
                let field = refusal.field.as_ref().map_or(String::new(), |field| format!(" (field {field})"));
                line(out, format_args!("refused {} {}: {}{field}", refusal.status, refusal.code, refusal.detail));
            }
            Outcome::Trapped(text) => line(out, format_args!("module_trap: {text}")),
            Outcome::Rejected(rejection) => {
                let declared = &self.world.describe().rejections;
                let decl = declared.iter().find(|decl| decl.code == rejection.code);
                let decl = decl.ok_or_else(|| malformed(format!("{} is not declared", rejection.code)))?;
                let members = self.world.render(&[RenderItem::Rejected(facts.clone())])?;
                let members = to_json(&members[0]);
                line(out, format_args!("rejected {} {}: {} {members}", decl.status, decl.code, rejection.detail));
            }
            Outcome::Accepted => {
                let response = self.world.render(&[RenderItem::Response(facts.clone())])?;
                let decl = self.world.describe().commands.iter().find(|decl| decl.name == facts.command);
                let status = decl.map_or(200, |decl| decl.success);
                line(out, format_args!("{status} {}", to_json(&response[0])));
                self.events(played, out)?;
            }
        }
        Ok(())
    }

    fn events(&self, played: &Played, out: &mut String) -> Result<(), EngineError> {
        for event in self.world.render(&World::<E>::event_items(played))? {
            line(out, format_args!("  event {}", to_json(&event)));
        }
        Ok(())
    }

    fn query(&self, name: &str, input: &Json, out: &mut String) -> Result<(), EngineError> {
        let params = from_json(&input["params"]).map_err(malformed)?;
        match self.world.query(name, params, roles(input)?, self.time)? {
            QueryOut::Done(value) => line(out, format_args!("200 {}", to_json(&value))),
            QueryOut::NotFound(refusal) => line(out, format_args!("404 {}: {}", refusal.code, refusal.detail)),
            QueryOut::Refused(refusal) => {
                line(out, format_args!("refused {} {}: {}", refusal.status, refusal.code, refusal.detail));
            }
            QueryOut::Need(_) => return Err(malformed("a query still needs rows")),
        }
        Ok(())
    }

    fn ask(&self, name: &str, input: &Json, out: &mut String) -> Result<(), EngineError> {
        let view = self.view.as_ref().ok_or_else(|| malformed("the scenario is not about a view"))?;
        let params = from_json(&input["params"]).map_err(malformed)?;
        let home = Some(input["home"].as_u64().unwrap_or_default() as u32);
        let asked = Asked { params, roles: roles(input)?, at: input["at"].as_i64(), home };
        match view.query(name, asked)? {
            ViewOut::Done(value) => line(out, format_args!("200 {}", to_json(&value))),
            ViewOut::NotFound(refusal) => line(out, format_args!("404 {}: {}", refusal.code, refusal.detail)),
            ViewOut::Refused(refusal) => {
                line(out, format_args!("refused {} {}: {}", refusal.status, refusal.code, refusal.detail));
            }
            ViewOut::Need(_) => return Err(malformed("a query still needs rows")),
        }
        Ok(())
    }

    fn check(&self, out: &mut String) -> Result<(), EngineError> {
        let violations = self.world.check(CHECK_ROWS)?;
        if violations.is_empty() {
            line(out, format_args!("all invariants hold"));
        }
        for violation in violations {
            line(out, format_args!("violated {}: {}", violation.invariant, violation.detail));
        }
        Ok(())
    }

    fn rows(&self, out: &mut String) -> Result<(), EngineError> {
        let rows = self.world.rows().iter();
        let items = rows.map(|(key, row)| RenderItem::Row(Row { key: key.clone(), row: Some(row.clone()) }));
        let values = self.world.render(&items.collect::<Vec<_>>())?;
        for (key, value) in self.world.rows().keys().zip(values) {
            let (entity, suffix) = split_key(key).ok_or_else(|| malformed("a row's key is no key"))?;
            line(out, format_args!("{}/{} {}", entity.escape_ascii(), suffix.escape_ascii(), to_json(&value)));
        }
        Ok(())
    }
}

/// All roles when the input does not say, as on a node without tokens.
fn roles(input: &Json) -> Result<u32, EngineError> {
    let Some(names) = input["roles"].as_array() else { return Ok(role::ALL) };
    names.iter().try_fold(0, |roles, name| {
        let known = ROLES.iter().find(|(known, _)| name == known);
        known.map(|(_, bit)| roles | bit).ok_or_else(|| malformed(format!("{name} is no role")))
    })
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes all text");
}

fn malformed(text: impl Into<String>) -> EngineError {
    EngineError::Scenario(text.into())
}
