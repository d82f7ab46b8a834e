//! Deciding a batch: execute it in one call of the module, apply its events in another, and check that both agree.
//!
//! In: plans and a way to fetch rows. Out: the OPS and OUTCOME blocks that an entry records, and the writes they mean.
//! State *is* `apply(events)`: what `execute` believed is only compared. A trap, an overrun or a disagreement is pinned
//! to its group by [`isolate`]; the other groups go through. The leader and every replay call the same function. It
//! does not know who asked or when, and it counts nothing: the caller gets the counts with the result.

pub mod block;
mod isolate;
mod key_table;

#[cfg(test)]
mod tests;

use statehouse_abi::call::{CallIn, Context, ExecuteOut};
use statehouse_abi::cold::{Rejection, host_rejection};
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock, OutcomeWriter};
use statehouse_abi::rows::WritesBlock;

use crate::machine::decide::block::{BlockBuilder, ExtraKey, sub_block};
use crate::machine::decide::isolate::{IsolationOutcome, isolate};
use crate::machine::limits;
use crate::machine::logic::{Fault, Logic, Pace};
use crate::machine::plan::PlanView;
use crate::machine::rejection::read_rejection;
use crate::machine::replica::{check_rows, check_writes, is_key_of, no_writes};

/// A decided batch, not yet an entry.
#[derive(Debug)]
pub struct DecidedBatch {
    /// OPS block.
    pub ops: Vec<u8>,
    /// OUTCOME block.
    pub outcome: Vec<u8>,
    /// WRITES block of `apply`.
    pub writes: Vec<u8>,
    /// How many plans were decided, from the first one on; the others must wait for the next batch.
    pub plan_count: usize,
    /// What a faulty module said, by number of the plan. Not part of the entry.
    pub diagnostics: Vec<(usize, Diagnostic)>,
    /// Whether the module computed the writes.
    pub effect: Effect,
    pub counts: DecisionCounts,
}

/// What the decision needed beyond one round. The caller may show it as metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecisionCounts {
    /// Keys that ops touched without declaring them.
    pub undeclared_keys: u64,
    /// Runs in which a culprit was searched for.
    pub isolation_runs: u64,
}

/// Whether the module was asked what the outcomes of a batch change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The writes are those of its `apply`.
    Applied,
    /// The module's `apply` fails even where everything is rejected. Nothing is written, and replicas do not call the
    /// module either.
    Unasked,
}

/// What the module said last about one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub text: String,
    pub backtrace: Vec<String>,
}

impl std::fmt::Display for Diagnostic {
    /// The text, then one line for each frame.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)?;
        self.backtrace.iter().try_for_each(|frame| write!(f, "\n{frame}"))
    }
}

/// Why a group cannot go through.
#[derive(Clone, Debug)]
pub enum Culprit {
    Fault(Fault),
    /// `execute` and `apply` disagree; the text says how.
    Inconsistent(String),
    /// The group still needs keys after the last round.
    Keys,
}

impl Culprit {
    pub fn rejection(&self) -> Rejection {
        let (code, detail) = match self {
            Self::Fault(Fault::Budget | Fault::Watchdog) => {
                (host_rejection::BUDGET, "the command used up the budget of one guest call")
            }
            Self::Fault(_) => (host_rejection::MODULE_TRAP, "the module trapped while it decided this command"),
            Self::Inconsistent(_) => (
                host_rejection::MODULE_INCONSISTENT,
                "the module's execute and apply disagree about the effect of this command",
            ),
            Self::Keys => (host_rejection::KEYS, "the command touched more undeclared keys than the host discovers"),
        };
        Rejection { code: code.to_owned(), detail: detail.to_owned() }
    }

    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            Self::Fault(Fault::Trap { text, backtrace }) => {
                Diagnostic { text: text.clone(), backtrace: backtrace.clone() }
            }
            Self::Fault(fault) => Diagnostic { text: fault.to_string(), backtrace: Vec::new() },
            Self::Inconsistent(text) => Diagnostic { text: text.clone(), backtrace: Vec::new() },
            Self::Keys => Diagnostic { text: "too many undeclared keys".to_owned(), backtrace: Vec::new() },
        }
    }
}

/// The result of one `execute` and one `apply` of the same groups.
pub enum GroupRun {
    Done {
        outcome: Vec<u8>,
        writes: Vec<u8>,
    },
    /// The rows they touch do not fit into one call, or their outcome does not fit into one entry.
    TooLarge(Culprit),
    NeedsKeys(Vec<ExtraKey>),
    Failed(Culprit),
    /// The host could not carry out the calls. That says nothing about any command.
    Host(HostFault),
}

/// The host cannot run the module. The partition halts; it does not record an outcome.
#[derive(Clone, Debug, thiserror::Error)]
#[error("host cannot run the module: {0}")]
pub struct HostFault(pub String);

/// Decides as many of the plans as fit into one entry, at least one.
///
/// `fetch` returns the ROWS block for the keys of an OPS block, from the state that the batch is decided on.
///
/// # Errors
/// Those of `fetch`, and a fault of the host itself.
pub fn decide<E: From<HostFault>>(
    logic: &dyn Logic,
    context: Context,
    plans: &[PlanView<'_>],
    mut fetch: impl FnMut(&OpsBlock<'_>) -> Result<Vec<u8>, E>,
) -> Result<DecidedBatch, E> {
    assert!(!plans.is_empty());
    let mut plan_count = plans.len().min(limits::BATCH_COMMANDS_MAX);
    let mut extra: Vec<ExtraKey> = Vec::new();
    let mut asked = vec![0; plan_count];
    let mut counts = DecisionCounts::default();
    for round in 0..limits::DECIDE_ROUNDS_MAX {
        if 0 < round && round.is_multiple_of(limits::NEED_KEYS_BATCH_ROUNDS_MAX) {
            // Commands that write keys for each other discover them one after another; a smaller batch has fewer of
            // them.
            plan_count = (plan_count / 2).max(1);
        }
        let ops_bytes = build(&plans[..plan_count], &extra, &mut plan_count);
        let ops = OpsBlock::parse_trusted(&ops_bytes).expect("the host wrote this block");
        let rows = fetch(&ops)?;
        assert!(check_rows(&ops, &rows).is_ok());
        let more = match run(logic, Pace::Fast, context, &ops, &rows) {
            GroupRun::Done { outcome, writes } => {
                let (diagnostics, effect) = (Vec::new(), Effect::Applied);
                return Ok(DecidedBatch { ops: ops_bytes, outcome, writes, plan_count, diagnostics, effect, counts });
            }
            GroupRun::Host(fault) => return Err(fault.into()),
            GroupRun::NeedsKeys(more) if more.iter().all(|key| may_ask(&asked, group_of(&ops, key.op))) => more,
            GroupRun::TooLarge(_) if plan_count > 1 => {
                plan_count = (plan_count / 2).max(1);
                continue;
            }
            GroupRun::NeedsKeys(_) | GroupRun::Failed(_) | GroupRun::TooLarge(_) => {
                match isolate(logic, context, &ops, &rows, &asked, &mut counts.isolation_runs)? {
                    IsolationOutcome::Decided(decided) if decided.plan_count < plan_count => {
                        return Ok(DecidedBatch { ops: sub_block(&ops, 0..decided.plan_count), counts, ..decided });
                    }
                    IsolationOutcome::Decided(decided) => {
                        return Ok(DecidedBatch { ops: ops_bytes, counts, ..decided });
                    }
                    IsolationOutcome::NeedsKeys(more) => more,
                    IsolationOutcome::Split(said) if plan_count == 1 => return Ok(unasked(ops_bytes, said, counts)),
                    // The module's answers depend on how a batch is cut. It gets no batches at all, because smaller and
                    // smaller ones would take many runs.
                    IsolationOutcome::Split(_) => {
                        plan_count = 1;
                        continue;
                    }
                }
            }
        };
        counts.undeclared_keys += more.len() as u64;
        let mut groups: Vec<usize> = more.iter().map(|key| group_of(&ops, key.op)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.iter().for_each(|group| asked[*group] += 1);
        extra = merge_extra(extra, more);
    }
    unreachable!("the batch is halved again and again, and a single group asks at most NEED_KEYS_ROUNDS_MAX times")
}

/// One command whose rejection the module cannot apply either. It is recorded as a trap, and nothing is written.
fn unasked(ops: Vec<u8>, said: Diagnostic, counts: DecisionCounts) -> DecidedBatch {
    let detail = "the module failed to apply even the rejection of this command";
    let rejection = Rejection { code: host_rejection::MODULE_TRAP.to_owned(), detail: detail.to_owned() };
    let mut outcome = OutcomeWriter::default();
    outcome.reject(0, &minicbor::to_vec(rejection).expect("writing to memory cannot fail"));
    DecidedBatch {
        ops,
        outcome: outcome.finish(Vec::new()),
        writes: no_writes(),
        plan_count: 1,
        diagnostics: vec![(0, said)],
        effect: Effect::Unasked,
        counts,
    }
}

/// Whether a group may ask for keys once more. How often it asked does not depend on the batch it is in.
pub fn may_ask(asked: &[usize], group: usize) -> bool {
    asked[group] < limits::NEED_KEYS_ROUNDS_MAX
}

/// The group that an op belongs to.
pub fn group_of(ops: &OpsBlock<'_>, op: u32) -> usize {
    let (mut low, mut high) = (0, ops.group_count());
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if ops.group(middle).first_op <= op { low = middle } else { high = middle }
    }
    low
}

/// The OPS block of as many plans as fit into it; sets `plan_count` to their number.
fn build(plans: &[PlanView<'_>], extra: &[ExtraKey], plan_count: &mut usize) -> Vec<u8> {
    let mut builder = BlockBuilder::default();
    let mut first_op = 0;
    let mut rest = extra;
    for (at, plan) in plans.iter().enumerate() {
        if at > 0 && builder.size() + plan.size() > limits::OPS_BLOCK_BYTES_MAX {
            *plan_count = at;
            break;
        }
        let end = first_op + plan.steps().len() as u32;
        let (own, others) = rest.split_at(rest.partition_point(|extra| extra.op < end));
        builder.group(at as u32, plan, first_op, own);
        (first_op, rest) = (end, others);
    }
    builder.finish()
}

/// Both lists together, in order of op, each key once.
fn merge_extra(mut before: Vec<ExtraKey>, more: Vec<ExtraKey>) -> Vec<ExtraKey> {
    before.extend(more);
    before.sort_by(|a, b| (a.op, &a.key).cmp(&(b.op, &b.key)));
    before.dedup();
    before
}

/// One `execute` and one `apply` of all groups of a block.
pub fn run(logic: &dyn Logic, pace: Pace, context: Context, ops: &OpsBlock<'_>, rows: &[u8]) -> GroupRun {
    let failed = |fault| match fault {
        Fault::Host { what } => GroupRun::Host(HostFault(what)),
        fault => GroupRun::Failed(Culprit::Fault(fault)),
    };
    let malformed = |source: statehouse_abi::block::AbiError| failed(Fault::Output { what: source.to_string() });
    let too_large = |what: String| GroupRun::TooLarge(Culprit::Fault(Fault::Output { what }));
    let input = CallIn { context, ops: ops.raw(), rows, outcome: None }.size();
    if limits::GUEST_INPUT_BYTES_MAX < input {
        return too_large(format!("its ops and the rows they touch have {input} bytes, over the limit of one call"));
    }
    let executed = match logic.execute(pace, context, ops.raw(), rows) {
        Ok(executed) => executed,
        Err(fault) => return failed(fault),
    };
    let parsed = match ExecuteOut::parse(&executed) {
        Ok(parsed) => parsed,
        Err(source) => return malformed(source),
    };
    let outcome = match OutcomeBlock::parse(parsed.outcome, ops) {
        Ok(outcome) => outcome,
        Err(source) => return malformed(source),
    };
    if (0..outcome.group_count()).any(|at| outcome.group(at) == GroupOutcome::NeedsKeys) {
        return needed_keys(ops, &parsed);
    }
    if limits::OUTCOME_BYTES_MAX < parsed.outcome.len() {
        return too_large(format!("it answers with {} bytes, over the limit of one entry", parsed.outcome.len()));
    }
    let input = CallIn { context, ops: ops.raw(), rows, outcome: Some(parsed.outcome) }.size();
    if limits::GUEST_INPUT_BYTES_MAX < input {
        return too_large(format!("its ops, rows and events have {input} bytes, over the limit of one call"));
    }
    if parsed.outcome.len() < outcome_bytes(&outcome) {
        return failed(Fault::Output { what: "events or rejections share their bytes".to_owned() });
    }
    if let Err(fault) = check_rejections(logic, &outcome) {
        return failed(fault);
    }
    let believed = match check_writes(ops, parsed.writes) {
        Ok(()) => WritesBlock::parse(parsed.writes, ops.key_count()).expect("just checked"),
        Err(source) => return malformed(source),
    };
    let writes = match logic.apply(pace, context, ops.raw(), rows, parsed.outcome) {
        Ok(writes) => writes,
        Err(fault @ (Fault::Watchdog | Fault::Host { .. })) => return failed(fault),
        Err(fault) => {
            return GroupRun::Failed(Culprit::Inconsistent(format!("apply of its own events failed: {fault}")));
        }
    };
    if let Err(source) = check_writes(ops, &writes) {
        return GroupRun::Failed(Culprit::Inconsistent(format!("apply answered malformed writes: {source}")));
    }
    let applied = WritesBlock::parse(&writes, ops.key_count()).expect("just checked");
    if writes.len() < applied.writes().map(|(_, row)| row.map_or(0, <[u8]>::len)).sum() {
        return GroupRun::Failed(Culprit::Inconsistent("apply answered rows that share their bytes".to_owned()));
    }
    if applied.raw() != believed.raw() && !applied.writes().eq(believed.writes()) {
        return GroupRun::Failed(Culprit::Inconsistent("execute and apply write different rows".to_owned()));
    }
    GroupRun::Done { outcome: parsed.outcome.to_vec(), writes }
}

/// How many bytes the events and rejections have when each is copied. That is more than the block has where a module
/// lets them share bytes.
fn outcome_bytes(outcome: &OutcomeBlock<'_>) -> usize {
    let rejections = (0..outcome.group_count()).map(|at| match outcome.group(at) {
        GroupOutcome::Rejected(bytes) => bytes.len(),
        GroupOutcome::Events { .. } | GroupOutcome::NeedsKeys => 0,
    });
    rejections.sum::<usize>() + outcome.events().map(|event| event.payload.len()).sum::<usize>()
}

/// Checks that each rejection has a code that the module declared.
fn check_rejections(logic: &dyn Logic, outcome: &OutcomeBlock<'_>) -> Result<(), Fault> {
    for at in 0..outcome.group_count() {
        let GroupOutcome::Rejected(bytes) = outcome.group(at) else { continue };
        let rejection = read_rejection(bytes).map_err(|error| Fault::Output { what: format!("rejection: {error}") })?;
        if !logic.describe().rejections.iter().any(|declared| declared.code == rejection.code) {
            return Err(Fault::Output { what: format!("rejection code `{}` is not declared", rejection.code) });
        }
    }
    Ok(())
}

/// The keys that the module asks for, if it may have them.
fn needed_keys(ops: &OpsBlock<'_>, executed: &ExecuteOut<'_>) -> GroupRun {
    let mut needed = Vec::new();
    for need in executed.needed() {
        let is_in_range = (need.op as usize) < ops.op_count();
        if !is_in_range
            || need.key.len() > limits::KEY_BYTES_MAX
            || !is_key_of(need.key, ops.op(need.op as usize).entity)
        {
            let what = "it needs a key that does not belong to the op's entity".to_owned();
            return GroupRun::Failed(Culprit::Fault(Fault::Output { what }));
        }
        if ops.op(need.op as usize).keyref_count() >= limits::OP_KEYS_MAX {
            return GroupRun::Failed(Culprit::Keys);
        }
        needed.push(ExtraKey { op: need.op, key: need.key.to_vec() });
    }
    if needed.is_empty() {
        let what = "it needs keys, but names none".to_owned();
        return GroupRun::Failed(Culprit::Fault(Fault::Output { what }));
    }
    GroupRun::NeedsKeys(needed)
}
