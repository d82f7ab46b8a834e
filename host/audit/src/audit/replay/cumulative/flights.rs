//! Commands on several partitions under a cumulative replay: which are in flight, which calls are sent, and where each
//! call is carried out.
//!
//! In: starts, outcomes of calls, and the places that the record has for calls and for what was heard about them. Out:
//! calls to carry out. The consequence of an outcome is decided by the function that coordinators use, and the effect
//! of a cancel on a participant by the one that participants use.
//!
//! A call waits for its place in the record. If the record has no place left for it, it is carried out at once. A
//! refusal that must not be final is retried with the pauses of a real coordinator. This file does not know rows.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::replay::tally::{HistoryPlace, Slots, slot_of};
use crate::ids::{CommandId, Micros, PartitionId};
use crate::saga::claim::ID_REUSED;
use crate::saga::participant::{CallKnowledge, OnCancel, on_cancel};
use crate::saga::status::EventRecord;
use crate::saga::{Advance, Call, CallKey, Derivation, Order, Outcome, PhaseMoment, Saga, SagaPlan};

/// The wait before a refused call is made again; it doubles with every refusal.
const AGAIN: i64 = 250_000;
const AGAIN_MAX: i64 = 10_000_000;
/// How many refusals leave a call in flight that must eventually succeed: nothing can change any more.
const ATTEMPTS_MAX: u32 = 64;
/// The place of what the record does not have yet but may have had later.
const AT_END: HistoryPlace = (Micros(i64::MAX), u32::MAX, u64::MAX);

/// The partition of its home, and its id: two commands under one id may be in flight at two homes.
pub type FlightId = (PartitionId, CommandId);

/// A command in flight.
struct Flight {
    saga: Saga,
    sent: BTreeSet<CallKey>,
    /// Calls with an outcome, and whether the coordinator has heard the outcome.
    done: BTreeMap<CallKey, (Outcome, PhaseMoment, bool)>,
}

/// All commands in flight.
pub struct Flights {
    flights: BTreeMap<FlightId, Flight>,
    slots: Slots,
    /// Calls that the record does not have, by time and partition.
    agenda: BTreeMap<(HistoryPlace, u64), (FlightId, CallKey)>,
    counter: u64,
}

/// What a participant must do.
pub enum ParticipantTask {
    /// Carry out this branch, or undo it.
    Steps { block: Vec<u8>, is_undo: bool },
    /// There is nothing to undo, and never will be.
    NothingDone,
    /// Keep the command's id until its confirm arrives.
    Claim,
}

impl Flights {
    pub fn new(mut slots: Slots) -> Self {
        for slot in std::mem::take(&mut slots.due) {
            slots.calls.entry(slot).or_insert(AT_END);
            slots.heard.entry(slot).or_insert(AT_END);
        }
        Self { flights: BTreeMap::new(), slots, agenda: BTreeMap::new(), counter: 0 }
    }

    /// How many commands are not over.
    pub fn count(&self) -> u64 {
        self.flights.len() as u64
    }

    /// A command continues on other partitions: its first branch is done.
    pub fn start(
        &mut self,
        command: crate::saga::status::Command,
        plan: SagaPlan,
        derivation: Derivation,
        events: Vec<EventRecord>,
        now: HistoryPlace,
    ) {
        let id = (plan.branches[0].partition(), command.id());
        if let Advance::GoesOn(saga) =
            Saga::start(command, plan, derivation, events, &PhaseMoment::at_home(now.0, now.2))
        {
            self.flights.insert(id, Flight { saga: *saga, sent: BTreeSet::new(), done: BTreeMap::new() });
            self.send(id, now);
        }
    }

    /// What is due for a call now; `None` if it was never made, or was carried out already.
    pub fn find_due(&self, command: FlightId, key: CallKey) -> Option<ParticipantTask> {
        let flight = self.flights.get(&command)?;
        if !flight.sent.contains(&key) || flight.done.contains_key(&key) {
            return None;
        }
        if key.call == Call::Claim {
            return Some(ParticipantTask::Claim);
        }
        let saga = &flight.saga;
        let is_undo = key.call == Call::Undo;
        if saga.is_cancel(key) && key.branch != 0 {
            let known = match flight.done.get(&key.first_do()) {
                Some((Outcome::Done { .. }, ..)) => CallKnowledge::Done,
                Some(_) => CallKnowledge::Refused,
                None => CallKnowledge::Nothing,
            };
            match on_cancel(known) {
                OnCancel::Undo => {}
                OnCancel::NothingDone | OnCancel::Forbid | OnCancel::AskAgain => {
                    return Some(ParticipantTask::NothingDone);
                }
            }
        }
        let home = &saga.plan.branches[0].steps[0].entity;
        let block = saga.branch(key).to_plan(saga.form(key), home, &saga.command.body);
        Some(ParticipantTask::Steps { block, is_undo })
    }

    /// The row of a command in flight.
    pub fn saga_of(&self, command: FlightId) -> Option<&Saga> {
        self.flights.get(&command).map(|flight| &flight.saga)
    }

    /// A call has an outcome. The coordinator hears of it where the record says so, otherwise at once.
    pub fn on_outcome(&mut self, command: FlightId, key: CallKey, outcome: Outcome, now: HistoryPlace) {
        let Some(flight) = self.flights.get_mut(&command) else { return };
        if matches!(outcome, Outcome::NothingDone) {
            // A call that was cancelled before it arrived never arrives.
            flight.sent.remove(&key.first_do());
        }
        let at = PhaseMoment::at_participant(now.0, String::new());
        flight.done.insert(key, (outcome, at, false));
        if self.slots.heard.get(&slot_of(command.0, command.1, key)).is_none_or(|heard| *heard <= now) {
            self.on_heard(command, key, now);
        }
    }

    /// The coordinator hears of a call, if it has an outcome.
    pub fn on_heard(&mut self, command: FlightId, key: CallKey, now: HistoryPlace) {
        let Some(flight) = self.flights.get_mut(&command) else { return };
        let Some((outcome, recorded, is_heard)) = flight.done.get_mut(&key) else { return };
        if std::mem::replace(is_heard, true) {
            return;
        }
        let advanced = flight.saga.clone().advance(key, outcome, recorded, &PhaseMoment::at_home(now.0, now.2));
        match advanced {
            Ok(Advance::GoesOn(saga)) => {
                flight.saga = *saga;
                self.send(command, now);
            }
            Ok(Advance::Finished(_)) => drop(self.flights.remove(&command)),
            // The outcome is too late to matter.
            Err(_) => {}
        }
    }

    /// An operator's order takes effect if the simulated command allows it as well. A command that took another course
    /// needs no order, or must do without it.
    pub fn on_order(&mut self, home: PartitionId, order: &Order, now: HistoryPlace) {
        let id = (home, order.command());
        let Some(flight) = self.flights.get_mut(&id) else { return };
        match flight.saga.clone().order(order, &PhaseMoment::at_home(now.0, now.2)) {
            Ok(Advance::GoesOn(saga)) => {
                flight.saga = *saga;
                self.send(id, now);
            }
            Ok(Advance::Finished(_)) => drop(self.flights.remove(&id)),
            Err(_) => {}
        }
    }

    /// Makes the calls that have become due.
    fn send(&mut self, command: FlightId, now: HistoryPlace) {
        let Some(flight) = self.flights.get_mut(&command) else { return };
        for key in flight.saga.due() {
            if ATTEMPTS_MAX < key.attempt || !flight.sent.insert(key) {
                continue;
            }
            let is_to_come =
                |key: CallKey| self.slots.calls.get(&slot_of(command.0, command.1, key)).filter(|slot| now < **slot);
            if is_to_come(key).is_some() {
                continue;
            }
            let slot = slot_of(command.0, command.1, key);
            if let Some(rejection) = self.slots.reused.get(&slot).filter(|_| !self.slots.calls.contains_key(&slot)) {
                // No participant has recorded the refusal, so it is heard where the coordinator heard it.
                let outcome = Outcome::Refused { rejection: rejection.clone().into(), code: ID_REUSED.to_owned() };
                flight.done.insert(key, (outcome, PhaseMoment::at_participant(now.0, String::new()), false));
                continue;
            }
            let pause = if key.attempt == 0 { 1 } else { (AGAIN << (key.attempt - 1).min(6)).min(AGAIN_MAX) };
            let mut time = Micros(now.0.0.saturating_add(pause));
            // A cancel without a place of its own: the call it cancels may be on its way, and the participant answers
            // after that call.
            if let Some(slot) = is_to_come(key.first_do()).filter(|_| key.call == Call::Undo) {
                time = time.max(Micros(slot.0.0.saturating_add(1)));
            }
            self.counter += 1;
            let place = (time, flight.saga.branch(key).partition().0, 0);
            self.agenda.insert((place, self.counter), (command, key));
        }
    }

    /// The next call that the record does not have, up to a time.
    pub fn next_call(&mut self, until: Micros) -> Option<(HistoryPlace, FlightId, CallKey)> {
        let entry = self.agenda.first_entry()?;
        let ((place, _), (command, key)) = (*entry.key(), *entry.get());
        if until < place.0 {
            return None;
        }
        entry.remove();
        Some((place, command, key))
    }
}
