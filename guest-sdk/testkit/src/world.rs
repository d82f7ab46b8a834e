//! The smallest thing that can play a module: rows in a map, one batch after the other, no log and one partition.
//!
//! A batch is planned, executed until all keys are known, applied from its recorded events, and folded into the rows;
//! the writes of execute and apply must agree. A batch that traps is played again command by command. A part of a command
//! can be played by itself, as a host does that finds its entities on several partitions.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use statehouse_abi::call::{Context, ExecuteOut, write_apply_in, write_execute_in};
use statehouse_abi::cold::{
    CheckIn, CheckOut, CommandFacts, EventBytes, EventFacts, MigrateIn, MigrateOut, QueryIn, QueryOut, Refusal,
    Rejection, RenderItem, Row, Scan, ScanRange, Violation,
};
use statehouse_abi::describe::Describe;
use statehouse_abi::key::{LOCAL, Scope, key};
use statehouse_abi::ops::{OpRole, OpsBlock, OpsWriter};
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock};
use statehouse_abi::plan::{PlanInWriter, PlanItem, PlanOut, Planned, TccRole};
use statehouse_abi::rows::{RowsWriter, WritesBlock};
use statehouse_abi::value::Value;
use statehouse_guest::native::Export;

use crate::engine::{Engine, EngineError};

/// How often a batch is run to learn its keys, and a query to learn its rows.
const ROUNDS_MAX: usize = 8;

/// A command as a client sends it.
#[derive(Clone, Debug)]
pub struct Command {
    pub name: String,
    pub body: Value,
    pub caller: String,
    /// Bits of [`role`](statehouse_abi::role).
    pub roles: u32,
    pub id: [u8; 16],
}

/// A part of a command: what a host plays by itself when the steps are on several partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The steps of Try.
    Try,
    /// The steps of Confirm.
    Confirm,
    /// The undo of every step of Try, the last one first.
    Cancel,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Refused(Refusal),
    Accepted,
    Rejected(Rejection),
    /// The module panicked with this text; the host records the rejection `module_trap`.
    Trapped(String),
}

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    pub outcome: Outcome,
    pub facts: CommandFacts,
    pub home: Vec<u8>,
}

impl Played {
    /// What must not depend on how commands were batched: the outcome and the events.
    pub fn decision(&self) -> (&Outcome, &[EventBytes]) {
        (&self.outcome, &self.facts.events)
    }
}

pub struct World<E> {
    engine: E,
    describe: Describe,
    pub(crate) rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Number of batches that were played.
    pub(crate) index: u64,
}

/// A plan, copied out of the PLAN_OUT block.
struct Plan {
    home: Vec<u8>,
    body: Vec<u8>,
    steps: Vec<Step>,
}

struct Step {
    op: Vec<u8>,
    entity: Vec<u8>,
    keys: Vec<Vec<u8>>,
    undo: Option<Vec<u8>>,
    tcc: TccRole,
    role: OpRole,
}

impl<E: Engine> World<E> {
    /// # Errors
    /// The module does not describe itself.
    pub fn new(engine: E) -> Result<Self, EngineError> {
        let describe = decode(&engine.call(Export::Describe, &[])?)?;
        Ok(Self { engine, describe, rows: BTreeMap::new(), index: 0 })
    }

    pub fn describe(&self) -> &Describe {
        &self.describe
    }

    /// All rows, by full key.
    pub fn rows(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.rows
    }

    /// The position of the state, as clients would see it.
    pub fn position(&self) -> String {
        format!("0.{}", self.index)
    }

    /// Plays the commands as one entry at this time (microseconds since 1970 UTC).
    ///
    /// # Errors
    /// Whatever is not an outcome: the engines or `execute` and `apply` do not agree, output that is not of the ABI,
    /// a trap in `plan` or `apply`, keys still unknown after the last round.
    pub fn play(&mut self, commands: &[Command], time: i64) -> Result<Vec<Played>, EngineError> {
        let plans = self.plan(commands)?;
        let context = context(time);
        match self.play_batch(commands, &plans, context) {
            Err(EngineError::Trap(text)) if commands.len() == 1 => {
                Ok(vec![self.trapped(&commands[0], &plans[0], time, text)])
            }
            Err(EngineError::Trap(_)) => {
                let mut played = Vec::new();
                for command in commands {
                    played.extend(self.play(std::slice::from_ref(command), time)?);
                }
                Ok(played)
            }
            result => result,
        }
    }

    /// Plays one part of a command as an entry of its own; with an entity only the steps on it.
    ///
    /// # Errors
    /// As [`play`](Self::play); or the command has no such step.
    pub fn play_part(
        &mut self,
        command: &Command,
        part: Part,
        entity: Option<&[u8]>,
        time: i64,
    ) -> Result<Played, EngineError> {
        let mut plans = self.plan(std::slice::from_ref(command))?;
        if let [Ok(plan)] = plans.as_mut_slice() {
            plan.keep(part, entity)?;
        }
        match self.play_batch(std::slice::from_ref(command), &plans, context(time)) {
            Err(EngineError::Trap(text)) => Ok(self.trapped(command, &plans[0], time, text)),
            result => result?.pop().ok_or_else(|| wrong("a command is missing")),
        }
    }

    /// Plays the commands in batches of these sizes, in turn, all at one time.
    ///
    /// # Errors
    /// As [`play`](Self::play).
    ///
    /// # Panics
    /// A batch size is 0, or there is none.
    pub fn play_in_batches(
        &mut self,
        commands: &[Command],
        sizes: &[usize],
        time: i64,
    ) -> Result<Vec<Played>, EngineError> {
        assert!(!sizes.is_empty() && !sizes.contains(&0), "a batch has at least one command");
        let (mut rest, mut played) = (commands, Vec::new());
        for size in sizes.iter().cycle() {
            let (batch, behind) = rest.split_at((*size).min(rest.len()));
            if batch.is_empty() {
                break;
            }
            played.extend(self.play(batch, time)?);
            rest = behind;
        }
        Ok(played)
    }

    fn plan(&self, commands: &[Command]) -> Result<Vec<Result<Plan, Refusal>>, EngineError> {
        let mut input = PlanInWriter::default();
        for command in commands {
            let index = self.describe.commands.iter().position(|decl| decl.name == command.name);
            let body = command.body.to_cbor().map_err(wrong)?;
            input.item(PlanItem {
                command: index.map_or(u32::MAX, |index| index as u32),
                roles: command.roles,
                id: command.id,
                caller: command.caller.as_bytes(),
                body: &body,
            });
        }
        let output = self.engine.call(Export::Plan, &input.finish(Vec::new()))?;
        let output = PlanOut::parse(&output).map_err(wrong)?;
        if output.count() != commands.len() {
            return Err(wrong("a plan is missing"));
        }
        (0..output.count())
            .map(|at| match output.item(at) {
                Planned::Refused(refusal) => Ok(Err(decode(refusal)?)),
                Planned::Plan { home, body, first_step, step_count, .. } => {
                    let steps = (first_step..first_step + step_count).map(|at| Step::copy(&output, at)).collect();
                    Ok(Ok(Plan { home: home.into(), body: body.into(), steps }))
                }
            })
            .collect()
    }

    fn play_batch(
        &mut self,
        commands: &[Command],
        plans: &[Result<Plan, Refusal>],
        context: Context,
    ) -> Result<Vec<Played>, EngineError> {
        let mut steps: Vec<(usize, &Step, Vec<Vec<u8>>)> = Vec::new();
        for (at, plan) in plans.iter().enumerate() {
            let planned = plan.iter().flat_map(|plan| &plan.steps);
            steps.extend(planned.map(|step| (at, step, step.keys.clone())));
        }
        for _ in 0..ROUNDS_MAX {
            let ops = ops_block(&steps);
            let ops_parsed = OpsBlock::parse(&ops).map_err(wrong)?;
            let rows = self.rows_block(&ops_parsed);
            let output = self.engine.call(Export::Execute, &write_execute_in(Vec::new(), context, &ops, &rows))?;
            let output = ExecuteOut::parse(&output).map_err(wrong)?;
            for needed in output.needed() {
                steps[needed.op as usize].2.push(needed.key.into());
            }
            if output.needed().len() == 0 {
                let input = write_apply_in(Vec::new(), context, &ops, &rows, output.outcome);
                let writes = match self.engine.call(Export::Apply, &input) {
                    Err(EngineError::Trap(text)) => return Err(wrong(format!("apply panicked: {text}"))),
                    result => result?,
                };
                if writes != output.writes {
                    return Err(wrong("the writes of execute and of apply differ"));
                }
                let played = self.facts(commands, plans, &ops_parsed, output.outcome, context.time)?;
                self.fold(&ops_parsed, &writes)?;
                return Ok(played);
            }
        }
        Err(wrong(format!("keys are still unknown after {ROUNDS_MAX} rounds")))
    }

    fn rows_block(&self, ops: &OpsBlock<'_>) -> Vec<u8> {
        let mut rows = RowsWriter::default();
        for key in ops.keys() {
            rows.row(self.rows.get(key).map(Vec::as_slice));
        }
        rows.finish(Vec::new())
    }

    fn fold(&mut self, ops: &OpsBlock<'_>, writes: &[u8]) -> Result<(), EngineError> {
        for (key, row) in WritesBlock::parse(writes, ops.key_count()).map_err(wrong)?.writes() {
            let key = ops.key(key as usize);
            match row {
                Some(row) => self.rows.insert(key.into(), row.into()),
                None => self.rows.remove(key),
            };
        }
        self.index += 1;
        Ok(())
    }

    fn facts(
        &self,
        commands: &[Command],
        plans: &[Result<Plan, Refusal>],
        ops: &OpsBlock<'_>,
        outcome: &[u8],
        time: i64,
    ) -> Result<Vec<Played>, EngineError> {
        let outcome = OutcomeBlock::parse(outcome, ops).map_err(wrong)?;
        let mut groups = 0..outcome.group_count();
        let mut played = Vec::new();
        for (command, plan) in commands.iter().zip(plans) {
            let mut one = self.played(command, plan, time);
            if plan.is_ok() {
                let group = groups.next().ok_or_else(|| wrong("a group is missing"))?;
                match outcome.group(group) {
                    GroupOutcome::Rejected(rejection) => one.outcome = Outcome::Rejected(decode(rejection)?),
                    GroupOutcome::NeedsKeys => return Err(wrong("a group needs keys and does not say which")),
                    GroupOutcome::Events { first, count } => {
                        let events = (first..first + count).map(|at| outcome.event(at as usize));
                        one.facts.events = events.map(|event| event_bytes(ops, event)).collect();
                    }
                }
            }
            if let Outcome::Rejected(rejection) = &one.outcome {
                one.facts.rejection = Some(rejection.clone());
            }
            played.push(one);
        }
        Ok(played)
    }

    /// Accepted without events, or refused.
    fn played(&self, command: &Command, plan: &Result<Plan, Refusal>, time: i64) -> Played {
        let (outcome, home, body) = match plan {
            Ok(plan) => (Outcome::Accepted, plan.home.clone(), plan.body.clone()),
            Err(refusal) => (Outcome::Refused(refusal.clone()), Vec::new(), Vec::new()),
        };
        let facts = CommandFacts {
            command: command.name.clone(),
            id: command.id,
            body,
            time,
            position: format!("0.{}", self.index + 1),
            events: Vec::new(),
            rejection: None,
            phases: Vec::new(),
        };
        Played { outcome, facts, home }
    }

    fn trapped(&self, command: &Command, plan: &Result<Plan, Refusal>, time: i64, text: String) -> Played {
        Played { outcome: Outcome::Trapped(text), ..self.played(command, plan, time) }
    }

    /// # Errors
    /// A trap, or output that is not of the ABI.
    pub fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, EngineError> {
        let values: Vec<Value> = decode(&self.engine.call(Export::Render, &encode(&items)?)?)?;
        if values.len() == items.len() { Ok(values) } else { Err(wrong("render gave too few or too many values")) }
    }

    /// Each event of a played command, to be rendered.
    pub fn event_items(played: &Played) -> Vec<RenderItem> {
        let facts = &played.facts;
        let item = |event: &EventBytes| EventFacts {
            event: event.clone(),
            command: facts.command.clone(),
            id: facts.id,
            body: facts.body.clone(),
            time: facts.time,
            position: facts.position.clone(),
        };
        facts.events.iter().map(|event| RenderItem::Event(item(event))).collect()
    }

    /// Answers a query over as many rounds as it takes.
    ///
    /// # Errors
    /// A trap, output that is not of the ABI, or too many rounds.
    pub fn query(&self, name: &str, params: Value, roles: u32, time: i64) -> Result<QueryOut, EngineError> {
        let position = self.position();
        let mut input =
            QueryIn { name: name.into(), params, roles, time, position, rows: Vec::new(), scans: Vec::new() };
        for _ in 0..ROUNDS_MAX {
            match decode(&self.engine.call(Export::Query, &encode(&input)?)?)? {
                QueryOut::Need(need) => {
                    input.rows.extend(need.keys.into_iter().map(|key| {
                        let row = self.rows.get(&key.0).cloned();
                        Row { key: key.0, row }
                    }));
                    input.scans.extend(need.scans.into_iter().map(|range| self.scan(range)));
                }
                done => return Ok(done),
            }
        }
        Err(wrong(format!("the query wants more rows after {ROUNDS_MAX} rounds")))
    }

    fn scan(&self, range: ScanRange) -> Scan {
        let from = range.after.as_ref().filter(|after| range.prefix <= **after).unwrap_or(&range.prefix);
        let rows = self.rows.range(from.clone()..).filter(|(key, _)| Some(*key) != range.after.as_ref());
        let mut rows = rows.take_while(|(key, _)| key.starts_with(&range.prefix));
        let page = rows.by_ref().take(range.limit as usize);
        let page = page.map(|(key, row)| Row { key: key.clone(), row: Some(row.clone()) }).collect();
        let more = rows.next().is_some();
        Scan { range, rows: page, more }
    }

    /// Checks the invariants over all rows, `chunk_rows` at a time.
    ///
    /// # Errors
    /// A trap, or output that is not of the ABI.
    pub fn check(&self, chunk_rows: usize) -> Result<Vec<Violation>, EngineError> {
        let rows = self.rows.iter().map(|(key, row)| Row { key: key.clone(), row: Some(row.clone()) });
        let rows: Vec<Row> = rows.collect();
        let mut chunks: Vec<&[Row]> = rows.chunks(chunk_rows).collect();
        chunks.push(&[]);
        let (mut accumulator, mut violations) = (Vec::new(), Vec::new());
        for (at, chunk) in chunks.iter().enumerate() {
            let input = CheckIn { accumulator, rows: chunk.to_vec(), is_last: at + 1 == chunks.len() };
            let output: CheckOut = decode(&self.engine.call(Export::Check, &encode(&input)?)?)?;
            violations.extend(output.violations);
            accumulator = output.accumulator;
        }
        Ok(violations)
    }

    /// Asks the module to bring these rows of one entity over from an older schema.
    ///
    /// # Errors
    /// A trap, or output that is not of the ABI.
    pub fn migrate(&self, from_schema: u32, entity: &[u8], rows: Vec<Row>) -> Result<MigrateOut, EngineError> {
        let input = MigrateIn { from_schema, entity: entity.into(), rows };
        decode(&self.engine.call(Export::Migrate, &encode(&input)?)?)
    }
}

impl Plan {
    fn keep(&mut self, part: Part, entity: Option<&[u8]>) -> Result<(), EngineError> {
        let tcc = if part == Part::Confirm { TccRole::Confirm } else { TccRole::Try };
        self.steps.retain(|step| step.tcc == tcc && entity.is_none_or(|entity| step.entity == entity));
        if part == Part::Cancel {
            self.steps.reverse();
            for step in &mut self.steps {
                step.op = step.undo.take().ok_or_else(|| wrong("a step of Try has no undo"))?;
                step.role = OpRole::Undo;
            }
        }
        if self.steps.is_empty() { Err(wrong("the command has no such step")) } else { Ok(()) }
    }
}

impl Step {
    fn copy(output: &PlanOut<'_>, at: u32) -> Self {
        let step = output.step(at);
        let keys = (step.first_key..step.first_key + step.key_count).map(|at| match output.key(at) {
            (Scope::Own, suffix) => key(step.entity, suffix),
            (Scope::Local, suffix) => key(LOCAL, suffix),
        });
        let undo = step.undo.map(<[u8]>::to_vec);
        let (op, entity, keys) = (step.op.into(), step.entity.into(), keys.collect());
        Self { op, entity, keys, undo, tcc: step.tcc, role: OpRole::Step }
    }
}

fn context(time: i64) -> Context {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&time.to_le_bytes());
    Context { time, seed }
}

/// Groups by command; every key gets one index.
fn ops_block(steps: &[(usize, &Step, Vec<Vec<u8>>)]) -> Vec<u8> {
    let mut ops = OpsWriter::default();
    let mut known: BTreeMap<&[u8], u32> = BTreeMap::new();
    let mut command_before = None;
    for (command, step, keys) in steps {
        if command_before != Some(*command) {
            ops.group(*command as u32);
            command_before = Some(*command);
        }
        let indices: Vec<u32> = keys.iter().map(|key| *known.entry(key).or_insert_with(|| ops.key(key))).collect();
        ops.op(&step.entity, &step.op, indices, step.role);
    }
    ops.finish(Vec::new())
}

fn event_bytes(ops: &OpsBlock<'_>, event: statehouse_abi::outcome::Event<'_>) -> EventBytes {
    let op = ops.op(event.op as usize);
    EventBytes { entity: op.entity.into(), op: op.payload.into(), event: event.payload.into() }
}

fn encode<T: Encode<()>>(value: &T) -> Result<Vec<u8>, EngineError> {
    minicbor::to_vec(value).map_err(wrong)
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, EngineError> {
    minicbor::decode(bytes).map_err(wrong)
}

fn wrong(error: impl std::fmt::Display) -> EngineError {
    EngineError::Module(error.to_string())
}
