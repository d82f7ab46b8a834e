//! The beginning of a batch: what of an entry counts at a position within it.
//!
//! In: a batch, and the `n` of a position. Out: how many of its groups count, and an OUTCOME block in which all other
//! groups are without events, as if they were rejected. A group counts whole or not at all: all its positions mean the
//! state after it. `apply` computes the same for a batch and for its pieces, one after the other; that is why a leader
//! may cut batches anywhere. It does not know what rows mean.

use std::ops::Range;

use statehouse_abi::key::{LOCAL, split_key};
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock, OutcomeWriter};

use crate::ids::Position;
use crate::machine::entry::{Batch, Entry, EntryKind};
use crate::machine::replica::position_count;

/// How many groups have happened at the position with this number: all of them if the entry has fewer positions.
pub fn groups_until(outcome: &OutcomeBlock<'_>, n: u32) -> usize {
    let mut next = 0;
    let begins_by_then = |at: &usize| {
        let first = next;
        next += position_count(outcome.group(*at));
        first <= n
    };
    (0..outcome.group_count()).take_while(begins_by_then).count()
}

/// Whether all of the entry has happened at its position with this number.
pub fn is_whole(entry: &Entry, n: u32) -> bool {
    let batch = entry.batch().filter(|_| n != Position::WHOLE && entry.header().kind == EntryKind::Batch);
    batch.is_none_or(|batch| groups_until(&batch.outcome, n) == batch.outcome.group_count())
}

/// An OUTCOME block of the same groups, in which the groups from `count` on have no events.
pub fn beginning(outcome: &OutcomeBlock<'_>, count: usize) -> Vec<u8> {
    let mut writer = OutcomeWriter::default();
    for at in 0..outcome.group_count() {
        let first_event = writer.event_count();
        match outcome.group(at) {
            GroupOutcome::Events { first, count: events } if at < count => {
                for event in (first..first + events).map(|event| outcome.event(event as usize)) {
                    writer.event(event.op, event.payload);
                }
                writer.accept(first_event);
            }
            GroupOutcome::Rejected(rejection) => writer.reject(first_event, rejection),
            GroupOutcome::Events { .. } | GroupOutcome::NeedsKeys => writer.reject(first_event, &[]),
        }
    }
    writer.finish(Vec::new())
}

/// Whether some of the groups may have changed what the module says about an entity. If no op of the entry is about the
/// entity, the module may compute it from `@local` rows, so every group that changes those rows counts.
pub fn may_change(batch: &Batch<'_>, groups: Range<usize>, entity: &[u8]) -> bool {
    let ops = &batch.ops;
    let is_about = |at: u32| ops.op(at as usize).entity == entity;
    let is_known = (0..ops.op_count()).any(|at| ops.op(at).entity == entity);
    let is_local = |at: u32| {
        let mut keys = ops.op(at as usize).keyrefs().map(|key| ops.key(key as usize));
        keys.any(|key| split_key(key).is_some_and(|(owner, _)| owner == LOCAL))
    };
    groups.into_iter().any(|at| {
        let group = ops.group(at);
        let mut of_group = group.first_op..group.first_op + group.op_count;
        matches!(batch.outcome.group(at), GroupOutcome::Events { .. })
            && of_group.any(|op| if is_known { is_about(op) } else { is_local(op) })
    })
}
