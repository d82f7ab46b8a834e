//! Trials: the newest commands of a partition are decided again in several ways, all of which must give the same
//! result.
//!
//! In: a module on two engines, rows, recorded commands. Out: the first difference, in words: between batches of
//! different sizes, between engines, or between what `execute` did and what `apply` made of it. A module with a
//! difference decides by something that is not in the log. Each pass over the commands has a time limit: of a module
//! that is slow within its budgets fewer commands are tried, so that a trial ends soon. It does not know what was
//! recorded for the commands; a replay compares with that.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use statehouse_abi::call::Context;
use statehouse_abi::cold::{Rejection, host_rejection};
use statehouse_abi::key::{key, split_key};
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock};
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::rows::{RowsWriter, WritesBlock};

use crate::ids::{CommandId, JournalIndex};
use crate::machine::decide::{Effect, HostFault, decide};
use crate::machine::entry::EntryKind;
use crate::machine::logic::Logic;
use crate::machine::migration::{Migration, MigrationError};
use crate::machine::plan::{Plan, PlanView};
use crate::machine::rejection::read_rejection;
use crate::machine::replay::Rows;
use crate::partition::{Partition, ReadPoint};
use crate::store::View;

/// From how many entries of each partition the commands are decided again.
const ENTRIES: u64 = 256;
/// How many commands of each partition are decided again at most.
const COMMANDS_MAX: usize = 2_048;
/// How many of these the other engine decides, which takes ten to thirty times as long.
const COMMANDS_SLOW_MAX: usize = 256;
/// Largest batch of random size.
const BATCH_MAX: usize = 64;
/// The first batch of a pass whose batches grow. It shows how long a command takes.
const BATCH_FIRST: usize = 16;
/// After this time a pass tries no further commands. An honest module needs a small part of it for all of them.
const PASS: Duration = Duration::from_millis(500);
/// The same on the other engine.
const PASS_SLOW: Duration = Duration::from_secs(2);
/// How many bytes of an event are shown.
const SHOWN_BYTES: usize = 10;

/// Rows that commands are decided on.
pub enum TrialRows<'p> {
    /// The partition's own rows: the module has their schema.
    AsStored(&'p View),
    Migrated(MigratedRows<'p>),
    None,
}

/// Rows as they would be under a module. Only entities that are asked for are migrated.
pub struct MigratedRows<'p> {
    view: &'p View,
    logic: &'p dyn Logic,
    from: u32,
    entities: RefCell<BTreeMap<Vec<u8>, Rows>>,
}

impl<'p> TrialRows<'p> {
    pub fn of(logic: &'p dyn Logic, point: &'p ReadPoint) -> Self {
        let (view, from) = (&point.view, point.journal.schema);
        if from == 0 || from == logic.describe().schema {
            return Self::AsStored(view);
        }
        Self::Migrated(MigratedRows { view, logic, from, entities: RefCell::default() })
    }

    fn find(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::AsStored(view) => view.row(key).map_err(|error| error.to_string()),
            Self::Migrated(rows) => rows.find(key),
            Self::None => Ok(None),
        }
    }
}

impl MigratedRows<'_> {
    fn find(&self, wanted: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Some((entity, _)) = split_key(wanted) else { return Ok(None) };
        let mut entities = self.entities.borrow_mut();
        if let Some(rows) = entities.get(entity) {
            return Ok(rows.get(wanted).cloned());
        }
        let failed = |error: MigrationError| error.to_string();
        let found = self.view.scan(&key(entity, b""), None, usize::MAX).map_err(|error| error.to_string())?;
        let mut migration = Migration::new(self.logic, self.from).map_err(failed)?;
        found.iter().try_for_each(|(key, row)| migration.row(key, row)).map_err(failed)?;
        let mut rows: Rows = found.into_iter().collect();
        for (key, row) in migration.finish().map_err(failed)? {
            match row {
                Some(row) => drop(rows.insert(key, row)),
                None => drop(rows.remove(&key)),
            }
        }
        let row = rows.get(wanted).cloned();
        entities.insert(entity.to_vec(), rows);
        Ok(row)
    }
}

/// A recorded command, to be planned and decided again.
pub struct Past {
    name: String,
    id: CommandId,
    caller: String,
    roles: u32,
    body: Vec<u8>,
    index: JournalIndex,
    context: Context,
}

impl Past {
    fn text(&self) -> String {
        format!("`{}` {} of entry {}", self.name, self.id, self.index)
    }
}

/// The newest commands of a partition, oldest first.
pub fn newest_commands(replica: &Partition, last: JournalIndex) -> Result<Vec<Past>, String> {
    let mut commands = Vec::new();
    let first = last.0.saturating_sub(ENTRIES) + 1;
    for index in (first..=last.0).rev() {
        // Entries that were released or replaced by a snapshot cannot be tried.
        let Ok(recorded) = replica.find_entry(JournalIndex(index)) else { break };
        let entry = &recorded.entry;
        if entry.header().kind != EntryKind::Batch {
            continue;
        }
        let Some(batch) = entry.batch() else { continue };
        let past = (0..batch.command_count()).rev().map(|at| batch.command(at)).map(|command| Past {
            name: command.name.to_owned(),
            id: command.id,
            caller: command.caller.to_owned(),
            roles: command.roles,
            body: command.body.to_vec(),
            index: JournalIndex(index),
            context: entry.header().context(),
        });
        commands.extend(past.take(COMMANDS_MAX - commands.len()));
        if commands.len() == COMMANDS_MAX {
            break;
        }
    }
    commands.reverse();
    Ok(commands)
}

/// Has the commands planned and decided in every way.
///
/// # Errors
/// The first difference.
pub fn check(logic: &dyn Logic, second: &dyn Logic, rows: &TrialRows<'_>, commands: &[Past]) -> Result<(), String> {
    let declared = |past: &&Past| logic.describe().commands.iter().any(|command| command.name == past.name);
    let commands: Vec<&Past> = commands.iter().filter(declared).collect();
    // The commands of a batch share one time and one seed, so the first command gives both.
    let Some(context) = commands.first().map(|command| command.context) else { return Ok(()) };
    let seed = u64::from_le_bytes(logic.id().0[..8].try_into().expect("an id has 32 bytes"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut any_size = || random.random_range(1..=BATCH_MAX);

    let plans = plan(logic, &commands, growing(BATCH_FIRST), PASS)?;
    let commands = &commands[..plans.len()];
    compare_plans(commands, &plans, &plan(logic, commands, || 1, PASS)?, "one by one")?;
    compare_plans(commands, &plans, &plan(logic, commands, &mut any_size, PASS)?, "in other batches")?;
    let (commands, plans) = planned(commands, plans);
    if commands.is_empty() {
        return Ok(());
    }
    let whole = run(logic, rows, context, &plans, growing(BATCH_FIRST), PASS)?;
    let count = whole.outcomes.len();
    let (commands, plans) = (&commands[..count], &plans[..count]);
    check_consistent(commands, &whole)?;
    check_budgets(commands, &whole)?;
    compare(commands, &whole, &run(logic, rows, context, plans, || 1, PASS)?, "one by one")?;
    compare(commands, &whole, &run(logic, rows, context, plans, &mut any_size, PASS)?, "in other batches")?;

    let few = commands.len().saturating_sub(COMMANDS_SLOW_MAX);
    let others = plan(second, &commands[few..], growing(1), PASS_SLOW)?;
    let plans: Vec<Planned> = plans[few..].iter().cloned().map(Ok).collect();
    compare_plans(&commands[few..], &plans, &others, "on another engine")?;
    let (commands, plans) = planned(&commands[few..], plans);
    let first = run(logic, rows, context, &plans, growing(1), PASS)?;
    // Each engine counts its budget its own way, and after a command that one of them stops the rows differ. A command
    // that the first engine stops would take the other one minutes.
    let end = first.outcomes.iter().position(Outcome::is_budget).unwrap_or(first.outcomes.len());
    let other = run(second, rows, context, &plans[..end], growing(1), PASS_SLOW)?;
    let stopped = other.outcomes.iter().position(Outcome::is_budget).unwrap_or(end);
    tracing::debug!(
        module = %logic.id().short(),
        count,
        on_second = other.outcomes.len(),
        "tried a module on what it once decided"
    );
    if stopped < first.outcomes.len() {
        return compare(&commands, &first.up_to(stopped), &other.up_to(stopped), "on another engine");
    }
    compare(&commands, &first, &other, "on another engine")
}

/// Batches of which each is twice as large as the one before it.
fn growing(first: usize) -> impl FnMut() -> usize {
    let mut next = first;
    move || {
        let size = next;
        next = size.saturating_mul(2);
        size
    }
}

/// A plan, or the CBOR of a refusal.
type Planned = Result<Plan, Vec<u8>>;

/// The commands that the module still plans, with their plans.
fn planned<'c>(commands: &[&'c Past], plans: Vec<Planned>) -> (Vec<&'c Past>, Vec<Plan>) {
    commands.iter().zip(plans).filter_map(|(past, plan)| Some((*past, plan.ok()?))).unzip()
}

/// Plans all commands, or as many of the first ones as there is time for, but at least one.
fn plan(
    logic: &dyn Logic,
    commands: &[&Past],
    mut size: impl FnMut() -> usize,
    time: Duration,
) -> Result<Vec<Planned>, String> {
    let since = Instant::now();
    let declared = &logic.describe().commands;
    let mut plans = Vec::with_capacity(commands.len());
    while plans.len() < commands.len() && (plans.is_empty() || since.elapsed() < time) {
        let mut items = PlanInWriter::default();
        let count = size().min(commands.len() - plans.len());
        for past in &commands[plans.len()..][..count] {
            let command = declared.iter().position(|command| command.name == past.name);
            items.item(PlanItem {
                command: command.expect("only declared commands are asked for") as u32,
                roles: past.roles,
                id: past.id.0,
                caller: past.caller.as_bytes(),
                body: &past.body,
            });
        }
        let first = commands[plans.len()];
        let planned = logic.plan(&items.finish(Vec::new()));
        let planned =
            planned.map_err(|fault| format!("it cannot plan {} or a later command: {fault}", first.text()))?;
        let made = Plan::all(planned).map_err(|error| format!("its plans cannot be read: {error}"))?;
        if made.len() != count {
            return Err(format!("it makes {} plans of {count} commands, beginning with {}", made.len(), first.text()));
        }
        plans.extend(made);
    }
    Ok(plans)
}

/// Compares the plans that both have.
fn compare_plans(commands: &[&Past], one: &[Planned], other: &[Planned], how: &str) -> Result<(), String> {
    let differs = one.iter().zip(other).position(|(one, other)| match (one, other) {
        (Ok(one), Ok(other)) => plan_bytes(&one.view()) != plan_bytes(&other.view()),
        (one, other) => one.as_ref().err() != other.as_ref().err(),
    });
    differs
        .map_or(Ok(()), |at| Err(format!("not deterministic: {} is planned in another way {how}", commands[at].text())))
}

/// All of a plan, each part after its length.
fn plan_bytes(plan: &PlanView<'_>) -> Vec<u8> {
    let mut bytes = vec![plan.coordination as u8];
    let mut part = |part: &[u8]| {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    };
    part(plan.home);
    part(plan.body);
    for step in plan.steps() {
        part(&[step.tcc as u8, u8::from(step.undo.is_some())]);
        part(step.op);
        part(step.entity);
        part(step.undo.unwrap_or_default());
        for at in step.first_key..step.first_key + step.key_count {
            let (scope, suffix) = plan.block.key(at);
            part(&[scope as u8]);
            part(suffix);
        }
    }
    bytes
}

/// The outcome of one command.
#[derive(Clone, PartialEq, Eq)]
enum Outcome {
    Events(Vec<(u32, Vec<u8>)>),
    Rejected(Vec<u8>),
}

impl Outcome {
    fn of(block: &OutcomeBlock<'_>, ops: &OpsBlock<'_>, at: usize) -> Self {
        match block.group(at) {
            GroupOutcome::Events { first, count } => {
                let first_op = ops.group(at).first_op;
                let event = |at: u32| {
                    let event = block.event(at as usize);
                    (event.op - first_op, event.payload.to_vec())
                };
                Self::Events((first..first + count).map(event).collect())
            }
            GroupOutcome::Rejected(rejection) => Self::Rejected(rejection.to_vec()),
            GroupOutcome::NeedsKeys => unreachable!("a decided batch needs no keys"),
        }
    }

    fn rejection(&self) -> Option<Rejection> {
        let Self::Rejected(bytes) = self else { return None };
        read_rejection(bytes).ok()
    }

    /// The code, if it is one of the host's own.
    fn code(&self) -> Option<&'static str> {
        let own = [host_rejection::BUDGET, host_rejection::MODULE_TRAP, host_rejection::MODULE_INCONSISTENT];
        let rejection = self.rejection()?;
        own.into_iter().find(|code| *code == rejection.code)
    }

    fn is_budget(&self) -> bool {
        self.code() == Some(host_rejection::BUDGET)
    }

    /// Describes an outcome in a few words, beside another one: the first event in which they differ.
    fn text(&self, beside: &Self) -> String {
        match (self, beside) {
            (Self::Events(events), Self::Events(others)) => {
                let at = events.iter().zip(others).take_while(|(one, other)| one == other).count();
                let Some((_, event)) = events.get(at) else { return format!("{} events", events.len()) };
                let shown: String = event.iter().take(SHOWN_BYTES).map(|byte| format!("{byte:02x}")).collect();
                format!("event {shown}{}", if SHOWN_BYTES < event.len() { "…" } else { "" })
            }
            (Self::Events(events), _) => format!("{} events", events.len()),
            (Self::Rejected(_), _) => self.rejection().map_or("a rejection".to_owned(), |rejection| rejection.code),
        }
    }
}

/// What a run of commands gave: their outcomes in order, and the rows they left.
struct Trial {
    outcomes: Vec<Outcome>,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Trial {
    /// The trial with only its first outcomes.
    fn up_to(&self, count: usize) -> Self {
        Self { outcomes: self.outcomes[..count.min(self.outcomes.len())].to_vec(), rows: BTreeMap::new() }
    }
}

/// Checks that `execute` and `apply` agree. A replica would not find what `execute` leaves in globals for `apply`.
fn check_consistent(commands: &[&Past], whole: &Trial) -> Result<(), String> {
    let is_inconsistent = |outcome: &Outcome| outcome.code() == Some(host_rejection::MODULE_INCONSISTENT);
    let found = whole.outcomes.iter().position(is_inconsistent);
    found.map_or(Ok(()), |at| {
        Err(format!("not deterministic: its execute and apply disagree about {}", commands[at].text()))
    })
}

/// Checks that the module finishes at least half of what clients have sent. One that does not must not be activated.
fn check_budgets(commands: &[&Past], whole: &Trial) -> Result<(), String> {
    let mut stopped = (0..commands.len()).filter(|at| whole.outcomes[*at].is_budget());
    let Some(first) = stopped.next() else { return Ok(()) };
    let count = 1 + stopped.count();
    if count <= commands.len() / 2 {
        return Ok(());
    }
    Err(format!(
        "it uses up its budget on {count} of the newest {} commands, the first being {}: look for a loop without an \
         end",
        commands.len(),
        commands[first].text()
    ))
}

/// Compares the outcomes that both have, and the rows only if both have decided equally many commands.
fn compare(commands: &[&Past], whole: &Trial, other: &Trial, how: &str) -> Result<(), String> {
    let first = whole.outcomes.iter().zip(&other.outcomes).position(|(one, other)| one != other);
    let Some(at) = first else {
        if whole.outcomes.len() != other.outcomes.len() || whole.rows == other.rows {
            return Ok(());
        }
        let differs = |key: &&Vec<u8>| whole.rows.get(*key) != other.rows.get(*key);
        let key = whole.rows.keys().chain(other.rows.keys()).find(differs).expect("they differ in something");
        let key = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        return Err(format!("not deterministic: its outcomes are the same {how}, but the row {key:?} is not"));
    };
    let (one, other) = (&whole.outcomes[at], &other.outcomes[at]);
    let (one, other) = (one.text(other), other.text(one));
    Err(format!("not deterministic: {} gives {one}, but {how} {other}", commands[at].text()))
}

/// Decides all commands, or as many of the first ones as there is time for, but at least one.
fn run(
    logic: &dyn Logic,
    stored: &TrialRows<'_>,
    context: Context,
    plans: &[Plan],
    mut size: impl FnMut() -> usize,
    time: Duration,
) -> Result<Trial, String> {
    let since = Instant::now();
    let mut trial = Trial { outcomes: Vec::with_capacity(plans.len()), rows: BTreeMap::new() };
    let mut rest: Vec<PlanView<'_>> = plans.iter().map(Plan::view).collect();
    while !rest.is_empty() && (trial.outcomes.is_empty() || since.elapsed() < time) {
        let count = size().min(rest.len());
        let fetch = |ops: &OpsBlock<'_>| {
            let mut rows = RowsWriter::default();
            for key in ops.keys() {
                let row = match trial.rows.get(key) {
                    Some(row) => row.clone(),
                    None => stored.find(key).map_err(HostFault)?,
                };
                rows.row(row.as_deref());
            }
            Ok::<_, HostFault>(rows.finish(Vec::new()))
        };
        let decided = decide(logic, context, &rest[..count], fetch).map_err(|fault| fault.to_string())?;
        if decided.effect == Effect::Unasked {
            let said = decided.diagnostics.first().map(|(_, said)| said.text.clone()).unwrap_or_default();
            return Err(format!("its apply fails even where a command is rejected: {said}"));
        }
        let ops = OpsBlock::parse_trusted(&decided.ops).expect("the host wrote this block");
        let outcome = OutcomeBlock::parse(&decided.outcome, &ops).expect("checked when the batch was decided");
        trial.outcomes.extend((0..decided.plan_count).map(|at| Outcome::of(&outcome, &ops, at)));
        let writes = WritesBlock::parse(&decided.writes, ops.key_count()).expect("checked when the batch was decided");
        for (key, row) in writes.writes() {
            trial.rows.insert(ops.key(key as usize).to_vec(), row.map(<[u8]>::to_vec));
        }
        rest.drain(..decided.plan_count);
    }
    Ok(trial)
}
