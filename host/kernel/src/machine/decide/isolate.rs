//! Finding the group that spoils a batch: halves are run again at the metered pace until the culprit is alone.
//!
//! In: a batch whose fast run failed. Out: an outcome in which the culprits are rejected and all other groups stand as
//! if the culprits had been rejected from the start. The number of runs is bounded. It does not know what rows mean.

use std::ops::Range;

use statehouse_abi::call::{CallIn, Context};
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock, OutcomeWriter};
use statehouse_abi::rows::{RowsBlock, RowsWriter, WritesBlock};

use crate::machine::decide::block::{ExtraKey, sub_block};
use crate::machine::decide::{
    Culprit, DecidedBatch, DecisionCounts, Diagnostic, Effect, GroupRun, HostFault, may_ask, run,
};
use crate::machine::limits;
use crate::machine::logic::{Fault, Logic, Pace};
use crate::machine::replica::check_writes;

/// The result of isolation.
pub enum IsolationOutcome {
    /// `ops` and `counts` are left empty, because the caller has them.
    Decided(DecidedBatch),
    /// A group needs keys. The numbers of the ops are those of the whole batch.
    NeedsKeys(Vec<ExtraKey>),
    /// The module's answers depend on how the batch is cut, or its `apply` fails on what is left. A smaller batch may
    /// go through.
    Split(Diagnostic),
}

/// The groups that are decided so far, and the rows after them.
struct IsolationProgress<'a> {
    ops: &'a OpsBlock<'a>,
    rows: Vec<Option<Vec<u8>>>,
    outcome: OutcomeWriter,
    diagnostics: Vec<(usize, Diagnostic)>,
}

/// Decides the groups of a block in runs of their own; adds the number of runs to `runs`.
///
/// # Errors
/// The host cannot run the module.
pub fn isolate(
    logic: &dyn Logic,
    context: Context,
    ops: &OpsBlock<'_>,
    rows: &[u8],
    asked: &[usize],
    runs: &mut u64,
) -> Result<IsolationOutcome, HostFault> {
    let before = RowsBlock::parse(rows).expect("the host wrote this block");
    let mut progress = IsolationProgress {
        ops,
        rows: (0..before.count()).map(|at| before.row(at).map(<[u8]>::to_vec)).collect(),
        outcome: OutcomeWriter::default(),
        diagnostics: Vec::new(),
    };
    // Ranges that are still to be decided; the first range comes last.
    let mut ranges = Vec::from([Range { start: 0, end: ops.group_count() }]);
    let runs_max = *runs + limits::ISOLATIONS_PER_BATCH_MAX as u64;
    let mut needed = Vec::new();
    while let Some(range) = ranges.pop() {
        if *runs == runs_max {
            ranges.push(range);
            break;
        }
        *runs += 1;
        let block = sub_block(ops, range.clone());
        let parsed = OpsBlock::parse_trusted(&block).expect("the host wrote this block");
        match run(logic, Pace::Metered, context, &parsed, &progress.rows_block()) {
            GroupRun::Done { outcome, .. } if progress.is_full(&outcome) => {
                // The other groups get an entry of their own.
                ranges.push(range);
                break;
            }
            GroupRun::Done { outcome, writes } => progress.accept(&range, &parsed, &outcome, &writes),
            GroupRun::NeedsKeys(_) | GroupRun::Failed(_) | GroupRun::TooLarge(_) if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                ranges.extend([middle..range.end, range.start..middle]);
            }
            GroupRun::NeedsKeys(mut keys) if may_ask(asked, range.start) => {
                // All of this runs again once the keys are there. Other missing keys are found on the way.
                let first_op = ops.group(range.start).first_op;
                keys.iter_mut().for_each(|key| key.op += first_op);
                needed.extend(keys);
            }
            GroupRun::NeedsKeys(_) => progress.reject(range.start, &Culprit::Keys),
            GroupRun::Failed(culprit) => progress.reject(range.start, &culprit),
            GroupRun::TooLarge(culprit) if ops.group_count() == 1 => progress.reject(range.start, &culprit),
            // Each call has the rows of all groups, so the group may fit when it is alone in a batch.
            GroupRun::TooLarge(_) if range.start > 0 => {
                ranges.push(range);
                break;
            }
            GroupRun::TooLarge(culprit) => return Ok(IsolationOutcome::Split(culprit.diagnostic())),
            GroupRun::Host(fault) => return Err(fault),
        }
    }
    if !needed.is_empty() {
        return Ok(IsolationOutcome::NeedsKeys(needed));
    }
    let plan_count = ranges.last().map_or(ops.group_count(), |range| range.start);
    finish(logic, context, progress, &before, plan_count)
}

/// Applies all events at once, as every replica will, and checks that the rows are the same.
fn finish(
    logic: &dyn Logic,
    context: Context,
    progress: IsolationProgress<'_>,
    before: &RowsBlock<'_>,
    plan_count: usize,
) -> Result<IsolationOutcome, HostFault> {
    assert!(plan_count > 0, "the bound on runs exceeds what the first group takes");
    let outcome = progress.outcome.finish(Vec::new());
    let block = sub_block(progress.ops, 0..plan_count);
    let mut rows = RowsWriter::default();
    (0..before.count()).for_each(|at| rows.row(before.row(at)));
    let split = |text: String| Ok(IsolationOutcome::Split(Diagnostic { text, backtrace: Vec::new() }));
    let rows = rows.finish(Vec::new());
    if limits::GUEST_INPUT_BYTES_MAX < (CallIn { context, ops: &block, rows: &rows, outcome: Some(&outcome) }).size() {
        return split("the batch does not fit into one call".to_owned());
    }
    let writes = match logic.apply(Pace::Metered, context, &block, &rows, &outcome) {
        Ok(writes) => writes,
        Err(Fault::Host { what }) => return Err(HostFault(what)),
        Err(fault) => return Ok(IsolationOutcome::Split(Culprit::Fault(fault).diagnostic())),
    };
    if let Err(source) = check_writes(progress.ops, &writes) {
        return split(format!("apply answered malformed writes: {source}"));
    }
    let parsed = WritesBlock::parse(&writes, progress.ops.key_count()).expect("just checked");
    let mut after: Vec<Option<&[u8]>> = (0..before.count()).map(|at| before.row(at)).collect();
    parsed.writes().for_each(|(key, row)| after[key as usize] = row);
    if !after.into_iter().eq(progress.rows.iter().map(Option::as_deref)) {
        return split("apply writes other rows for all commands at once than for one after the other".to_owned());
    }
    let (diagnostics, effect) = (progress.diagnostics, Effect::Applied);
    let (ops, counts) = (Vec::new(), DecisionCounts::default());
    Ok(IsolationOutcome::Decided(DecidedBatch { ops, outcome, writes, plan_count, diagnostics, effect, counts }))
}

impl IsolationProgress<'_> {
    /// Whether the outcome does not fit into the entry any more. The first outcome always fits.
    fn is_full(&self, outcome: &[u8]) -> bool {
        let size = self.outcome.size();
        0 < size && limits::OUTCOME_BYTES_MAX < size + outcome.len()
    }

    fn rows_block(&self) -> Vec<u8> {
        let mut writer = RowsWriter::default();
        self.rows.iter().for_each(|row| writer.row(row.as_deref()));
        writer.finish(Vec::new())
    }

    fn accept(&mut self, range: &Range<usize>, ops: &OpsBlock<'_>, outcome: &[u8], writes: &[u8]) {
        let first_op = self.ops.group(range.start).first_op;
        let outcome = OutcomeBlock::parse(outcome, ops).expect("checked by the run");
        for at in 0..outcome.group_count() {
            let first_event = self.outcome.event_count();
            match outcome.group(at) {
                GroupOutcome::Events { first, count } => {
                    for event in (first..first + count).map(|at| outcome.event(at as usize)) {
                        self.outcome.event(first_op + event.op, event.payload);
                    }
                    self.outcome.accept(first_event);
                }
                GroupOutcome::Rejected(rejection) => self.outcome.reject(first_event, rejection),
                GroupOutcome::NeedsKeys => unreachable!("a done run needs no keys"),
            }
        }
        let writes = WritesBlock::parse(writes, ops.key_count()).expect("checked by the run");
        for (key, row) in writes.writes() {
            self.rows[key as usize] = row.map(<[u8]>::to_vec);
        }
    }

    fn reject(&mut self, group: usize, culprit: &Culprit) {
        let rejection = minicbor::to_vec(culprit.rejection()).expect("writing to memory cannot fail");
        let first_event = self.outcome.event_count();
        self.outcome.reject(first_event, &rejection);
        self.diagnostics.push((group, culprit.diagnostic()));
    }
}
