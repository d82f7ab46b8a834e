//! Two commands under one id, explored exhaustively: where they share a partition, at most one of them is carried out,
//! and neither is stuck.
//!
//! As in the parent module, the model has no transitions of its own for coordinators. A partition records each id once,
//! with its owner, and gives the client's id to the first command that starts or is called there. It knows no queue, no
//! log and no index.

use super::*;

/// Two commands with one id, and what partitions do about them.
struct CommandPair {
    plans: [SagaPlan; 2],
    derivation: Derivation,
    rule: Rule,
}

/// What a partition answers if an id belongs to another command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Claims are kept, and an id of another command is refused.
    Claims,
    /// As before feature level 6: a partition that is needed for the confirm only is not asked earlier.
    ClaimsOfTries,
    /// As for commands of the first release: there are no claims, but an id of another command is refused.
    Refusals,
    /// The bug: for an id of another command there is no answer.
    Silence,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct PairState {
    rows: [Option<Row>; 2],
    /// A home that has another command under the id answers 422 and records nothing.
    is_turned_away: [bool; 2],
    sent: BTreeSet<(usize, CallKey)>,
    /// By partition and id: the owner, and the outcome.
    recorded: BTreeMap<(PartitionId, CommandId), (usize, CallKey, CallOutcome)>,
    /// The owner of the client's id in each partition.
    claims: BTreeMap<PartitionId, usize>,
}

impl CommandPair {
    fn new(coordination: Planned, steps: [&[(&str, TccRole, bool)]; 2], rule: Rule) -> Self {
        let plans = steps.map(|steps| plan(coordination, steps).expect("a good plan").expect("several partitions"));
        let plans = plans.map(|plan| if rule == Rule::Claims { plan } else { plan.without_claims() });
        let has_claims = matches!(rule, Rule::Claims | Rule::ClaimsOfTries);
        let derivation = if has_claims { Derivation::ByContent } else { Derivation::ById };
        Self { plans, derivation, rule }
    }

    fn start(&self, number: usize) -> Saga {
        let events = vec![EventRecord { step: 0, event: vec![1].into() }];
        let body = [0x81, number as u8];
        let command = Command::new(ID, "move", "somebody", 0, "", &body);
        match Saga::start(command, self.plans[number].clone(), self.derivation, events, &here()) {
            Advance::GoesOn(saga) => *saga,
            Advance::Finished(_) => panic!("a command on several partitions goes on after its start"),
        }
    }

    fn saga(both: &PairState, number: usize) -> Option<Saga> {
        match both.rows[number].as_ref()? {
            Row::InFlight(row) => Some(Saga::of_row(row).expect("what was just written")),
            Row::Finished | Row::Aborted => None,
        }
    }

    /// The partition that carries out a call, and the id under which it does.
    fn place(&self, number: usize, key: CallKey) -> (PartitionId, CommandId) {
        (self.plans[number].branches[key.branch as usize].partition(), self.start(number).identity().call(key))
    }

    fn following(&self, both: &PairState) -> Vec<PairState> {
        let mut following = Vec::new();
        for number in 0..2 {
            following.extend(self.started(both, number));
            if let Some(saga) = Self::saga(both, number) {
                for key in saga.due() {
                    let mut next = both.clone();
                    next.sent.insert((number, key));
                    following.push(next);
                }
            }
        }
        for (number, key) in &both.sent {
            if both.recorded.contains_key(&self.place(*number, *key)) {
                following.extend(self.heard(both, *number, *key));
            } else {
                following.extend([true, false].map(|is_accepted| self.delivered(both, *number, *key, is_accepted)));
            }
        }
        following
    }

    fn started(&self, both: &PairState, number: usize) -> Option<PairState> {
        if both.rows[number].is_some() || both.is_turned_away[number] {
            return None;
        }
        let mut next = both.clone();
        let home = self.plans[number].branches[0].partition();
        if both.claims.contains_key(&home) {
            next.is_turned_away[number] = true;
            return Some(next);
        }
        next.claims.insert(home, number);
        next.rows[number] = Some(Row::InFlight(self.start(number).to_row()));
        let first = CallKey { branch: 0, call: Call::Do, attempt: 0 };
        next.recorded.insert(self.place(number, first), (number, first, CallOutcome::Done));
        Some(next)
    }

    fn delivered(&self, both: &PairState, number: usize, key: CallKey, is_accepted: bool) -> PairState {
        let mut next = both.clone();
        let saga = self.start(number);
        let (partition, id) = self.place(number, key);
        let tried = self.place(number, key.first_do());
        let is_final = key.call == Call::Undo || saga.branch(key).role == Role::Confirm;
        let may_refuse = |recorded| if is_accepted || is_final { CallOutcome::Done } else { recorded };
        let recorded = if saga.is_cancel(key) && key.branch != 0 {
            let known = match both.recorded.get(&tried) {
                None => CallKnowledge::Nothing,
                Some((owner, _, CallOutcome::Done)) if *owner == number => CallKnowledge::Done,
                Some(_) => CallKnowledge::Refused,
            };
            match on_cancel(known) {
                OnCancel::Undo => CallOutcome::Done,
                OnCancel::NothingDone | OnCancel::AskAgain => CallOutcome::NothingDone,
                OnCancel::Forbid => {
                    next.recorded.insert(tried, (number, key.first_do(), CallOutcome::Forbidden));
                    CallOutcome::NothingDone
                }
            }
        } else if self.derivation == Derivation::ByContent && saga.needs_claim(key) {
            if *next.claims.entry(partition).or_insert(number) == number {
                may_refuse(CallOutcome::Refused)
            } else {
                CallOutcome::Refused
            }
        } else {
            may_refuse(CallOutcome::Refused)
        };
        next.recorded.insert((partition, id), (number, key, recorded));
        next
    }

    fn heard(&self, both: &PairState, number: usize, key: CallKey) -> Option<PairState> {
        let saga = Self::saga(both, number)?;
        let (owner, _, recorded) = both.recorded[&self.place(number, key)];
        let outcome = match recorded {
            _ if owner != number && self.rule == Rule::Silence => return None,
            _ if owner != number => refused(),
            CallOutcome::Done => done(),
            CallOutcome::Refused | CallOutcome::Forbidden => refused(),
            CallOutcome::NothingDone => Outcome::NothingDone,
        };
        let mut next = both.clone();
        next.rows[number] = Some(match saga.advance(key, &outcome, &here(), &here()) {
            Ok(Advance::GoesOn(saga)) => Row::InFlight(saga.to_row()),
            Ok(Advance::Finished(finished)) if finished.rejection.is_some() => Row::Aborted,
            Ok(Advance::Finished(_)) => Row::Finished,
            Err(StaleOutcome(_)) => return None,
        });
        Some(next)
    }

    /// What is wrong in a state.
    fn fault(&self, both: &PairState) -> Option<&'static str> {
        for number in 0..2 {
            let effect = |branch: usize| {
                let own = both.recorded.values().filter(|(owner, key, recorded)| {
                    *owner == number && key.branch as usize == branch && *recorded == CallOutcome::Done
                });
                let effect_of = |call| match call {
                    Call::Do => 1,
                    Call::Undo => -1,
                    Call::Claim => 0,
                };
                own.map(|(_, key, _)| effect_of(key.call)).sum::<i32>()
            };
            let effects: Vec<i32> = (0..self.plans[number].branches.len()).map(effect).collect();
            if effects.iter().any(|effect| ![0, 1].contains(effect)) {
                return Some("a branch is carried out twice, or undone though another command did it");
            }
            match &both.rows[number] {
                Some(Row::Finished) if effects.contains(&0) => return Some("finished, but not everywhere"),
                Some(Row::Aborted) if effects.contains(&1) => return Some("aborted, but something is left"),
                _ => {}
            }
        }
        both.rows.iter().all(|row| *row == Some(Row::Finished)).then_some("both are carried out")
    }

    /// Visits every reachable state and returns the first fault, if there is one. A state without successors is a fault
    /// unless both commands are over.
    fn explore(&self) -> Result<usize, &'static str> {
        let first = PairState {
            rows: [None, None],
            is_turned_away: [false; 2],
            sent: BTreeSet::new(),
            recorded: BTreeMap::new(),
            claims: BTreeMap::new(),
        };
        let mut seen: HashSet<PairState> = [first.clone()].into_iter().collect();
        let mut queue = VecDeque::from([first]);
        let mut finished = BTreeSet::new();
        while let Some(both) = queue.pop_front() {
            if let Some(fault) = self.fault(&both) {
                return Err(fault);
            }
            let is_over = |number: usize| both.is_turned_away[number] || Self::saga(&both, number).is_none();
            let following: Vec<PairState> = self.following(&both).into_iter().filter(|next| *next != both).collect();
            if following.is_empty() && !(is_over(0) && is_over(1)) {
                return Err("a command is in flight for ever");
            }
            finished.extend((0..2).filter(|number| both.rows[*number] == Some(Row::Finished)));
            queue.extend(following.into_iter().filter(|next| seen.insert(next.clone())));
        }
        assert_eq!(finished.len(), 2, "either of them can be carried out");
        Ok(seen.len())
    }
}

#[test]
fn of_two_commands_under_one_id_at_most_one_is_carried_out() {
    use TccRole::{Confirm, Try};
    let saga = |steps| CommandPair::new(Planned::Saga, steps, Rule::Claims).explore();
    let shared = saga([&[("0", Try, true), ("2", Try, false)], &[("1", Try, true), ("2", Try, false)]]);
    let crossing = saga([&[("0", Try, true), ("1", Try, false)], &[("1", Try, true), ("0", Try, false)]]);
    let chain = saga([
        &[("0", Try, true), ("2", Try, true), ("3", Try, false)],
        &[("1", Try, true), ("3", Try, true), ("2", Try, false)],
    ]);
    let tcc = |steps| CommandPair::new(Planned::TryConfirmCancel, steps, Rule::Claims).explore();
    let phases = tcc([
        &[("0", Try, true), ("2", Try, true), ("2", Confirm, false)],
        &[("1", Try, true), ("2", Try, true), ("2", Confirm, false)],
    ]);
    let crossing_phases = tcc([
        &[("0", Try, true), ("1", Try, true), ("1", Confirm, false)],
        &[("1", Try, true), ("0", Try, true), ("0", Confirm, false)],
    ]);
    println!("{shared:?}, {crossing:?}, {chain:?}, {phases:?} and {crossing_phases:?} states");
    for explored in [shared, crossing, chain, phases, crossing_phases] {
        assert!(explored.is_ok(), "{explored:?}");
    }
}

/// Commands that the first release has started are finished or undone: none of them is stuck, and no cancel undoes what
/// another command did.
#[test]
fn what_the_first_release_started_under_one_id_ends() {
    use TccRole::{Confirm, Try};
    let saga = [&[("0", Try, true), ("2", Try, false)][..], &[("1", Try, true), ("2", Try, false)]];
    let tcc = [
        &[("0", Try, true), ("2", Try, true), ("2", Confirm, false)][..],
        &[("1", Try, true), ("2", Try, true), ("2", Confirm, false)],
    ];
    for (coordination, steps) in [(Planned::Saga, saga), (Planned::TryConfirmCancel, tcc)] {
        let explored = CommandPair::new(coordination, steps, Rule::Refusals).explore();
        assert!(explored.is_ok(), "{coordination:?}: {explored:?}");
    }
}

/// A payee that is needed for the confirm only, and one more such partition. The other command needs it in Try, or for
/// the confirm as well.
#[test]
fn a_partition_that_is_needed_at_the_confirm_alone_refuses_the_id_before() {
    use TccRole::{Confirm, Try};
    let confirms: [&[(&str, TccRole, bool)]; 2] =
        [&[("0", Try, true), ("2", Confirm, false)], &[("1", Try, true), ("2", Confirm, false)]];
    let crossing: [&[(&str, TccRole, bool)]; 2] =
        [&[("0", Try, true), ("1", Confirm, false)], &[("1", Try, true), ("0", Confirm, false)]];
    let mixed: [&[(&str, TccRole, bool)]; 2] =
        [&[("0", Try, true), ("2", Confirm, false)], &[("1", Try, true), ("2", Try, true), ("2", Confirm, false)]];
    let two: [&[(&str, TccRole, bool)]; 2] = [
        &[("0", Try, true), ("2", Confirm, false), ("3", Confirm, false)],
        &[("1", Try, true), ("3", Confirm, false), ("2", Confirm, false)],
    ];
    for (name, steps) in [("confirms", confirms), ("crossing", crossing), ("mixed", mixed), ("two", two)] {
        let explored = CommandPair::new(Planned::TryConfirmCancel, steps, Rule::Claims).explore();
        println!("{name}: {explored:?}");
        assert!(explored.is_ok(), "{name}: {explored:?}");
        let before = CommandPair::new(Planned::TryConfirmCancel, steps, Rule::ClaimsOfTries).explore();
        assert_eq!(before, Err("both are carried out"), "{name}: the model finds what was");
    }
}

/// The bug that once was: the model finds it.
#[test]
fn silence_where_an_id_is_anothers_is_found() {
    use TccRole::Try;
    let steps = [&[("0", Try, true), ("2", Try, false)][..], &[("1", Try, true), ("2", Try, false)]];
    assert_eq!(CommandPair::new(Planned::Saga, steps, Rule::Silence).explore(), Err("a command is in flight for ever"));
}
