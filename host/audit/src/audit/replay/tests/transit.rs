//! What is in transit between partitions: the audit's account of it in the middle of a history, with journals that lag,
//! and with a module that loses something on the way.

use std::sync::Arc;

use crate::audit::error::AuditError;
use crate::audit::replay::history::{History, PartitionJournal};
use crate::audit::replay::tests::maker::Maker;
use crate::audit::replay::tests::purse::variant;
use crate::audit::replay::tests::{PARTITIONS, busy, check_same, maker, pay, purse, put, request, unsettled};
use crate::audit::replay::{Meter, ReplayMode, run};
use crate::audit::transit::{ConsistentCut, TransitReport, Transits};
use crate::ids::{ModuleId, PartitionId};
use crate::machine::entry::Entry;
use crate::machine::journal::{Journal, Verdict};
use crate::machine::logic::Logic;
use crate::machine::replay::Replay;
use crate::machine::transit::InTransit;

/// A history in which a partition's newest entries have not arrived.
struct LaggingHistory<'m> {
    maker: &'m Maker,
    partition: PartitionId,
    missing: usize,
}

struct Entries(Journal, Vec<Entry>);

impl PartitionJournal for Entries {
    fn genesis(&self) -> Journal {
        self.0
    }

    fn byte_count(&self) -> u64 {
        0
    }

    fn entries(&self) -> Box<dyn Iterator<Item = Result<Entry, AuditError>> + '_> {
        Box::new(self.1.iter().cloned().map(Ok))
    }
}

impl History for LaggingHistory<'_> {
    fn cluster(&self) -> String {
        self.maker.cluster()
    }

    fn machine(&self) -> &str {
        self.maker.machine()
    }

    fn partition_count(&self) -> u32 {
        self.maker.partition_count()
    }

    fn open(&self, partition: PartitionId) -> Result<Box<dyn PartitionJournal>, AuditError> {
        let opened = self.maker.open(partition)?;
        let mut entries: Vec<Entry> = opened.entries().collect::<Result<_, _>>()?;
        if partition == self.partition {
            entries.truncate(entries.len().saturating_sub(self.missing));
        }
        Ok(Box::new(Entries(opened.genesis(), entries)))
    }

    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        self.maker.load(id)
    }
}

/// The report as `audit verify` makes it, and what the rows show at the end of all journals, wherever the cut is.
fn report(history: &dyn History) -> (TransitReport, InTransit) {
    let mut transits = Transits::new(ConsistentCut::find(history).expect("made in memory"));
    let mut shown = InTransit::default();
    for partition in (0..history.partition_count()).map(PartitionId) {
        let opened = history.open(partition).expect("made in memory");
        let mut replay = Replay::new(opened.genesis());
        for entry in opened.entries() {
            let entry = entry.expect("made in memory");
            let logic = replay.logic.clone();
            let moves = logic.and_then(|logic| transits.measure(logic.as_ref(), partition, &entry, &replay.rows));
            let verdict = replay.apply(&entry, &|id| history.load(id)).expect("it is as it was made");
            assert!(matches!(verdict, Verdict::Effective(_)));
            if let (Some(moves), Some(logic)) = (moves, &replay.logic) {
                let moves = moves.expect("the module renders its rows");
                transits.moved(logic.as_ref(), &entry, moves, &replay.rows).expect("the module renders its rows");
            }
            transits.note(partition, &entry);
        }
        let rows = replay.rows.iter().map(|(key, row)| (key.as_slice(), row.as_slice()));
        if let Some(logic) = &replay.logic {
            shown = shown.plus(&InTransit::of(logic.as_ref(), rows).expect("it renders")).expect("small numbers");
        }
    }
    (transits.report(history.machine()), shown)
}

#[test]
fn what_is_on_its_way_is_what_commands_in_flight_have_moved() {
    let mut in_flight = 0;
    for seed in 0..8 {
        let (report, shown) = report(&unsettled(maker(), seed, 200));
        assert_eq!(report.faults, Vec::<String>::new(), "seed {seed}");
        assert_eq!(report.cut, None, "all journals are here to their ends");
        let expected: Vec<(String, String)> =
            shown.units().map(|(unit, sum)| (unit.to_owned(), sum.to_string())).collect();
        assert_eq!(report.in_transit.into_iter().collect::<Vec<_>>(), expected, "seed {seed}");
        in_flight += report.in_flight;
    }
    assert!(0 < in_flight, "some of them end with commands under way");
}

#[test]
fn nothing_is_on_its_way_once_all_is_over() {
    let (report, shown) = report(&busy(5, 200));
    assert!(shown.is_nothing() && report.in_transit.is_empty(), "{report:?}");
    assert_eq!((report.in_flight, report.faults), (0, Vec::new()));
}

#[test]
fn a_journal_that_lags_moves_the_cut_and_is_no_fault() {
    let maker = busy(7, 200);
    let mut cuts = 0;
    for partition in (0..PARTITIONS).map(PartitionId) {
        for missing in [1, 2, 5, 30, 1_000] {
            let (report, _) = report(&LaggingHistory { maker: &maker, partition, missing });
            assert_eq!(report.faults, Vec::<String>::new(), "partition {partition} lacks {missing}");
            cuts += usize::from(report.cut.is_some());
        }
    }
    assert!(0 < cuts, "what is missing was caused, or has caused something, elsewhere");
}

/// Journals that were read one after the other while their node wrote used to be reported as "host drift": a call
/// without its command's start was taken for one that is no longer made, and a call still to come for one that the
/// record lacks.
#[test]
fn a_cumulative_replay_of_journals_that_end_at_different_moments_finds_nothing() {
    let (mut cuts, mut in_flight) = (0, 0);
    for seed in 0..6 {
        let maker = unsettled(maker(), seed, 200);
        for partition in (0..PARTITIONS).map(PartitionId) {
            for missing in [0, 1, 3, 10, 40] {
                let history = LaggingHistory { maker: &maker, partition, missing };
                let request = request(purse::<{ variant::ALIKE }>(), ReplayMode::Cumulative);
                let report = run(&history, &request, &Meter { on_begin: &|_| {}, on_done: &|_, _| {} });
                let report = report.unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
                check_same(&report);
                let rows = report.rows.as_ref().map_or(0, |rows| rows.count);
                assert_eq!(rows, 0, "seed {seed}, partition {partition} lacks {missing}: {:?}", report.rows);
                cuts += usize::from(report.notes.iter().any(|note| note.starts_with("The history ends at")));
                in_flight += report.counts.in_flight;
            }
        }
    }
    assert!(10 < cuts && 0 < in_flight, "{cuts} ends were moved, {in_flight} commands were under way");
}

#[test]
fn what_a_module_loses_on_the_way_is_found_with_its_command() {
    let mut maker = Maker::new(purse::<{ variant::LEAK }>(), PARTITIONS);
    let name = |partition| super::names(&maker, partition, 2);
    let (here, there) = (name(0), name(1));
    maker.batch(0, &[put(1, &here[0], 100)]);
    maker.batch(0, &[pay(2, &here[0], &there[0], 12, None), pay(3, &here[0], &there[1], 11, Some("tcc"))]);
    maker.batch(0, &[pay(4, &here[0], &there[0], 13, None)]);
    maker.settle();
    let (report, _) = report(&maker);
    assert_eq!(report.in_transit.get("coins").map(String::as_str), Some("1"));
    let faults = report.faults.join("; ");
    let expected = "command 00000000-0000-0000-0000-000000000003 is over, and 1 coins of it is still in transit; \
                    the rows show 1 coins in transit, the commands in flight have moved nothing";
    assert_eq!(faults, expected);
}

#[test]
fn what_a_module_loses_inside_a_partition_is_found_too() {
    let mut maker = Maker::new(purse::<{ variant::LEAK }>(), PARTITIONS);
    let here = super::names(&maker, 0, 2);
    maker.batch(0, &[put(1, &here[0], 100), pay(2, &here[0], &here[1], 11, None)]);
    let (report, _) = report(&maker);
    assert_eq!(
        report.faults.first().map(String::as_str),
        Some("entry 2: its rows show 1 coins more in transit, its commands moved nothing")
    );
}
