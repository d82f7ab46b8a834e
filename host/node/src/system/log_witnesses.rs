//! What the other nodes remember about this node's logs: a partition opens once they vouch for what its disk has.
//!
//! A peer that has heard this node's counter as it is on disk, give or take one, has seen all there was; its word is
//! enough. A peer that has heard less was away while this node kept running. Then a majority of the others must say
//! what they have seen, so that everything that was counted on is among it. A peer that has heard more proves that the
//! disk was set back. This node may know the others from a time before all of them were replaced, so until `system` is
//! level it also believes nodes that name it one of them.
//!
//! In: a group. Out: what others remember, and whether they vouch for the rest. It does not know what follows from a
//! log that is shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::NodeId;
use crate::partition::Remembered;
use crate::planted::{Bug, is_planted};
use crate::router::Machine;
use crate::system::context::NodeContext;
use crate::system::error::NodeError;
use crate::system::log_damage::advice;
use crate::system::messages::ASK_AGAIN;
use crate::system::messages::{self, Told};
use crate::system::replica_states::Turn;

/// How long one node may take to say what it has seen.
const SEEN_PATIENCE: Duration = Duration::from_secs(1);

/// The result of asking the others.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recalled {
    /// The others have seen nothing that this node's disk lacks, except what they say here.
    Vouched(Remembered),
    /// A majority of the others has answered, or an operator has, but nobody can say whether this is all there was.
    Unvouched,
}

/// What the others remember about this node, once enough of them have answered.
pub(super) async fn ask_seen(context: &NodeContext, turn: &Turn, machine: &Machine) -> Result<Recalled, NodeError> {
    let group = &turn.group;
    if is_planted(Bug::SeenNotAsked) {
        return Ok(Recalled::Vouched(Remembered::default()));
    }
    let mut told: BTreeMap<NodeId, Told> = BTreeMap::new();
    loop {
        let known = lists_of_others(context);
        let others: BTreeSet<NodeId> = known.iter().flatten().copied().collect();
        let silent: Vec<NodeId> = others.into_iter().filter(|node| !told.contains_key(node)).collect();
        let mut reasons = Vec::new();
        let own = context.pulse.own_of(group);
        let judge = |told: &_| known.iter().find_map(|others| judge(others, told, own));
        if let Some(recalled) = judge(&told) {
            return Ok(recalled);
        }
        for node in silent {
            match messages::ask_seen(context.network.as_ref(), node, group, SEEN_PATIENCE).await {
                Ok(answer) => {
                    context.pulse.on_heard_of_me(answer.pulse.unwrap_or(0));
                    told.insert(node, answer);
                }
                Err(error) => reasons.push(error.to_string()),
            }
            if let Some(recalled) = judge(&told) {
                return Ok(recalled);
            }
        }
        let mut reason = format!("waits for another node to confirm what its log held: {}", reasons.join("; "));
        if !told.is_empty() {
            reason = format!("{reason}; {}; {}", away(&told, own), advice(context, group));
            turn.set_refusal(reason.clone());
            if context.record.is_given_up(group) {
                return Ok(Recalled::Unvouched);
            }
        }
        turn.say_not_served(machine, reason);
        tokio::select! {
            () = context.stopping.cancelled() => return Err(NodeError::Stopping),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
}

/// The other nodes as this node knows them, and, until it knows for sure, as each of the others names them.
fn lists_of_others(context: &NodeContext) -> Vec<BTreeSet<NodeId>> {
    let mut lists: Vec<BTreeSet<NodeId>> = context.published.directory.borrow().named().cloned().collect();
    lists.push(context.published.nodes.borrow().iter().copied().collect());
    for list in &mut lists {
        list.remove(&context.node);
    }
    lists
}

/// Judges what these others have told; `None` while more answers are needed. `own` is the counter on this node's disk,
/// as of when the replica was last open.
fn judge(others: &BTreeSet<NodeId>, told: &BTreeMap<NodeId, Told>, own: u64) -> Option<Recalled> {
    let of: BTreeMap<NodeId, &Told> =
        told.iter().filter(|(node, _)| others.contains(node)).map(|(n, t)| (*n, t)).collect();
    let is_proved_behind = of.values().any(|told| told.pulse.is_some_and(|heard| own < heard));
    let has_seen_the_end = |told: &&&Told| match told.pulse {
        _ if is_planted(Bug::AwayBelieved) => true,
        // The peer's book of entries may be lost. Beyond its counter it would have known at most the last second.
        Some(heard) => own <= heard + 1 && (0 < heard || !told.is_lost),
        // The peer runs a program that counts nothing, or nothing was counted yet.
        None => own <= 1 && !told.is_lost,
    };
    let full = of.values().filter(has_seen_the_end).count();
    let with_majority = others.len().div_ceil(2);
    let majority = (others.len().div_ceil(2) + 1).min(others.len());
    let lost = of.values().filter(|told| told.is_lost).count();
    let is_vouched = with_majority <= of.len() && (0 < full || others.is_empty());
    if !is_proved_behind && !is_vouched && majority <= of.len() && of.len() - lost < majority {
        return Some(Recalled::Unvouched);
    }
    (is_proved_behind || is_vouched || majority <= of.len()).then(|| Recalled::Vouched(remembered(&of, own)))
}

fn remembered(told: &BTreeMap<NodeId, &Told>, own: u64) -> Remembered {
    let heard = told.values().filter_map(|told| told.pulse).max();
    Remembered {
        held: told.values().filter_map(|told| told.last).max(),
        voted: told.values().filter_map(|told| told.vote).max_by_key(crate::log::Vote::order),
        counter: heard.filter(|heard| own < *heard).map(|heard| (heard, own)),
    }
}

/// Why the answers so far do not settle it, in words.
fn away(told: &BTreeMap<NodeId, Told>, own: u64) -> String {
    let word = |(node, told): (&NodeId, &Told)| {
        if told.is_lost {
            return format!("node {node} has lost its record of this node's log");
        }
        let heard = told.pulse.unwrap_or(0);
        format!(
            "node {node} was away at the end: it last heard this node's counter at {heard}, and on this node's disk \
             it is {own}"
        )
    };
    told.iter().map(word).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogIndex, Term};
    use crate::log::EntryId;

    fn entry(index: u64) -> EntryId {
        EntryId { term: Term(1), node: NodeId(2), index: LogIndex(index) }
    }

    fn heard(pulse: u64) -> Told {
        Told { last: Some(entry(pulse)), vote: None, pulse: Some(pulse), is_lost: false }
    }

    fn lost(pulse: u64) -> Told {
        Told { last: None, vote: None, pulse: Some(pulse), is_lost: true }
    }

    fn old() -> Told {
        Told { last: Some(entry(1)), vote: None, pulse: None, is_lost: false }
    }

    /// Checks what follows from these answers for a node whose disk has the counter 20: `+` vouched for, `-` set back,
    /// `?` unvouched, `.` not enough.
    #[track_caller]
    fn check(others: u64, told: Vec<Told>, expected: char) {
        let names: BTreeSet<NodeId> = (2..2 + others).map(NodeId).collect();
        let told: BTreeMap<NodeId, Told> = names.iter().copied().zip(told).collect();
        let found = match judge(&names, &told, 20) {
            Some(Recalled::Vouched(Remembered { counter: None, .. })) => '+',
            Some(Recalled::Vouched(_)) => '-',
            Some(Recalled::Unvouched) => '?',
            None => '.',
        };
        assert_eq!(found, expected, "{told:?}");
    }

    #[test]
    fn one_that_has_seen_the_end_is_enough_and_else_a_majority_of_the_others_is_needed() {
        check(0, vec![], '+');
        check(2, vec![], '.');
        for pulse in [19, 20] {
            check(2, vec![heard(pulse)], '+');
            // Its book of entries is lost, and yet it knows that there was nothing after what is on disk.
            check(2, vec![lost(pulse)], '+');
        }
        check(2, vec![heard(18)], '.');
        check(2, vec![heard(21)], '-');
        check(2, vec![heard(18), heard(3)], '+');
        check(2, vec![heard(18), heard(21)], '-');
        check(2, vec![heard(18), lost(3)], '?');
        check(2, vec![lost(0), lost(0)], '?');
        check(2, vec![lost(18)], '.');
        check(1, vec![heard(18)], '+');
        check(1, vec![lost(18)], '?');
        check(4, vec![heard(20)], '.');
        check(4, vec![heard(20), heard(3)], '+');
        check(4, vec![heard(18), heard(3)], '.');
        check(4, vec![heard(18), heard(3), heard(4)], '+');
        check(4, vec![heard(18), heard(3), lost(4)], '?');
        // A peer that has never heard a counter was away all the time.
        check(2, vec![old()], '.');
    }

    #[test]
    fn before_there_are_counters_every_answer_counts() {
        let others = BTreeSet::from([NodeId(2), NodeId(3)]);
        let told = BTreeMap::from([(NodeId(2), old())]);
        let held = Some(entry(1));
        let expected = Remembered { held, voted: None, counter: None };
        assert_eq!(judge(&others, &told, 0), Some(Recalled::Vouched(expected)));
        let told = BTreeMap::from([(NodeId(2), Told { is_lost: true, ..old() })]);
        assert_eq!(judge(&others, &told, 0), None, "one that has lost its book vouches for nothing");
    }
}
