//! Makes histories of several partitions without a host: each partition has a leader that decides, records and
//! coordinates as real ones do.
//!
//! The test says which partition does what and when, so calls can be late, early or lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use statehouse_abi::cold::Rejection;
use statehouse_abi::ops::{OpRole, OpsBlock};
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock, OutcomeWriter};
use statehouse_abi::plan::{PlanInWriter, PlanItem};
use statehouse_abi::role;
use statehouse_abi::value::Value;

use crate::audit::error::AuditError;
use crate::audit::replay::history::{History, PartitionJournal};
use crate::audit::replay::state::PartitionRows;
use crate::ids::{CommandId, Digest, JournalIndex, Micros, ModuleId, PartitionId, Position};
use crate::machine::decide::block::BlockBuilder;
use crate::machine::decide::{HostFault, decide};
use crate::machine::entry::{Activation, BatchWriter, Entry, EntryCommand, EntryKind, Header};
use crate::machine::journal::{Journal, Verdict};
use crate::machine::logic::Logic;
use crate::machine::migration::digest;
use crate::machine::plan::{Plan, PlanView};
use crate::machine::replica::{AppliedEntry, no_writes};
use crate::machine::slots::partition_of;
use crate::machine::table::{Change, Table, derivations, list_finished};
use crate::saga::claim::claimed;
use crate::saga::participant::{CallKnowledge, OnCancel, on_cancel};
use crate::saga::status::EventRecord;
use crate::saga::{
    Call, CallKey, CallProgress, Derivation, Form, Origin, Outcome, PhaseMoment, Records, Saga, SagaPlan, Start,
};

/// A command that a client sends.
pub struct ClientCommand {
    pub id: u64,
    pub name: &'static str,
    pub body: Value,
}

/// What happened, in the order of time, for models that repeat it.
#[derive(Clone, Debug)]
pub enum Step {
    Sent(u64),
    /// A call of another partition's command.
    Called(u64),
    /// Its coordinator has recorded the outcome of a call.
    Heard(u64),
}

struct Part {
    journal: Journal,
    entries: Vec<Entry>,
    state: PartitionRows,
}

struct DueCall {
    parent: CommandId,
    home: PartitionId,
    key: CallKey,
}

pub struct Maker {
    logic: Arc<dyn Logic>,
    modules: BTreeMap<ModuleId, Arc<dyn Logic>>,
    parts: Vec<Part>,
    clock: i64,
    due: Vec<DueCall>,
    heard: Vec<(PartitionId, CallProgress)>,
    /// Calls with an outcome.
    outcomes: HashMap<CommandId, bool>,
    sent: HashSet<(CommandId, CallKey)>,
    pub script: Vec<Step>,
}

pub fn id_of(number: u64) -> CommandId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    CommandId(id)
}

fn number_of(id: CommandId) -> u64 {
    u64::from_be_bytes(*id.0.last_chunk().expect("an id has 16 bytes"))
}

impl Maker {
    pub fn new(logic: Arc<dyn Logic>, count: u32) -> Self {
        let machine = logic.describe().name.clone();
        let part = |partition| Part {
            journal: Journal::genesis(&[7; 16], &machine, PartitionId(partition)),
            entries: Vec::new(),
            state: PartitionRows::default(),
        };
        let mut maker = Self {
            modules: BTreeMap::new(),
            logic: logic.clone(),
            parts: (0..count).map(part).collect(),
            clock: 1_000_000,
            due: Vec::new(),
            heard: Vec::new(),
            outcomes: HashMap::new(),
            sent: HashSet::new(),
            script: Vec::new(),
        };
        maker.activate(logic);
        maker
    }

    pub fn activate(&mut self, logic: Arc<dyn Logic>) {
        self.modules.insert(logic.id(), logic.clone());
        self.logic = logic;
        for partition in 0..self.parts.len() {
            let Part { state, journal, .. } = &self.parts[partition];
            let migrated = state.migrate(self.logic.as_ref(), journal.schema).expect("the module reads these rows");
            let header = Header { digest: digest(&migrated), ..self.header(partition, EntryKind::Activate) };
            let (module, schema) = (self.logic.id(), self.logic.describe().schema);
            let entry = Entry::activate(header, Activation { module, schema, number: 1 });
            for (key, row) in &migrated {
                self.parts[partition].state.put(key, row.as_deref());
            }
            self.push(partition, entry);
        }
    }

    /// Puts other logic under the same id, as on a host that has drifted.
    pub fn replace(&mut self, id: ModuleId, logic: Arc<dyn Logic>) {
        self.modules.insert(id, logic);
    }

    pub fn partition_of(&self, entity: &str) -> usize {
        partition_of(entity.as_bytes(), self.parts.len() as u32).0 as usize
    }

    /// The position of an event or rejection of the last entry.
    pub fn position(&self, partition: usize, n: u32) -> Position {
        self.parts[partition].journal.position(PartitionId(partition as u32), n)
    }

    pub fn time(&self) -> Micros {
        Micros(self.clock)
    }

    fn header(&mut self, partition: usize, kind: EntryKind) -> Header {
        self.clock += 10;
        let journal = &self.parts[partition].journal;
        Header {
            kind,
            index: JournalIndex(journal.index.0 + 1),
            time: Micros(self.clock),
            parent: journal.head,
            seed: [3; 32],
            planner: self.logic.id(),
            decider: self.logic.id(),
            digest: Digest::ZERO,
        }
    }

    fn push(&mut self, partition: usize, entry: Entry) {
        let part = &mut self.parts[partition];
        let Ok(Verdict::Effective(after)) = part.journal.judge(&entry) else { panic!("an entry fits its journal") };
        part.journal = after;
        part.entries.push(entry);
    }

    /// Completes an entry with the digest of its writes, and appends it.
    fn record(&mut self, partition: usize, entry: Entry, writes: Vec<u8>) {
        let applied = AppliedEntry::promote(entry, writes, &self.parts[partition].state).expect("it fits its table");
        let entry = applied.entry().clone().with_digest(applied.digest());
        let rows: Vec<(Vec<u8>, Option<Vec<u8>>)> =
            applied.rows().map(|(key, row)| (key.to_vec(), row.map(<[u8]>::to_vec))).collect();
        for (key, row) in rows {
            self.parts[partition].state.put(&key, row.as_deref());
        }
        self.push(partition, entry);
    }

    /// One batch of a partition; all commands have their home there.
    pub fn batch(&mut self, partition: usize, sent: &[ClientCommand]) {
        let (here, count) = (PartitionId(partition as u32), self.parts.len() as u32);
        let mut input = PlanInWriter::default();
        for ClientCommand { id, name, body } in sent {
            let command = self.logic.describe().commands.iter().position(|declared| declared.name == *name);
            let command = command.expect("the module has the command") as u32;
            let body = body.to_cbor().expect("a body of plain values");
            input.item(PlanItem { command, roles: role::ALL, id: id_of(*id).0, caller: b"test", body: &body });
        }
        let planned = Plan::all(self.logic.plan(&input.finish(Vec::new())).expect("it plans")).expect("a block");
        let mut records = Records::default();
        let (mut plans, mut bodies) = (Vec::new(), Vec::new());
        for (number, plan) in (0..).zip(planned) {
            let plan = plan.unwrap_or_else(|refusal| panic!("refused: {}", String::from_utf8_lossy(&refusal)));
            let view = plan.view();
            bodies.push(view.body.to_vec());
            let of = |entity: &[u8]| partition_of(entity, count);
            assert_eq!(of(view.home), here, "the home is here");
            let saga = SagaPlan::divide(&view.block, view.coordination, here, view.steps_with_last_resorts(), of)
                .expect("it divides");
            let first = saga.as_ref().map(|saga| saga.branches[0].to_plan(Form::Do, view.home, view.body));
            let plan = first.map_or_else(|| plan.clone(), one_plan);
            records.starts.extend(saga.map(|plan| Start::new(number, plan, Derivation::ByContent)));
            plans.push(plan);
        }
        let ids: Vec<CommandId> = sent.iter().map(|sent| id_of(sent.id)).collect();
        let names: Vec<&str> = sent.iter().map(|sent| sent.name).collect();
        let views: Vec<PlanView<'_>> = plans.iter().map(Plan::view).collect();
        let starts: Vec<u32> = records.starts.iter().map(|start| start.command).collect();
        let (entry, writes) = self.decide(partition, &ids, &names, &bodies, &views, records);
        let accepted: Vec<CommandId> = starts
            .into_iter()
            .filter(|command| entry.is_started(*command))
            .map(|command| ids[command as usize])
            .collect();
        self.record(partition, entry, writes);
        self.script.extend(sent.iter().map(|sent| Step::Sent(sent.id)));
        accepted.into_iter().for_each(|id| self.send(here, id));
    }

    fn decide(
        &mut self,
        partition: usize,
        ids: &[CommandId],
        names: &[&str],
        bodies: &[Vec<u8>],
        views: &[PlanView<'_>],
        records: Records,
    ) -> (Entry, Vec<u8>) {
        let header = self.header(partition, EntryKind::Batch);
        let state = &self.parts[partition].state;
        let fetch = |ops: &OpsBlock<'_>| Ok::<_, HostFault>(state.fetch(ops));
        let decided = decide(self.logic.as_ref(), header.context(), views, fetch).expect("the host does not fault");
        assert_eq!(decided.plan_count, views.len(), "small batches are decided whole");
        let commands = commands_of(ids, names, bodies);
        (commands.finish(header, &decided.ops, &decided.outcome, records), decided.writes)
    }

    /// Makes the calls of a command that have become due.
    fn send(&mut self, home: PartitionId, parent: CommandId) {
        let Some(saga) = Table::find(&self.parts[home.0 as usize].state, parent) else { return };
        for key in saga.due() {
            if self.sent.insert((parent, key)) {
                self.due.push(DueCall { parent, home, key });
            }
        }
    }

    fn saga(&self, call: &DueCall) -> Option<Saga> {
        Table::find(&self.parts[call.home.0 as usize].state, call.parent)
    }

    /// The partition carries out one call that is due there, the oldest or the newest; returns `false` if there is
    /// none.
    pub fn call(&mut self, partition: usize, newest: bool) -> bool {
        let is_here = |maker: &Self, call: &DueCall| {
            maker.saga(call).is_none_or(|saga| saga.branch(call.key).partition().0 as usize == partition)
        };
        let mut here = (0..self.due.len()).filter(|at| is_here(self, &self.due[*at]));
        let at = if newest { here.next_back() } else { here.next() };
        let Some(at) = at else { return false };
        let call = self.due.remove(at);
        // Its command is over, so the coordinator has given it up.
        let Some(saga) = self.saga(&call) else { return true };
        let key = call.key;
        let identity = saga.identity();
        let mut id = identity.call(key);
        if saga.is_cancel(key) && key.branch != 0 {
            let tried = identity.call(key.first_do());
            let known = match self.outcomes.get(&tried) {
                Some(true) => CallKnowledge::Done,
                Some(false) => CallKnowledge::Refused,
                None => CallKnowledge::Nothing,
            };
            match on_cancel(known) {
                OnCancel::Undo => {}
                OnCancel::NothingDone => {
                    let at = PhaseMoment::at_participant(Micros(self.clock), String::new());
                    self.heard.push((call.home, CallProgress::new(call.parent, key, Outcome::NothingDone, at)));
                    return true;
                }
                OnCancel::Forbid => id = tried,
                OnCancel::AskAgain => panic!("nothing is under way for long here"),
            }
        }
        self.carry_out(partition, &call, &saga, id);
        true
    }

    fn carry_out(&mut self, partition: usize, call: &DueCall, saga: &Saga, id: CommandId) {
        let (key, body) = (call.key, saga.command.body.to_vec());
        let is_undo = key.call == Call::Undo;
        let plan = one_plan(saga.branch(key).to_plan(saga.form(key), b"home", &body));
        let mut view = plan.view();
        if is_undo {
            view.role = OpRole::Undo;
        }
        let (origin, is_claim) = (Origin::new(0, &saga.identity(), key), key.call == Call::Claim);
        let origins = vec![if is_claim { origin.claiming() } else { origin }];
        let records = Records { origins, ..Records::default() };
        let (ids, names, bodies) = ([id], [saga.command.name.as_str()], [body]);
        let is_forbidden = id != saga.identity().call(key);
        let (entry, writes) = if is_forbidden || is_claim {
            let header = self.header(partition, EntryKind::Batch);
            let (ops, outcome) = forbidden(&view, if is_claim { claimed() } else { cancelled() });
            (commands_of(&ids, &names, &bodies).finish(header, &ops, &outcome, records), no_writes())
        } else {
            self.decide(partition, &ids, &names, &bodies, &[view], records)
        };
        let outcome = match (is_forbidden, is_claim) {
            (true, _) => Outcome::NothingDone,
            (_, true) => Outcome::Done { events: Vec::new() },
            _ => outcome_of(&entry),
        };
        self.outcomes.insert(id, matches!(outcome, Outcome::Done { .. }));
        let time = entry.header().time;
        self.record(partition, entry, writes);
        let at = PhaseMoment::at_participant(time, self.position(partition, 0).to_string());
        if !is_claim {
            self.script.push(Step::Called(number_of(call.parent)));
        }
        self.heard.push((call.home, CallProgress::new(call.parent, key, outcome, at)));
    }

    /// A coordinator records one outcome that it has heard; returns `false` if there is none.
    pub fn hear(&mut self, partition: usize) -> bool {
        let home = PartitionId(partition as u32);
        let Some(at) = self.heard.iter().position(|(other, _)| *other == home) else { return false };
        let (_, progress) = self.heard.remove(at);
        let header = self.header(partition, EntryKind::Saga);
        let parent = progress.command();
        let change = Change::of_progress(&header, std::slice::from_ref(&progress), &[], &self.parts[partition].state);
        // The outcome is too late to matter.
        let Ok(change) = change else { return true };
        let (commands, ops, outcome) = list_finished(&change.finished);
        let marks = change.finished.iter().map(|finished| finished.saga.marks.clone()).collect();
        let ended = derivations(&change.finished);
        let records = Records { progress: vec![progress], marks, ended, ..Records::default() };
        let entry = commands.finish(header, &ops, &outcome, records);
        self.record(partition, entry, no_writes());
        self.script.push(Step::Heard(number_of(parent)));
        self.send(home, parent);
        true
    }

    /// Continues until nothing is under way any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut is_busy = false;
            for partition in 0..self.parts.len() {
                is_busy |= self.call(partition, false);
                is_busy |= self.hear(partition);
            }
            if !is_busy {
                return;
            }
        }
        panic!("commands go on for ever");
    }
}

fn one_plan(block: Vec<u8>) -> Plan {
    Plan::all(block).expect("a block").remove(0).expect("it holds one plan")
}

fn commands_of(ids: &[CommandId], names: &[&str], bodies: &[Vec<u8>]) -> BatchWriter {
    let mut commands = BatchWriter::default();
    for ((id, name), body) in ids.iter().zip(names).zip(bodies) {
        let expires = Micros(i64::MAX);
        let (roles, caller, request_id) = (role::ALL, "test", "request");
        commands.command(&EntryCommand { id: *id, name, caller, roles, vouched: None, request_id, body, expires });
    }
    commands
}

fn cancelled() -> Vec<u8> {
    let rejection = Rejection { code: "cancelled".to_owned(), detail: "it was cancelled".to_owned() };
    minicbor::to_vec(&rejection).expect("a vector takes all bytes")
}

/// What the host records without asking the module.
fn forbidden(view: &PlanView<'_>, rejection: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let (mut ops, mut outcome) = (BlockBuilder::default(), OutcomeWriter::default());
    ops.group(0, view, 0, &[]);
    outcome.reject(0, &rejection);
    (ops.finish(), outcome.finish(Vec::new()))
}

fn outcome_of(entry: &Entry) -> Outcome {
    let batch = entry.batch().expect("a batch");
    let outcome: OutcomeBlock<'_> = batch.outcome;
    match outcome.group(0) {
        GroupOutcome::Events { first, count } => {
            let event = |at: u32| {
                let event = outcome.event(at as usize);
                EventRecord { step: event.op, event: event.payload.to_vec().into() }
            };
            Outcome::Done { events: (first..first + count).map(event).collect() }
        }
        GroupOutcome::Rejected(bytes) => {
            let rejection: Rejection = minicbor::decode(bytes).expect("a rejection");
            Outcome::Refused { rejection: bytes.to_vec().into(), code: rejection.code }
        }
        GroupOutcome::NeedsKeys => panic!("it is decided"),
    }
}

struct Entries {
    genesis: Journal,
    entries: Vec<Entry>,
}

impl PartitionJournal for Entries {
    fn genesis(&self) -> Journal {
        self.genesis
    }

    fn byte_count(&self) -> u64 {
        self.entries.iter().map(|entry| entry.payload().len() as u64).sum()
    }

    fn entries(&self) -> Box<dyn Iterator<Item = Result<Entry, AuditError>> + '_> {
        Box::new(self.entries.iter().cloned().map(Ok))
    }
}

impl History for Maker {
    fn cluster(&self) -> String {
        "07070707-0707-0707-0707-070707070707".to_owned()
    }

    fn machine(&self) -> &str {
        &self.logic.describe().name
    }

    fn partition_count(&self) -> u32 {
        self.parts.len() as u32
    }

    fn open(&self, partition: PartitionId) -> Result<Box<dyn PartitionJournal>, AuditError> {
        let genesis = Journal::genesis(&[7; 16], self.machine(), partition);
        Ok(Box::new(Entries { genesis, entries: self.parts[partition.0 as usize].entries.clone() }))
    }

    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.modules.get(&id).cloned().ok_or_else(|| "unknown".to_owned())
    }
}
