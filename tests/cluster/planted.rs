//! The oracle itself: a true history passes, and each lie told about it is caught by the check that is there for it.
//!
//! The history is that of a real host under load, taken as three replicas. A bug is planted into what was read or
//! recorded, so that nothing else is wrong. If this file passes with a check removed, the other tests prove nothing.

use statehouse_kernel::ids::{CommandId, Digest, JournalIndex, NodeId, PartitionId};
use statehouse_tests::host::{Host, Start};
use statehouse_tests::load::{Accounts, Load, Setup};
use statehouse_tests::oracle::check_audit;
use statehouse_tests::oracle::history::{Chain, Decision, History, Part};
use statehouse_tests::oracle::judge::{Breach, judge};
use statehouse_tests::oracle::model::{Command, Outcome};
use statehouse_tests::ports::free_address;
use statehouse_tests::recording::{Attempt, Consistency, Moment, Recording, TransferAnswer};
use tempfile::tempdir;

use crate::alone;

const CLIENTS: usize = 4;
const ACCOUNTS: usize = 12;
const OPENING: i128 = 10_000;
const TRANSFERS: usize = 1_000;
const KILLS: usize = 2;

/// A run that kept every promise.
#[derive(Clone)]
struct Run {
    histories: Vec<History>,
    recording: Recording,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_true_history_passes_and_every_planted_bug_is_caught() {
    let _alone = alone().await;
    let truth = Run::of_a_real_host().await;
    assert_eq!(truth.judge(), []);
    assert!(
        truth.recording.attempts.iter().any(|attempt| attempt.told == TransferAnswer::Unknown),
        "kills leave outcomes unknown"
    );

    truth.check("an acknowledged command is dropped", Run::drop_command);
    truth.check("a command is applied twice", Run::apply_twice);
    truth.check("a read is stale", Run::read_stale);
    truth.check("a read shows the future", Run::read_future);
    truth.check("a read shows what never was", Run::read_unreal);
    truth.check("a replica has another digest", Run::change_digest);
    truth.check("a replica skips an entry", Run::skip_entry);
    truth.check("a replica ends early", Run::end_early);
    truth.check("an acknowledged outcome is flipped", Run::flip_told);
    truth.check("a recorded outcome is flipped", Run::flip_recorded);
    truth.check("a refused command is recorded", Run::smuggle);
    truth.check("a command's content is changed", Run::replace);
    truth.check("two commands change places", Run::reorder);
    truth.check("a command on two partitions ends otherwise than it went", Run::end_otherwise);
    truth.check("a command on two partitions does not end", Run::end_never);
    truth.check("the payee receives twice", Run::receive_twice);
    truth.check("the payee does not receive", Run::receive_never);
    truth.check("a command whose id is another's does not end", Run::strand);
    truth.check("two commands under one id take from and give to one account", Run::share);
    truth.check("a payer whose id was another's is not given back", Run::keep);
}

impl Run {
    /// A real host is killed a few times during the run, so that some outcomes are unknown for a while.
    async fn of_a_real_host() -> Self {
        let data = tempdir().expect("a temporary folder");
        let arguments = ["--partitions", "3"].map(str::to_owned).to_vec();
        let start = Start { http: free_address(), arguments, ..Start::on(data.path()) };
        let mut host = Host::start_with(&start).await.expect("the host starts");
        let setup = Setup::of(vec![(NodeId(1), host.address())]);
        let accounts = Accounts::open(&setup, ACCOUNTS, OPENING).await;
        let load = Load::start(&setup, &accounts, CLIENTS, 1);
        for _ in 0..KILLS {
            load.progress(TRANSFERS / KILLS).await;
            host.kill();
            host = Host::start_with(&start).await.expect("the host starts");
        }
        load.progress(TRANSFERS / KILLS).await;
        let recording = load.stop().await;
        println!("{}", recording.summary());
        host.kill();
        check_audit(data.path());
        let histories = ["first", "second", "third"].map(|name| History::read(name, data.path())).to_vec();
        Self { histories, recording }
    }

    fn judge(&self) -> Vec<Breach> {
        judge(&self.histories, &self.recording)
    }

    /// Plants a bug. The bug says which breach must be found.
    fn check(&self, what: &str, plant: impl FnOnce(&mut Run) -> Box<dyn Fn(&Breach) -> bool>) {
        let mut run = self.clone();
        let is_it = plant(&mut run);
        let breaches = run.judge();
        let shown: Vec<&Breach> = breaches.iter().take(5).collect();
        assert!(breaches.iter().any(is_it), "{what}: the oracle found {} other breaches: {shown:#?}", breaches.len());
    }

    /// Changes a partition's journal in the same way on all replicas.
    fn everywhere(&mut self, partition: PartitionId, change: impl Fn(&mut Chain)) {
        for history in &mut self.histories {
            change(history.chains.get_mut(&partition).expect("every replica has it"));
        }
    }

    fn on_second(&mut self, partition: PartitionId, change: impl Fn(&mut Chain)) {
        change(self.histories[1].chains.get_mut(&partition).expect("every replica has it"));
    }

    /// A successful transfer within one partition, half way through the run, and where it is recorded.
    fn victim(&self) -> (CommandId, PartitionId, JournalIndex) {
        self.victim_recorded_as(&Part::Whole)
    }

    /// A transfer between two partitions, and where its end is recorded.
    fn crossing(&self) -> (CommandId, PartitionId, JournalIndex) {
        self.victim_recorded_as(&Part::End)
    }

    fn victim_recorded_as(&self, part: &Part) -> (CommandId, PartitionId, JournalIndex) {
        let place = |attempt: &Attempt| {
            let TransferAnswer::Done { position } = attempt.told else { return None };
            Some((CommandId(attempt.transfer.id.into_bytes()), position.partition, position.index))
        };
        let is_so = |(id, partition, index): &(CommandId, PartitionId, JournalIndex)| {
            let entry = self.histories[0].chains[partition].find(*index).expect("it was done there");
            entry.decisions.iter().any(|decision| decision.id == *id && decision.part == *part)
        };
        let done: Vec<_> = self.recording.attempts.iter().filter_map(place).filter(is_so).collect();
        done[done.len() / 2]
    }

    /// The partition in which the payee of a transfer received.
    fn place_received(&self, id: CommandId) -> PartitionId {
        let received = |chain: &Chain| {
            let mut decisions = chain.entries.iter().flat_map(|entry| &entry.decisions);
            decisions.any(|decision| is_receipt(decision, id))
        };
        let found = self.histories[0].chains.iter().find(|(_, chain)| received(chain));
        *found.expect("a finished transfer was received").0
    }

    fn drop_command(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, partition, _) = self.victim();
        self.everywhere(partition, |chain| {
            chain.entries.iter_mut().for_each(|entry| entry.decisions.retain(|decision| decision.id != victim));
        });
        Box::new(move |breach| matches!(breach, Breach::Lost { id, .. } if *id == victim))
    }

    fn apply_twice(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, partition, index) = self.victim();
        self.everywhere(partition, |chain| {
            let decision = decision_mut(chain, index, victim).clone();
            chain.entries.last_mut().expect("there are entries").decisions.push(decision);
        });
        Box::new(move |breach| matches!(breach, Breach::Doubled { id, .. } if *id == victim))
    }

    /// A linearizable read repeats what an earlier one of the same account showed.
    fn read_stale(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let reads = &mut self.recording.reads;
        let is_later = |a: &usize, b: &usize| {
            let (a, b) = (&reads[*a], &reads[*b]);
            a.account == b.account
                && a.span.returned < b.span.invoked
                && a.version < b.version
                && b.consistency == Consistency::Linearizable
        };
        let pairs = (0..reads.len()).flat_map(|a| (a + 1..reads.len()).map(move |b| (a, b)));
        let (old, new) = pairs.into_iter().find(|(a, b)| is_later(a, b)).expect("some account was read twice");
        let (position, version, balance) = (reads[old].position, reads[old].version, reads[old].balance);
        // Somebody must have known better: another client read the newer state in between.
        let mut known = reads[new].clone();
        known.span.returned = Moment(reads[new].span.invoked.0 - 1);
        let newer = &mut reads[new];
        (newer.position, newer.version, newer.balance) = (position, version, balance);
        let seen = newer.clone();
        reads.push(known);
        Box::new(move |breach| matches!(breach, Breach::Stale { seen: found, .. } if **found == seen))
    }

    /// The last read of an account is answered before anything of the run was asked for.
    fn read_future(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let seen = self.recording.reads.iter_mut().max_by_key(|seen| seen.version).expect("accounts were read");
        (seen.span.invoked, seen.span.returned) = (Moment(0), Moment(0));
        let seen = seen.clone();
        Box::new(move |breach| matches!(breach, Breach::Premature { seen: found } if **found == seen))
    }

    fn read_unreal(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let seen = self.recording.reads.last_mut().expect("accounts were read");
        seen.balance += 1;
        let seen = seen.clone();
        Box::new(move |breach| matches!(breach, Breach::Unreal { seen: found, .. } if **found == seen))
    }

    fn change_digest(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (_, partition, index) = self.victim();
        self.on_second(partition, |chain| entry_mut(chain, index).digest = Digest::ZERO);
        diverged(partition, index)
    }

    fn skip_entry(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (_, partition, index) = self.victim();
        self.on_second(partition, |chain| drop(chain.entries.remove(index.0 as usize - 1)));
        diverged(partition, index)
    }

    fn end_early(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (_, partition, _) = self.victim();
        let last = JournalIndex(self.histories[1].chains[&partition].entries.len() as u64);
        self.on_second(partition, |chain| drop(chain.entries.pop()));
        diverged(partition, last)
    }

    fn flip_told(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, partition, index) = self.victim();
        self.everywhere(partition, |chain| {
            decision_mut(chain, index, victim).outcome = Outcome::Rejected("insufficient_funds".to_owned());
        });
        Box::new(move |breach| matches!(breach, Breach::Contradicted { id, .. } if *id == victim))
    }

    /// No client was told, so only the rules can tell.
    fn flip_recorded(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, partition, index) = self.victim();
        self.forget(victim);
        self.everywhere(partition, |chain| {
            decision_mut(chain, index, victim).outcome = Outcome::Rejected("insufficient_funds".to_owned());
        });
        Box::new(move |breach| matches!(breach, Breach::Misjudged { id, .. } if *id == victim))
    }

    fn smuggle(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, ..) = self.victim();
        for attempt in &mut self.recording.attempts {
            if attempt.transfer.id.into_bytes() == victim.0 {
                attempt.told = TransferAnswer::NotAccepted;
            }
        }
        Box::new(move |breach| *breach == Breach::Smuggled { id: victim })
    }

    fn replace(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, ..) = self.victim();
        for attempt in &mut self.recording.attempts {
            if attempt.transfer.id.into_bytes() == victim.0 {
                attempt.transfer.amount += 1;
            }
        }
        Box::new(move |breach| matches!(breach, Breach::Replaced { id, .. } if *id == victim))
    }

    /// The victim was answered before everything, so all that is before it in the journal is out of order.
    fn reorder(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, ..) = self.victim();
        for attempt in &mut self.recording.attempts {
            if attempt.transfer.id.into_bytes() == victim.0 {
                (attempt.span.invoked, attempt.span.returned) = (Moment(0), Moment(0));
            }
        }
        Box::new(move |breach| matches!(breach, Breach::Reordered { earlier, .. } if *earlier == victim))
    }

    /// No client was told, so only the outcomes of its parts can tell.
    fn end_otherwise(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, partition, index) = self.crossing();
        self.forget(victim);
        self.everywhere(partition, |chain| {
            decision_mut(chain, index, victim).outcome = Outcome::Rejected("account_not_found".to_owned());
        });
        Box::new(move |breach| matches!(breach, Breach::HalfDone { id, .. } if *id == victim))
    }

    fn end_never(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, partition, _) = self.crossing();
        self.forget(victim);
        self.everywhere(partition, |chain| {
            let is_end = |decision: &Decision| decision.id == victim && decision.part == Part::End;
            chain.entries.iter_mut().for_each(|entry| entry.decisions.retain(|decision| !is_end(decision)));
        });
        Box::new(move |breach| *breach == Breach::Unfinished { id: victim })
    }

    fn receive_twice(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, ..) = self.crossing();
        self.everywhere(self.place_received(victim), |chain| {
            let mut decisions = chain.entries.iter().flat_map(|entry| &entry.decisions);
            let received = decisions.find(|decision| is_receipt(decision, victim)).expect("it is here").clone();
            chain.entries.last_mut().expect("there are entries").decisions.push(received);
        });
        Box::new(move |breach| matches!(breach, Breach::Doubled { id, .. } if *id == victim))
    }

    fn receive_never(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, ..) = self.crossing();
        self.everywhere(self.place_received(victim), |chain| {
            let keep = |decision: &Decision| !is_receipt(decision, victim);
            chain.entries.iter_mut().for_each(|entry| entry.decisions.retain(keep));
        });
        Box::new(move |breach| matches!(breach, Breach::Adrift { .. }))
    }

    /// A transfer that began and was given back because another command has its id; and the home of the transfer.
    fn reused(&self) -> (CommandId, PartitionId) {
        let aborted = |attempt: &Attempt| match attempt.told {
            TransferAnswer::Rejected { position, .. } => {
                Some((CommandId(attempt.transfer.id.into_bytes()), position.partition))
            }
            _ => None,
        };
        let mut aborted: Vec<_> = self.recording.reused().filter_map(aborted).collect();
        aborted.sort_unstable();
        aborted.dedup();
        // Both of a pair may have been given back; a pair of which one has paid shows more.
        let is_paid = |(id, _): &&(CommandId, PartitionId)| {
            self.recording.attempts.iter().any(|attempt| {
                attempt.transfer.id.into_bytes() == id.0 && matches!(attempt.told, TransferAnswer::Done { .. })
            })
        };
        *aborted.iter().find(is_paid).expect("clients use one id twice, and one of them pays")
    }

    fn strand(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, home) = self.reused();
        self.forget(victim);
        self.everywhere(home, |chain| {
            let is_end = |decision: &Decision| decision.id == victim && decision.part == Part::End;
            chain.entries.iter_mut().for_each(|entry| entry.decisions.retain(|decision| !is_end(decision)));
        });
        Box::new(move |breach| *breach == Breach::Unfinished { id: victim })
    }

    fn share(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, home) = self.reused();
        self.everywhere(home, |chain| {
            let decisions = chain.entries.iter_mut().flat_map(|entry| &mut entry.decisions);
            let mut ends = decisions.filter(|decision| decision.id == victim && decision.part == Part::End);
            ends.next().expect("it was given back").outcome = Outcome::Success;
        });
        Box::new(move |breach| matches!(breach, Breach::Shared { id, .. } if *id == victim))
    }

    fn keep(&mut self) -> Box<dyn Fn(&Breach) -> bool> {
        let (victim, home) = self.reused();
        self.everywhere(home, |chain| {
            let is_refund = |decision: &Decision| {
                decision.id == victim && decision.home == home && matches!(decision.command, Command::Refund { .. })
            };
            chain.entries.iter_mut().for_each(|entry| entry.decisions.retain(|decision| !is_refund(decision)));
        });
        Box::new(move |breach| matches!(breach, Breach::HalfDone { id, .. } if *id == victim))
    }

    fn forget(&mut self, victim: CommandId) {
        self.recording.attempts.retain(|attempt| attempt.transfer.id.into_bytes() != victim.0);
    }
}

fn diverged(partition: PartitionId, index: JournalIndex) -> Box<dyn Fn(&Breach) -> bool> {
    let nodes = ["first", "second"].map(str::to_owned);
    Box::new(move |breach| *breach == Breach::Diverged { partition, index, nodes: nodes.clone() })
}

fn is_receipt(decision: &Decision, id: CommandId) -> bool {
    decision.id == id && matches!(decision.command, Command::Receive { .. })
}

fn entry_mut(chain: &mut Chain, index: JournalIndex) -> &mut statehouse_tests::oracle::history::EffectiveEntry {
    &mut chain.entries[index.0 as usize - 1]
}

fn decision_mut(chain: &mut Chain, index: JournalIndex, id: CommandId) -> &mut Decision {
    let mut decisions = entry_mut(chain, index).decisions.iter_mut();
    decisions.find(|decision| decision.id == id).expect("the answer's position is the record's")
}
