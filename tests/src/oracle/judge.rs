//! The verdict over a run: the histories that the nodes have, compared with what clients were told.
//!
//! In: histories and a recording. Out: every breach, each with the name of the promise it breaks. Everything must fit
//! the order of a partition's journal: outcomes, reads, and which answer came before which request. It knows nothing
//! of files, nodes or HTTP.

use std::collections::{BTreeMap, BTreeSet};

use statehouse_kernel::ids::{CommandId, JournalIndex, PartitionId, Position};

use crate::oracle::history::{Chain, Decision, EffectiveEntry, History, Part};
use crate::oracle::model::{Account, Command, Outcome, Wallet};
use crate::recording::{AccountRead, Attempt, Consistency, Moment, Recording, Transfer, TransferAnswer};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Two nodes have different journals, from this entry on.
    Diverged { partition: PartitionId, index: JournalIndex, nodes: [String; 2] },
    /// A client was told where a command is recorded, and no journal has it there.
    Lost { id: CommandId, told: Position },
    /// A command was decided more than once.
    Doubled { id: CommandId, positions: [Position; 2] },
    /// A command is recorded although every request for it was answered as certainly not accepted.
    Smuggled { id: CommandId },
    /// The journal has other content under this id than the client sent.
    Replaced { id: CommandId, recorded: Command },
    /// The client was told an outcome that differs from the recorded one.
    Contradicted { id: CommandId, told: Outcome, recorded: Outcome },
    /// The recorded outcome is not what the rules say at that place in the journal.
    Misjudged { id: CommandId, expected: Outcome, recorded: Outcome },
    /// A command that was answered before another was sent comes after it in the journal.
    Reordered { earlier: CommandId, later: CommandId },
    /// A read shows a state that the account never had at that position.
    Unreal { seen: Box<AccountRead>, expected: Option<Account> },
    /// A linearizable read shows less than was known to be done before it was sent.
    Stale { seen: Box<AccountRead>, version_min: u64 },
    /// A read shows what was only asked for after the read had been answered.
    Premature { seen: Box<AccountRead> },
    /// The accounts of a partition do not add up to 0.
    Unbalanced { partition: PartitionId, sum: i128 },
    /// A command has begun and does not end.
    Unfinished { id: CommandId },
    /// A command on several partitions ended differently from its parts.
    HalfDone { id: CommandId, recorded: Outcome },
    /// All commands are over, and money is still in transit between partitions.
    Adrift { sum: i128 },
    /// Two commands under one id that share an account are both carried out.
    Shared { id: CommandId, positions: [Position; 2] },
}

/// A command, named by the partition of its home and by its id.
type TransferKey = (PartitionId, CommandId);
/// The same, with what a client sent.
type SentCommand = (TransferKey, Command);

/// Rejections by the host, which the rules of a wallet do not know.
const OF_HOST: [&str; 2] = ["cancelled", "id_reused"];

/// Returns everything that is wrong; nothing, when all promises were kept.
pub fn judge(histories: &[History], recording: &Recording) -> Vec<Breach> {
    let (first, others) = histories.split_first().expect("a run leaves at least one history");
    let mut breaches = Vec::new();
    for other in others {
        breaches.extend(divergences(first, other));
    }
    let mut truth = Truth::default();
    let transits: Vec<i128> =
        first.chains.iter().map(|(partition, chain)| truth.replay(*partition, chain, &mut breaches)).collect();
    breaches.extend(truth.join_parts());
    breaches.extend(truth.check_shared());
    let adrift: i128 = transits.iter().sum();
    if adrift != 0 {
        breaches.push(Breach::Adrift { sum: adrift });
    }
    breaches.extend(truth.check_answers(&recording.attempts));
    breaches.extend(truth.check_order(&recording.attempts));
    breaches.extend(truth.check_reads(recording));
    breaches
}

fn divergences(first: &History, other: &History) -> Vec<Breach> {
    let partitions: BTreeSet<PartitionId> = first.chains.keys().chain(other.chains.keys()).copied().collect();
    let mut breaches = Vec::new();
    for partition in partitions {
        let (ours, theirs) = (entries(first, partition), entries(other, partition));
        let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
        if same < ours.len().max(theirs.len()) {
            let nodes = [first.name.clone(), other.name.clone()];
            breaches.push(Breach::Diverged { partition, index: JournalIndex(same as u64 + 1), nodes });
        }
    }
    breaches
}

fn entries(history: &History, partition: PartitionId) -> &[EffectiveEntry] {
    history.chains.get(&partition).map_or(&[], |chain| &chain.entries)
}

/// What happened, worked out from one history.
#[derive(Default)]
struct Truth {
    commands: BTreeMap<TransferKey, Fact>,
    /// The states that each account had, by version; version 1 is at 0.
    accounts: BTreeMap<String, Vec<State>>,
    /// The first bytes of each head, by partition and number of entries.
    heads: BTreeMap<(PartitionId, JournalIndex), [u8; 4]>,
    /// The parts of commands on several partitions.
    parts: BTreeMap<TransferKey, Parts>,
    /// Where each call is recorded.
    calls: BTreeMap<(TransferKey, CommandId), Position>,
    /// The partition of each account.
    homes: BTreeMap<String, PartitionId>,
}

/// What the parts of a command on several partitions resulted in.
#[derive(Default)]
struct Parts {
    started: Option<Position>,
    received: Option<Outcome>,
    is_refunded: bool,
    changed: Vec<(String, u64)>,
}

struct Fact {
    position: Position,
    /// The place among all decisions of the partition.
    order: usize,
    command: Command,
    outcome: Outcome,
    /// The accounts that it changed, with their versions after the change.
    changed: Vec<(String, u64)>,
}

/// An account from a version on.
struct State {
    account: Account,
    partition: PartitionId,
    /// The entry that brought the account into this state.
    since: JournalIndex,
    by: TransferKey,
}

impl Truth {
    /// Returns what is in transit at the end.
    fn replay(&mut self, partition: PartitionId, chain: &Chain, breaches: &mut Vec<Breach>) -> i128 {
        for index in (0..=chain.entries.len() as u64).map(JournalIndex) {
            let head = chain.find_head(index).expect("counted just now");
            let [a, b, c, d, ..] = head.0;
            self.heads.insert((partition, index), [a, b, c, d]);
        }
        let mut wallet = Wallet::default();
        for (order, (position, decision)) in chain.decisions(partition).enumerate() {
            let (id, key) = (decision.id, (decision.home, decision.id));
            if let Command::Open { account } = &decision.command {
                self.homes.insert(account.clone(), partition);
            }
            if let Some(before) = self.note_place(decision, position) {
                breaches.push(Breach::Doubled { id, positions: [before, position] });
            }
            if decision.part == Part::End {
                self.commands.entry(key).or_insert_with(|| Fact::of(position, order, decision, Vec::new()));
                continue;
            }
            let before = accounts_named(&wallet, &decision.command);
            let is_of_host = |code: &String| OF_HOST.contains(&code.as_str());
            let expected = match &decision.outcome {
                Outcome::Rejected(code) if decision.part != Part::Whole && is_of_host(code) => decision.outcome.clone(),
                _ => wallet.decide(&decision.command),
            };
            if expected != decision.outcome {
                let recorded = decision.outcome.clone();
                breaches.push(Breach::Misjudged { id, expected, recorded });
            }
            let changed = self.note_changes(&before, &wallet, position, key);
            if decision.part == Part::Whole {
                self.commands.entry(key).or_insert_with(|| Fact::of(position, order, decision, changed));
                continue;
            }
            let parts = self.parts.entry(key).or_default();
            parts.changed.extend(changed);
            match &decision.command {
                Command::Receive { .. } => parts.received = Some(decision.outcome.clone()),
                // What is reserved is not received yet.
                Command::Reserve { .. } if decision.outcome == Outcome::Success => {}
                Command::Reserve { .. } => parts.received = Some(decision.outcome.clone()),
                Command::Refund { .. } => parts.is_refunded |= decision.outcome == Outcome::Success,
                Command::Open { .. } | Command::Move { .. } | Command::Pay { .. } | Command::Release { .. } => {}
            }
        }
        if wallet.sum() != 0 {
            breaches.push(Breach::Unbalanced { partition, sum: wallet.sum() });
        }
        wallet.transit()
    }

    /// Notes where a decision is recorded, and returns where it was recorded before.
    fn note_place(&mut self, decision: &Decision, position: Position) -> Option<Position> {
        let key = (decision.home, decision.id);
        match &decision.part {
            Part::Whole | Part::End => self.commands.get(&key).map(|before| before.position),
            Part::Start => self.parts.entry(key).or_default().started.replace(position),
            Part::Call(call) => self.calls.insert((key, *call), position),
        }
    }

    /// Checks that each command that has begun is over, and that its outcome is that of its parts.
    fn join_parts(&mut self) -> Vec<Breach> {
        let mut breaches = Vec::new();
        for (key, parts) in std::mem::take(&mut self.parts) {
            let id = key.1;
            let Some(fact) = self.commands.get_mut(&key) else {
                breaches.push(Breach::Unfinished { id });
                continue;
            };
            let is_whole = match &fact.outcome {
                Outcome::Success => parts.received == Some(Outcome::Success) && !parts.is_refunded,
                refused => parts.received.as_ref() == Some(refused) && parts.is_refunded,
            };
            if parts.started.is_none() || !is_whole {
                breaches.push(Breach::HalfDone { id, recorded: fact.outcome.clone() });
            }
            fact.changed = parts.changed;
        }
        breaches
    }

    fn note_changes(
        &mut self,
        before: &[(String, Option<Account>)],
        wallet: &Wallet,
        position: Position,
        by: TransferKey,
    ) -> Vec<(String, u64)> {
        let mut changed = Vec::new();
        for (name, before) in before {
            let after = wallet.accounts().get(name).copied();
            let (Some(account), true) = (after, after != *before) else { continue };
            let state = State { account, partition: position.partition, since: position.index, by };
            self.accounts.entry(name.clone()).or_default().push(state);
            changed.push((name.clone(), account.version));
        }
        changed
    }

    /// Checks that of two commands under one id that share an account at most one is carried out.
    fn check_shared(&self) -> Vec<Breach> {
        let mut done: BTreeMap<CommandId, Vec<&Fact>> = BTreeMap::new();
        for ((_, id), fact) in self.commands.iter().filter(|(_, fact)| fact.outcome == Outcome::Success) {
            done.entry(*id).or_default().push(fact);
        }
        let mut breaches = Vec::new();
        for (id, facts) in done {
            let pairs =
                facts.iter().enumerate().flat_map(|(at, one)| facts[at + 1..].iter().map(move |other| (one, other)));
            let shared = pairs.filter(|(one, other)| one.names().any(|name| other.names().any(|named| named == name)));
            breaches
                .extend(shared.map(|(one, other)| Breach::Shared { id, positions: [one.position, other.position] }));
        }
        breaches
    }

    /// The home partition and the id of a transfer's command.
    fn key_of(&self, transfer: &Transfer) -> Option<TransferKey> {
        // Money from a settlement account belongs to the payee's partition.
        let home = self.homes.get(&transfer.from).or_else(|| self.homes.get(&transfer.to))?;
        Some((*home, id_of(transfer)))
    }

    /// What is recorded of what a client sent; `None` where another command has the id.
    fn find(&self, transfer: &Transfer) -> Option<&Fact> {
        self.commands.get(&self.key_of(transfer)?).filter(|fact| fact.command == command_of(transfer))
    }

    /// Checks that every outcome that was told is in the journal, and that what was not accepted is not.
    fn check_answers(&self, attempts: &[Attempt]) -> Vec<Breach> {
        let mut breaches = Vec::new();
        let mut maybe_accepted: BTreeMap<SentCommand, bool> = BTreeMap::new();
        for Attempt { transfer, told, .. } in attempts {
            let id = id_of(transfer);
            if let Some(key) = self.key_of(transfer) {
                let is_refused = matches!(told, TransferAnswer::NotAccepted | TransferAnswer::Reused);
                *maybe_accepted.entry((key, command_of(transfer))).or_default() |= !is_refused;
            }
            let fact = self.find(transfer);
            if let Some(position) = told.position()
                && fact.is_none_or(|fact| fact.position != position)
            {
                breaches.push(Breach::Lost { id, told: position });
            }
            let Some(fact) = fact else { continue };
            let told = match told {
                TransferAnswer::Done { .. } => Outcome::Success,
                TransferAnswer::Rejected { code, .. } => Outcome::Rejected(code.clone()),
                TransferAnswer::Reused | TransferAnswer::NotAccepted | TransferAnswer::Unknown => continue,
            };
            if told != fact.outcome {
                breaches.push(Breach::Contradicted { id, told, recorded: fact.outcome.clone() });
            }
        }
        for ((key, command), maybe_accepted) in &maybe_accepted {
            let Some(fact) = self.commands.get(key) else { continue };
            if fact.command == *command && !maybe_accepted {
                breaches.push(Breach::Smuggled { id: key.1 });
            }
        }
        let sent: BTreeSet<TransferKey> = maybe_accepted.keys().map(|(key, _)| *key).collect();
        for key in sent {
            let Some(fact) = self.commands.get(&key) else { continue };
            if !maybe_accepted.contains_key(&(key, fact.command.clone())) {
                breaches.push(Breach::Replaced { id: key.1, recorded: fact.command.clone() });
            }
        }
        breaches
    }

    /// Checks that a command answered before another one was sent is before it in the journal.
    fn check_order(&self, attempts: &[Attempt]) -> Vec<Breach> {
        let mut last_answered: BTreeMap<PartitionId, (usize, CommandId)> = BTreeMap::new();
        let mut breaches = Vec::new();
        let first_sent = self.first_sent(attempts);
        let sent = first_sent.iter().map(|(key, moment)| (*moment, *key, TransferEvent::Sent));
        let answered = attempts.iter().filter(|attempt| attempt.told.position().is_some());
        let answered = answered.filter_map(|attempt| {
            self.find(&attempt.transfer)?;
            Some((attempt.span.returned, self.key_of(&attempt.transfer)?, TransferEvent::Answered))
        });
        let mut events: Vec<(Moment, TransferKey, TransferEvent)> = sent.chain(answered).collect();
        events.sort();
        for (_, key, what) in events {
            let Some(fact) = self.commands.get(&key) else { continue };
            let id = key.1;
            let partition = fact.position.partition;
            let last = last_answered.get(&partition).copied();
            match what {
                TransferEvent::Sent => {
                    if let Some((order, earlier)) = last.filter(|(order, _)| fact.order < *order) {
                        assert!(earlier != id && order != fact.order, "it was not answered before it was sent");
                        breaches.push(Breach::Reordered { earlier, later: id });
                    }
                }
                TransferEvent::Answered => {
                    if last.is_none_or(|(order, _)| order < fact.order) {
                        last_answered.insert(partition, (fact.order, id));
                    }
                }
            }
        }
        breaches
    }

    /// When each command that is recorded was sent for the first time.
    fn first_sent(&self, attempts: &[Attempt]) -> BTreeMap<TransferKey, Moment> {
        let mut sent: BTreeMap<TransferKey, Moment> = BTreeMap::new();
        for attempt in attempts.iter().filter(|attempt| self.find(&attempt.transfer).is_some()) {
            let Some(key) = self.key_of(&attempt.transfer) else { continue };
            let moment = sent.entry(key).or_insert(attempt.span.invoked);
            *moment = attempt.span.invoked.min(*moment);
        }
        sent
    }

    /// Checks that each read shows a state that existed: no older than was known before, no newer than was asked for.
    fn check_reads(&self, recording: &Recording) -> Vec<Breach> {
        let mut breaches = Vec::new();
        let sent_last = self.sent_last(&self.first_sent(&recording.attempts));
        let versions_min = self.versions_known(recording);
        for (seen, version_min) in recording.reads.iter().zip(versions_min) {
            let expected = self.state_at(&seen.account, seen.position);
            let found = Account { version: seen.version, balance: seen.balance };
            if expected != Some(found) {
                breaches.push(Breach::Unreal { seen: Box::new(seen.clone()), expected });
                continue;
            }
            if seen.consistency == Consistency::Linearizable && seen.version < version_min {
                breaches.push(Breach::Stale { seen: Box::new(seen.clone()), version_min });
            }
            let shown = usize::try_from(seen.version).expect("a version counts what was replayed");
            let sent_last = sent_last[seen.account.as_str()][..shown].last().copied().flatten();
            if sent_last.is_some_and(|sent| seen.span.returned < sent) {
                breaches.push(Breach::Premature { seen: Box::new(seen.clone()) });
            }
        }
        breaches
    }

    /// By account and version: when the last of the commands that led to it was first sent.
    fn sent_last(&self, first_sent: &BTreeMap<TransferKey, Moment>) -> BTreeMap<&str, Vec<Option<Moment>>> {
        let up_to_each = |states: &Vec<State>| {
            let sent = states.iter().map(|state| first_sent.get(&state.by).copied());
            let latest = |latest: &mut Option<Moment>, sent: Option<Moment>| {
                *latest = sent.max(*latest);
                Some(*latest)
            };
            sent.scan(None, latest).collect()
        };
        self.accounts.iter().map(|(name, states)| (name.as_str(), up_to_each(states))).collect()
    }

    /// For each read, the version of its account that somebody knew when the read was sent.
    fn versions_known(&self, recording: &Recording) -> Vec<u64> {
        enum Event<'r> {
            Known { account: &'r str, version: u64 },
            Asked { read: usize },
        }
        let mut events: Vec<(Moment, Event<'_>)> = Vec::new();
        for attempt in recording.attempts.iter().filter(|attempt| attempt.told.position().is_some()) {
            let changed = self.find(&attempt.transfer).map(|fact| fact.changed.as_slice());
            for (account, version) in changed.unwrap_or_default() {
                events.push((attempt.span.returned, Event::Known { account, version: *version }));
            }
        }
        for (read, seen) in recording.reads.iter().enumerate() {
            events.push((seen.span.returned, Event::Known { account: &seen.account, version: seen.version }));
            events.push((seen.span.invoked, Event::Asked { read }));
        }
        events.sort_by_key(|(moment, _)| *moment);
        let mut known: BTreeMap<&str, u64> = BTreeMap::new();
        let mut versions = vec![0; recording.reads.len()];
        for (_, event) in events {
            match event {
                Event::Known { account, version } => {
                    let known = known.entry(account).or_default();
                    *known = version.max(*known);
                }
                Event::Asked { read } => {
                    versions[read] = known.get(recording.reads[read].account.as_str()).copied().unwrap_or_default();
                }
            }
        }
        versions
    }

    /// The account after the entry that the position names; `None` when there was no such entry or account.
    fn state_at(&self, account: &str, position: Position) -> Option<Account> {
        let head8 = self.heads.get(&(position.partition, position.index))?;
        let states = self.accounts.get(account).filter(|_| *head8 == position.head8)?;
        let until = states.partition_point(|state| state.since <= position.index);
        let state = states[..until].last()?;
        (state.partition == position.partition).then_some(state.account)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TransferEvent {
    Sent,
    Answered,
}

impl Fact {
    fn of(position: Position, order: usize, decision: &Decision, changed: Vec<(String, u64)>) -> Self {
        let Decision { command, outcome, .. } = decision.clone();
        Self { position, order, command, outcome, changed }
    }

    /// The accounts that it names, except settlement accounts, of which every partition has a share.
    fn names(&self) -> impl Iterator<Item = &String> {
        named(&self.command).into_iter().filter(|name| !name.starts_with('@'))
    }
}

/// The accounts that a command names, as they are now.
fn accounts_named(wallet: &Wallet, command: &Command) -> Vec<(String, Option<Account>)> {
    named(command).into_iter().map(|name| (name.clone(), wallet.accounts().get(name).copied())).collect()
}

fn named(command: &Command) -> Vec<&String> {
    match command {
        Command::Open { account } => vec![account],
        Command::Move { from, to, .. } => vec![from, to],
        Command::Receive { to: account, .. }
        | Command::Reserve { to: account }
        | Command::Release { to: account }
        | Command::Pay { from: account, .. }
        | Command::Refund { from: account, .. } => vec![account],
    }
}

fn id_of(transfer: &Transfer) -> CommandId {
    CommandId(transfer.id.into_bytes())
}

fn command_of(transfer: &Transfer) -> Command {
    let Transfer { from, to, amount, by, .. } = transfer.clone();
    Command::Move { from, to, amount, by }
}
