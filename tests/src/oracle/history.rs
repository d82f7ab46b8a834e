//! What happened according to a node's folder: the effective entries of each partition, read from its log.
//!
//! In: a folder. Out: decisions in order, and the head after each entry. It works out on its own which entries are
//! void, and what the head is. It is the one place of the kit that knows the host's formats, through
//! `statehouse_audit::audit`.

use std::collections::BTreeMap;
use std::path::Path;

use minicbor::Decode;
use statehouse_abi::cold::Rejection;
use statehouse_abi::outcome::GroupOutcome;
use statehouse_abi::value::Value;
use statehouse_audit::audit::Source;
use statehouse_kernel::ids::{CommandId, Digest, Head, JournalIndex, PartitionId, Position};
use statehouse_kernel::machine::entry::{self, Batch, Entry};
use statehouse_kernel::saga::Call;

use crate::cluster::MACHINE;
use crate::oracle::model::{Command, Outcome, Protocol};
use crate::wallet;

/// Which part of a command a decision is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The whole command.
    Whole,
    /// The command has begun, and continues in other partitions.
    Start,
    /// What another partition's command needs here, under an id of its own, which is recorded once.
    Call(CommandId),
    /// The command is over. What it did is in its other parts.
    End,
}

/// A command and what was recorded about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The partition of the command's home entity: under one id there may be commands of several homes.
    pub home: PartitionId,
    pub id: CommandId,
    pub part: Part,
    pub command: Command,
    pub outcome: Outcome,
    /// The number of events and rejections before it in its entry.
    pub n: u32,
}

/// One effective entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveEntry {
    /// The journal's chain hash after the entry.
    pub head: Head,
    /// The digest of the rows that the entry wrote.
    pub digest: Digest,
    pub decisions: Vec<Decision>,
}

/// A partition's journal as one node has it; entry 1 is the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub genesis: Head,
    pub entries: Vec<EffectiveEntry>,
}

/// What one node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The name of the node in messages.
    pub name: String,
    pub chains: BTreeMap<PartitionId, Chain>,
}

impl History {
    /// Reads the wallet's partitions in the folder of a node.
    pub fn read(name: &str, folder: &Path) -> Self {
        let source = Source::open(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let partitions = source.partitions(MACHINE).unwrap_or_else(|error| panic!("{name}: {error}"));
        let chain = |partition| (partition, Chain::read(name, &source, partition));
        Self { name: name.to_owned(), chains: partitions.into_iter().map(chain).collect() }
    }

    /// Drops what was recorded after the node showed these heads. The nodes of a cluster are not killed at one moment,
    /// so the last ones may still record a command whose client has given up.
    ///
    /// # Panics
    /// The node lacks a head that it has shown.
    pub fn cut(&mut self, shown: &BTreeMap<PartitionId, String>) {
        for (partition, head) in shown {
            let chain = self.chains.get_mut(partition);
            let chain =
                chain.unwrap_or_else(|| panic!("{} lacks partition {partition}, which it has shown", self.name));
            let is_shown = |found: &Head| found.to_string() == *head;
            let count = match chain.entries.iter().rposition(|entry| is_shown(&entry.head)) {
                Some(last) => last + 1,
                None if is_shown(&chain.genesis) => 0,
                None => panic!("{}: partition {partition} lacks the head {head}, which the node has shown", self.name),
            };
            chain.entries.truncate(count);
        }
    }
}

impl Chain {
    fn read(name: &str, source: &Source, partition: PartitionId) -> Self {
        let opened = source.partition(MACHINE, partition).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut chain = Self { genesis: opened.genesis.head, entries: Vec::new() };
        let mut head = chain.genesis;
        for read in opened.entries() {
            let entry = read.unwrap_or_else(|error| panic!("{name}: partition {partition}: {error}")).entry;
            if entry.header().parent != head {
                continue;
            }
            let hash = blake3::Hasher::new().update(&head.0).update(entry.payload()).finalize();
            head = Head(*hash.as_bytes());
            chain.entries.push(EffectiveEntry {
                head,
                digest: entry.header().digest,
                decisions: decisions(partition, &entry),
            });
        }
        chain
    }

    /// The entry with this number.
    pub fn find(&self, index: JournalIndex) -> Option<&EffectiveEntry> {
        self.entries.get(usize::try_from(index.0.checked_sub(1)?).ok()?)
    }

    /// The head after this many entries.
    pub fn find_head(&self, index: JournalIndex) -> Option<Head> {
        if index.0 == 0 { Some(self.genesis) } else { self.find(index).map(|entry| entry.head) }
    }

    /// Every decision with its position, in order.
    pub fn decisions(&self, partition: PartitionId) -> impl Iterator<Item = (Position, &Decision)> {
        self.entries.iter().enumerate().flat_map(move |(at, entry)| {
            let [a, b, c, d, ..] = entry.head.0;
            let index = JournalIndex(at as u64 + 1);
            let position = move |n| Position { partition, index, n, head8: [a, b, c, d] };
            entry.decisions.iter().map(move |decision| (position(decision.n), decision))
        })
    }
}

fn decisions(here: PartitionId, entry: &Entry) -> Vec<Decision> {
    let Some(batch) = entry.batch() else { return Vec::new() };
    let mut n = 0;
    let mut decisions = Vec::new();
    for at in 0..batch.outcome.group_count() {
        let (outcome, count) = outcome(batch.outcome.group(at));
        let number = batch.ops.group(at).command;
        let (id, command) = (batch.command_id(number as usize), command_of(&batch, number as usize));
        let home = if let entry::Part::Call(origin) = entry.part(number) { origin.home() } else { here };
        let (id, part, command) = part_of(entry, number, id, command);
        decisions.push(Decision { home, id, part, command, outcome, n });
        n += count;
    }
    decisions
}

/// The id of the command, which part this is, and what that part does here.
fn part_of(entry: &Entry, number: u32, id: CommandId, command: Command) -> (CommandId, Part, Command) {
    let part = entry.part(number);
    let (from, to, amount, by) = match (&command, part.is_outcome()) {
        (Command::Move { from, to, amount, by }, false) => (from.clone(), to.clone(), *amount, *by),
        _ => return (id, if part == entry::Part::End { Part::End } else { Part::Whole }, command),
    };
    match part {
        entry::Part::Call(origin) => {
            // By phases, the payee first reserves, and then receives in a branch of its own.
            let is_reservation = by == Protocol::Phases && origin.key.branch == 1;
            let what = match origin.key.call {
                Call::Do if is_reservation => Command::Reserve { to },
                Call::Undo if is_reservation => Command::Release { to },
                Call::Do => Command::Receive { to, amount },
                Call::Undo => Command::Refund { from, amount },
                Call::Claim => panic!("the wallet asks everybody in Try, so it needs no claim of its own"),
            };
            (origin.parent(), Part::Call(id), what)
        }
        _ => (id, Part::Start, Command::Pay { from, amount }),
    }
}

/// The outcome, and as how many events and rejections it counts.
fn outcome(recorded: GroupOutcome<'_>) -> (Outcome, u32) {
    match recorded {
        GroupOutcome::Events { count, .. } => (Outcome::Success, count),
        GroupOutcome::Rejected(bytes) => {
            let rejection = Rejection::decode(&mut minicbor::Decoder::new(bytes), &mut ());
            (Outcome::Rejected(rejection.expect("a recorded rejection can be read").code), 1)
        }
        GroupOutcome::NeedsKeys => panic!("it was recorded that keys are needed"),
    }
}

fn command_of(batch: &Batch<'_>, at: usize) -> Command {
    let command = batch.command(at);
    let body = Value::from_cbor(command.body).expect("a recorded body is a value");
    let member = |name: &str| {
        let value = body.find(name).and_then(Value::as_text);
        value.unwrap_or_else(|| panic!("`{}` without `{name}`: {body:?}", command.name)).to_owned()
    };
    assert_eq!(member("currency"), wallet::CURRENCY, "the kit uses one currency");
    match command.name {
        "open" => Command::Open { account: member("account") },
        "balance_transfer" => {
            let (from, to) = (member("from_account"), member("to_account"));
            let is_by_phases = body.find("coordination").and_then(Value::as_text) == Some("tcc");
            let by = if is_by_phases { Protocol::Phases } else { Protocol::Saga };
            Command::Move { from, to, amount: wallet::minor(&member("amount")), by }
        }
        "deposit" => {
            let (from, to) = (member("settlement"), member("account"));
            Command::Move { from, to, amount: wallet::minor(&member("amount")), by: Protocol::Saga }
        }
        other => panic!("the oracle does not know the command `{other}`"),
    }
}
