//! A module on trial: its logic, with a bound for every job that calls it repeatedly.
//!
//! In: logic, and a [`Stop`] that the job shares. Out: the same answers, until the job must stop or the module has cost
//! too much in vain: single commands that used up their budget, or answers that cannot be read, are far too long or
//! took far too long. From then on every call fails at once, and the stop says why. The job must look at the stop
//! before it trusts the results of its calls. This file does not know what the job is.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use statehouse_abi::call::Context;
use statehouse_abi::cold::{CheckIn, CheckOut, MigrateIn, MigrateOut, QueryIn, QueryOut, RenderItem};
use statehouse_abi::describe::Describe;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::plan::PlanIn;
use statehouse_abi::value::Value;

use crate::ids::ModuleId;
use crate::limits::{
    GUEST_FUEL_BASE, GUEST_FUEL_MAX, GUEST_FUEL_PER_GROUP, GUEST_WATCHDOG, TRIAL_ANSWER_BYTES_OWED,
    TRIAL_ANSWER_BYTES_PER_STRIKE, TRIAL_CALLS_PER_STRIKE, TRIAL_RENDERS_MAX, TRIAL_STOP_GRACE,
    TRIAL_STRIKES_FACTOR_SLOW, TRIAL_STRIKES_MAX, TRIAL_STRIKES_OF_WATCHDOG, TRIAL_TIME_OWED,
};
use crate::machine::logic::{Fault, Logic, Pace, ViewLogic};

/// How many groups have budgets whose sum is below the most that a metered call gets.
const GROUPS_METERED: usize = ((GUEST_FUEL_MAX - GUEST_FUEL_BASE) / GUEST_FUEL_PER_GROUP) as usize;

/// Excess time of calls that counts as one strike: the same rate as for the watchdog.
const MICROS_PER_STRIKE: u64 = GUEST_WATCHDOG.as_micros() as u64 / TRIAL_STRIKES_OF_WATCHDOG;

/// What a module has cost in vain.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Waste {
    #[error("used up the budget of one command")]
    Unended,
    #[error("answered what cannot be read")]
    Unreadable,
    #[error("answered far more than its commands could need")]
    TooLong,
    #[error("took far longer than its commands could need")]
    Slow,
}

/// The role of a module in the job that calls it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TrialRole {
    /// Somebody may have sent a command that it cannot answer, and that was recorded: only calls that do not end count.
    Recorded,
    Candidate,
    /// The candidate on the second engine, which is slower and gets no more time.
    Second,
}

impl TrialRole {
    fn factor(self) -> u64 {
        if self == Self::Second { TRIAL_STRIKES_FACTOR_SLOW } else { 1 }
    }
}

/// Why no more calls are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// Nobody waits for the job.
    Stopped,
    /// As text for the author of the module.
    Spent(String),
}

/// Ends a job, because somebody no longer wants it or because of the module.
#[derive(Debug, Default)]
pub struct Stop {
    is_asked: AtomicBool,
    /// Since when a call has known about the request.
    noticed: OnceLock<Instant>,
    cause: OnceLock<StopCause>,
}

impl Stop {
    pub fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
    }

    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Acquire)
    }

    /// Why a call was not made. The results of the job since then are worthless.
    pub fn cause(&self) -> Option<&StopCause> {
        self.cause.get()
    }

    /// A job that checks for itself whether it must stop gets a moment to reach such a check.
    fn check(&self) -> Result<(), Fault> {
        if self.is_asked() && TRIAL_STOP_GRACE < self.noticed.get_or_init(Instant::now).elapsed() {
            self.cause.get_or_init(|| StopCause::Stopped);
        }
        match self.cause.get() {
            None => Ok(()),
            Some(StopCause::Stopped) => Err(Fault::Host { what: "it was told to stop".to_owned() }),
            Some(StopCause::Spent(why)) => Err(Fault::Host { what: why.clone() }),
        }
    }
}

/// See the head of this file.
pub struct GuardedLogic {
    logic: Arc<dyn Logic>,
    stop: Arc<Stop>,
    /// The watchdog has stopped a call: from then on calls of few commands are metered, because these end sooner.
    is_slow: AtomicBool,
    calls: AtomicU64,
    strikes: AtomicU64,
    part: TrialRole,
    /// Bytes of answers beyond what their calls were allowed.
    surplus: AtomicU64,
    /// Microseconds that calls took beyond what they were allowed.
    late: AtomicU64,
    renders_stopped: AtomicU64,
}

impl GuardedLogic {
    /// Guards a candidate.
    pub fn around(logic: Arc<dyn Logic>, stop: &Arc<Stop>) -> Arc<dyn Logic> {
        Arc::new(Self::new(logic, stop, TrialRole::Candidate))
    }

    /// Guards a candidate on the second engine.
    pub fn around_second(logic: Arc<dyn Logic>, stop: &Arc<Stop>) -> Arc<dyn Logic> {
        Arc::new(Self::new(logic, stop, TrialRole::Second))
    }

    /// Guards a module that decided what is replayed.
    pub fn around_recorded(logic: Arc<dyn Logic>, stop: &Arc<Stop>) -> Arc<dyn Logic> {
        Arc::new(Self::new(logic, stop, TrialRole::Recorded))
    }

    fn new(logic: Arc<dyn Logic>, stop: &Arc<Stop>, part: TrialRole) -> Self {
        Self {
            logic,
            stop: stop.clone(),
            is_slow: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            strikes: AtomicU64::new(0),
            part,
            surplus: AtomicU64::new(0),
            late: AtomicU64::new(0),
            renders_stopped: AtomicU64::new(0),
        }
    }

    /// Makes a call of an export about `items` commands, rows or similar. `is_alone`: only one of them can be to blame
    /// if it does not end.
    fn call<T>(
        &self,
        name: &str,
        items: usize,
        is_alone: bool,
        call: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.stop.check()?;
        let since = Instant::now();
        let result = call();
        let fault = result.as_ref().err();
        self.count(name, is_alone, fault);
        if !matches!(fault, Some(Fault::Watchdog)) {
            self.count_time(name, items, since.elapsed());
        }
        result
    }

    /// Makes a call for `groups` commands whose answer is bytes.
    fn answer(
        &self,
        name: &str,
        groups: usize,
        call: impl FnOnce() -> Result<Vec<u8>, Fault>,
    ) -> Result<Vec<u8>, Fault> {
        let answer = self.call(name, groups, groups <= 1, call)?;
        let owed = TRIAL_ANSWER_BYTES_OWED * (1 + groups as u64);
        let surplus = (answer.len() as u64).saturating_sub(owed);
        self.charge(name, &self.surplus, surplus, TRIAL_ANSWER_BYTES_PER_STRIKE, Waste::TooLong);
        Ok(answer)
    }

    /// Counts the time that a call about `items` things has taken.
    fn count_time(&self, name: &str, items: usize, taken: Duration) {
        let micros = |time: Duration| time.as_micros() as u64;
        let owed = micros(TRIAL_TIME_OWED) * (1 + items as u64);
        // On the second engine everything takes longer, and each strike counts for more.
        let late = (micros(taken) / self.part.factor()).saturating_sub(owed);
        self.charge(name, &self.late, late, MICROS_PER_STRIKE, Waste::Slow);
    }

    /// Adds to an account of excess; every `per_strike` units are a strike.
    fn charge(&self, name: &str, account: &AtomicU64, surplus: u64, per_strike: u64, waste: Waste) {
        if surplus == 0 || self.part == TrialRole::Recorded {
            return;
        }
        let before = account.fetch_add(surplus, Ordering::Relaxed);
        self.strike(name, (before + surplus) / per_strike - before / per_strike, waste);
    }

    fn count(&self, name: &str, is_alone: bool, fault: Option<&Fault>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (strikes, waste) = match fault {
            Some(Fault::Watchdog) => {
                self.is_slow.store(true, Ordering::Relaxed);
                (TRIAL_STRIKES_OF_WATCHDOG, Waste::Unended)
            }
            Some(Fault::Budget) => (1, Waste::Unended),
            Some(Fault::Output { .. }) if self.part != TrialRole::Recorded => (1, Waste::Unreadable),
            _ => return,
        };
        if is_alone {
            self.strike(name, strikes, waste);
        }
    }

    fn strike(&self, name: &str, strikes: u64, waste: Waste) {
        let strikes = strikes * self.part.factor();
        let strikes = self.strikes.fetch_add(strikes, Ordering::Relaxed) + strikes;
        let calls = self.calls.load(Ordering::Relaxed);
        if strikes < TRIAL_STRIKES_MAX + calls / TRIAL_CALLS_PER_STRIKE {
            return;
        }
        let module = self.logic.id().short();
        let hint = if matches!(waste, Waste::Unended | Waste::Slow) { ": look for a loop without an end" } else { "" };
        let why =
            format!("module {module} {waste} again and again, lately in `{name}`, and is not tried any further{hint}");
        tracing::warn!(%module, name, strikes, calls, "a module on trial is given up");
        self.stop.cause.get_or_init(|| StopCause::Spent(why));
    }

    /// The pace for a call of `groups` groups that asks for the pace `asked`.
    fn pace(&self, asked: Pace, groups_max: usize, groups: usize) -> Pace {
        if self.is_slow.load(Ordering::Relaxed) && groups <= groups_max { Pace::Metered } else { asked }
    }
}

fn group_count(ops: &[u8]) -> usize {
    OpsBlock::parse_trusted(ops).map_or(0, |ops| ops.group_count())
}

impl Logic for GuardedLogic {
    fn id(&self) -> ModuleId {
        self.logic.id()
    }

    fn describe(&self) -> &Describe {
        self.logic.describe()
    }

    fn plan(&self, plan_in: &[u8]) -> Result<Vec<u8>, Fault> {
        let count = PlanIn::parse(plan_in).map_or(0, |plan_in| plan_in.count());
        self.call("plan", count, true, || self.logic.plan(plan_in))
    }

    /// The caller divides a batch that does not end, so it may be metered at any size.
    fn execute(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8]) -> Result<Vec<u8>, Fault> {
        let groups = group_count(ops);
        let pace = self.pace(pace, usize::MAX, groups);
        self.answer("execute", groups, || self.logic.execute(pace, context, ops, rows))
    }

    /// Recorded events are applied as a whole. If fuel might be too little, they get all the time that the watchdog
    /// allows.
    fn apply(&self, pace: Pace, context: Context, ops: &[u8], rows: &[u8], outcome: &[u8]) -> Result<Vec<u8>, Fault> {
        let groups = group_count(ops);
        let pace = self.pace(pace, GROUPS_METERED, groups);
        self.answer("apply", groups, || self.logic.apply(pace, context, ops, rows, outcome))
    }

    fn query(&self, query: &QueryIn) -> Result<QueryOut, Fault> {
        self.call("query", 1, true, || self.logic.query(query))
    }

    /// Items that cannot be rendered end no job, but rendering is not tried for ever either.
    fn render(&self, items: &[RenderItem]) -> Result<Vec<Value>, Fault> {
        self.stop.check()?;
        if TRIAL_RENDERS_MAX <= self.renders_stopped.load(Ordering::Relaxed) {
            return Err(Fault::Watchdog);
        }
        let rendered = self.logic.render(items);
        let is_stopped = matches!(rendered, Err(Fault::Watchdog | Fault::Budget));
        self.renders_stopped.fetch_add(u64::from(is_stopped), Ordering::Relaxed);
        rendered
    }

    fn check(&self, check: &CheckIn) -> Result<CheckOut, Fault> {
        self.call("check", check.rows.len(), true, || self.logic.check(check))
    }

    fn migrate(&self, entities: &[MigrateIn]) -> Vec<Result<MigrateOut, Fault>> {
        if let Err(fault) = self.stop.check() {
            return vec![Err(fault)];
        }
        let since = Instant::now();
        let migrated = self.logic.migrate(entities);
        let fault = migrated.last().and_then(|last| last.as_ref().err());
        self.count("migrate", true, fault);
        if matches!(fault, Some(Fault::Watchdog)) {
            // The caller tries a migration several times, and each attempt takes as long.
            self.strike("migrate", TRIAL_STRIKES_OF_WATCHDOG, Waste::Unended);
        } else {
            self.count_time("migrate", entities.len(), since.elapsed());
        }
        migrated
    }

    fn view(&self) -> Option<&dyn ViewLogic> {
        self.logic.view()
    }
}

#[cfg(test)]
mod tests {
    use statehouse_abi::ops::{OpRole, OpsWriter};

    use super::*;
    use crate::registry::failing::FailingLogic;

    const CONTEXT: Context = Context { time: 1, seed: [0; 32] };

    fn failing(fault: Fault) -> (Arc<FailingLogic>, Arc<Stop>, Arc<dyn Logic>) {
        let logic = Arc::new(FailingLogic::with(fault));
        let stop = Arc::new(Stop::default());
        (logic.clone(), stop.clone(), GuardedLogic::around(logic, &stop))
    }

    fn ops(groups: u32) -> Vec<u8> {
        let mut ops = OpsWriter::default();
        for group in 0..groups {
            ops.group(group);
            ops.op(b"a", b"", [], OpRole::Step);
        }
        ops.finish(Vec::new())
    }

    /// How many of a thousand calls were made, and why no more.
    fn made(fault: Fault, call: impl Fn(&dyn Logic)) -> (usize, Option<StopCause>) {
        let (logic, stop, guarded) = failing(fault);
        (0..1000).for_each(|_| call(guarded.as_ref()));
        (logic.calls(), stop.cause().cloned())
    }

    #[test]
    fn a_module_that_never_ends_is_given_up_after_a_few_calls() {
        let (count, cause) = made(Fault::Watchdog, |logic| drop(logic.plan(&[])));
        assert_eq!(count as u64, TRIAL_STRIKES_MAX / TRIAL_STRIKES_OF_WATCHDOG);
        assert!(matches!(cause, Some(StopCause::Spent(why)) if why.contains("`plan`") && why.contains("loop")));
        let one = ops(1);
        let (count, _) = made(Fault::Budget, |logic| drop(logic.execute(Pace::Fast, CONTEXT, &one, &[])));
        assert!(count as u64 <= TRIAL_STRIKES_MAX + 1000 / TRIAL_CALLS_PER_STRIKE, "{count}");
        let (count, _) = made(Fault::Watchdog, |logic| drop(logic.migrate(&[])));
        assert_eq!(count as u64, TRIAL_STRIKES_MAX / TRIAL_STRIKES_OF_WATCHDOG / 2);
    }

    #[test]
    fn a_module_whose_answers_are_worth_nothing_is_given_up_too() {
        let unreadable = Fault::Output { what: "it is no block".to_owned() };
        let one = ops(1);
        let (count, cause) = made(unreadable, |logic| drop(logic.execute(Pace::Fast, CONTEXT, &one, &[])));
        assert!(count as u64 <= TRIAL_STRIKES_MAX + 1000 / TRIAL_CALLS_PER_STRIKE, "{count}");
        assert!(
            matches!(cause, Some(StopCause::Spent(why)) if why.contains("cannot be read") && !why.contains("loop"))
        );

        let answers = |len: usize, part: TrialRole| {
            let stop = Arc::new(Stop::default());
            let guarded = GuardedLogic::new(Arc::new(FailingLogic::with(Fault::Budget)), &stop, part);
            let is_made = |_: &usize| guarded.answer("execute", 1, || Ok(vec![0; len])).is_ok();
            ((0..1000).take_while(is_made).count(), stop.cause().cloned())
        };
        // An answer within what two commands are allowed costs nothing.
        assert_eq!(answers(2 * TRIAL_ANSWER_BYTES_OWED as usize, TrialRole::Second), (1000, None));
        let (count, cause) = answers(1 << 20, TrialRole::Candidate);
        assert!(
            (64..90).contains(&count) && matches!(cause, Some(StopCause::Spent(why)) if why.contains("far more")),
            "{count}"
        );
        let (slow, _) = answers(1 << 20, TrialRole::Second);
        assert!(0 < slow && slow <= count / 8, "{slow} of {count}");
        assert_eq!(answers(1 << 20, TrialRole::Recorded), (1000, None), "its answers were recorded");
    }

    /// A call within the time of a command's budget costs nothing; half a second for each of a few commands does.
    #[test]
    fn a_module_whose_single_calls_take_too_long_is_given_up_too() {
        let calls = |taken: Duration, items: usize, part: TrialRole| {
            let stop = Arc::new(Stop::default());
            let guarded = GuardedLogic::new(Arc::new(FailingLogic::with(Fault::Budget)), &stop, part);
            let is_made = |_: &usize| {
                guarded.count_time("execute", items, taken);
                stop.check().is_ok()
            };
            ((0..1000).take_while(is_made).count(), stop.cause().cloned())
        };
        let slow = Duration::from_millis(500);
        let (count, cause) = calls(slow, 1, TrialRole::Candidate);
        assert!((10..30).contains(&count), "{count}");
        assert!(matches!(cause, Some(StopCause::Spent(why)) if why.contains("far longer") && why.contains("loop")));
        assert_eq!(calls(slow, 16, TrialRole::Candidate), (1000, None), "these are many");
        assert_eq!(calls(slow, 1, TrialRole::Second), (1000, None), "this one takes longer");
        let (count, _) = calls(slow * TRIAL_STRIKES_FACTOR_SLOW as u32, 1, TrialRole::Second);
        assert!(0 < count && count < 3, "{count}");
        assert_eq!(calls(slow, 1, TrialRole::Recorded), (1000, None), "it was waited for when it was recorded");
    }

    #[test]
    fn what_several_commands_or_other_faults_have_ended_is_nobodys_fault() {
        let two = ops(2);
        let (count, cause) = made(Fault::Budget, |logic| drop(logic.execute(Pace::Fast, CONTEXT, &two, &[])));
        assert_eq!((count, cause), (1000, None));
        let trap = Fault::Trap { text: "asked to".to_owned(), backtrace: Vec::new() };
        assert_eq!(made(trap, |logic| drop(logic.plan(&[]))), (1000, None));
    }

    #[test]
    fn what_cannot_be_rendered_ends_no_job() {
        let (count, cause) = made(Fault::Watchdog, |logic| drop(logic.render(&[])));
        assert_eq!((count as u64, cause), (TRIAL_RENDERS_MAX, None));
    }

    #[test]
    fn a_job_that_is_told_to_stop_makes_no_further_call() {
        let trap = Fault::Trap { text: "asked to".to_owned(), backtrace: Vec::new() };
        let (logic, stop, guarded) = failing(trap);
        stop.ask();
        // Within the moment that it gets to end on its own.
        drop(guarded.check(&CheckIn { accumulator: Vec::new(), rows: Vec::new(), is_last: true }));
        assert_eq!(stop.cause(), None);
        let mut count = 0;
        while stop.cause().is_none() {
            drop(guarded.plan(&[]));
            count += 1;
            assert!(count < u32::MAX);
        }
        assert_eq!(stop.cause(), Some(&StopCause::Stopped));
        let before = logic.calls();
        assert!(guarded.plan(&[]).is_err() && guarded.migrate(&[])[0].is_err() && guarded.render(&[]).is_err());
        assert_eq!(logic.calls(), before);
    }
}
