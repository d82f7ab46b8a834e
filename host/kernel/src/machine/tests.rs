//! The entry's bytes, the rule of the parent, and what a replica refuses to apply.

mod fuzz;
mod records;

use bytes::Bytes;
use expect_test::expect_file;
use statehouse_abi::block::{AbiError, kind};
use statehouse_abi::cold::Rejection;
use statehouse_abi::key::key;
use statehouse_abi::ops::{OpRole, OpsWriter};
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock, OutcomeWriter};
use statehouse_abi::plan::{Coordination, PlanOut, PlanOutWriter, TccRole};

use crate::ids::{CommandId, Digest, Fingerprint, Head, JournalIndex, Micros, ModuleId, NodeId, PartitionId, Position};
use crate::machine::beginning::{beginning, groups_until, is_whole, may_change};
use crate::machine::changed::ChangedLogic;
use crate::machine::entry::{Activation, BatchWriter, Entry, EntryCommand, EntryError, EntryKind, FORMAT, Header};
use crate::machine::journal::{Journal, JournalError, Verdict};
use crate::machine::logic::{Fault, Logic};
use crate::machine::replica::{AppliedEntry, ApplyError, digest_of};
use crate::machine::table::EmptyTable;
use crate::saga::{
    Call, CallKey, CallProgress, Derivation, Identity, Order, OrderKind, Origin, Outcome, PhaseMoment, Records,
    SagaPlan, Start,
};

const MODULE: ModuleId = ModuleId([9; 32]);

fn genesis() -> Journal {
    Journal::genesis(&[1; 16], "wallet", PartitionId(0))
}

fn header(journal: &Journal, kind: EntryKind) -> Header {
    Header {
        kind,
        index: journal.index.next(),
        time: Micros(journal.time.0 + 10),
        parent: journal.head,
        seed: [3; 32],
        planner: journal.module,
        decider: journal.module,
        digest: Digest([5; 32]),
    }
}

fn activation(journal: &Journal) -> Entry {
    let activation = Activation { module: MODULE, schema: 1, number: 1 };
    Entry::activate(header(journal, EntryKind::Activate), activation)
}

/// One accepted and one rejected transfer.
fn batch(header: Header) -> Entry {
    batch_with(header, Records::default())
}

fn batch_with(header: Header, records: Records) -> Entry {
    batch_vouched(header, records, None)
}

fn batch_vouched(header: Header, records: Records, vouched: Option<NodeId>) -> Entry {
    let mut commands = BatchWriter::default();
    let mut ops = OpsWriter::default();
    let mut outcome = OutcomeWriter::default();
    for number in 0..2u8 {
        let command = commands.command(&EntryCommand {
            id: CommandId([number; 16]),
            name: "balance_transfer",
            caller: "anonymous",
            roles: 63,
            vouched,
            request_id: "request-1",
            body: &[0xa0],
            expires: Micros(1_000_000),
        });
        ops.group(command);
        let keys = [ops.key(&key(b"alice", b"a")), ops.key(&key(b"@local", &[number]))];
        ops.op(b"alice", b"debit", keys, OpRole::Step);
        let first = outcome.event_count();
        if number == 0 {
            outcome.event(0, b"debited");
            outcome.accept(first);
        } else {
            let rejection = Rejection { code: "insufficient_funds".to_owned(), detail: "too little".to_owned() };
            outcome.reject(first, &minicbor::to_vec(&rejection).expect("writing to memory cannot fail"));
        }
    }
    commands.finish(header, &ops.finish(Vec::new()), &outcome.finish(Vec::new()), records)
}

fn after(journal: &Journal, entry: &Entry) -> Journal {
    match journal.judge(entry) {
        Ok(Verdict::Effective(after)) => after,
        other => panic!("expected an effective entry, found {other:?}"),
    }
}

fn active() -> Journal {
    let genesis = genesis();
    after(&genesis, &activation(&genesis))
}

#[test]
fn an_entry_reads_back_as_it_was_written() {
    let journal = active();
    let written = batch(header(&journal, EntryKind::Batch));
    let read = Entry::parse(written.payload().clone()).expect("what was written is well-formed");
    assert_eq!(read.header(), written.header());
    let batch = read.batch().expect("it is a batch");
    let commands: Vec<_> = batch.commands().map(|command| (command.id, command.name, command.caller)).collect();
    let expected = [0, 1].map(|number| (CommandId([number; 16]), "balance_transfer", "anonymous"));
    assert_eq!(commands, expected);
    assert_eq!((batch.ops.op_count(), batch.outcome.event_count()), (2, 1));
}

/// The bytes of format 1 never change; a later format gets a file of its own.
#[test]
fn the_formats_released_so_far_are_read_and_written() {
    let genesis = genesis();
    let activation = activation(&genesis);
    let journal = after(&genesis, &activation);
    let tick = Entry::tick(header(&journal, EntryKind::Tick));
    for (name, entry) in
        [("batch", batch(header(&journal, EntryKind::Batch))), ("activate", activation), ("tick", tick)]
    {
        check_golden(&entry, 1, name);
    }
    for (derivation, format) in [(Derivation::ById, 1), (Derivation::ByContent, 2)] {
        check_golden(&starting(&journal, derivation), format, "start");
        check_golden(&called(&journal, derivation), format, "call");
        check_golden(&ended(&journal, derivation), format, "end");
    }
}

/// Since feature level 6: the start of a command that claims its id where a partition is needed for the confirm only,
/// and such a claim.
#[test]
fn a_claim_before_the_confirm_is_recorded_as_such() {
    let journal = active();
    let start = starting_by(&journal, Derivation::ByContent, Coordination::TryConfirmCancel);
    assert!(start.records().starts[0].plan.claims_first());
    check_golden(&start, 2, "start-claiming");
    let key = CallKey { branch: 1, call: Call::Claim, attempt: 0 };
    check_golden(&called_by(&journal, Derivation::ByContent, key), 2, "claim");
}

/// Since feature level 6 an order says which node vouched for the operator. Before, its bytes are those of level 4.
#[test]
fn an_order_says_which_node_vouched_for_who_gave_it() {
    let journal = active();
    let order = || Order::new(CommandId([0; 16]), OrderKind::Settle, "operator", "the account is sealed");
    for (order, name) in [(order(), "order"), (order().vouched_by(Some(NodeId(7))), "order-vouched")] {
        let records = Records { ordered: Some(vec![order.clone()]), marks: vec![Vec::new(); 2], ..Records::default() };
        let entry = batch_with(header(&journal, EntryKind::Saga), records);
        check_golden(&entry, 2, name);
        assert_eq!(entry.records().orders(), [order]);
    }
}

fn check_golden(entry: &Entry, format: u16, name: &str) {
    let hex: Vec<String> =
        entry.payload().chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    expect_file![format!("./golden/entry-{format}-{name}.hex")].assert_eq(&(hex.join("\n") + "\n"));
    let read = Entry::parse(entry.payload().clone()).expect("what was written is well-formed");
    assert_eq!((read.header(), read.records()), (entry.header(), entry.records()));
}

/// The first command continues in another partition.
fn starting(journal: &Journal, derivation: Derivation) -> Entry {
    starting_by(journal, derivation, Coordination::Saga)
}

fn starting_by(journal: &Journal, derivation: Derivation, coordination: Coordination) -> Entry {
    let last = if coordination == Coordination::Saga { TccRole::Try } else { TccRole::Confirm };
    let mut plans = PlanOutWriter::default();
    plans.step(b"debit", b"0", Some(b"credit"), TccRole::Try);
    plans.step(b"credit", b"1", None, last);
    plans.plan(coordination, b"0", &[0xa0]);
    let block = plans.finish(Vec::new());
    let block = PlanOut::parse(&block).expect("the host wrote this block");
    let partition_of = |entity: &[u8]| PartitionId(u32::from(entity[0] - b'0'));
    let steps = (0..2).map(|at| (block.step(at), None));
    let plan = SagaPlan::divide(&block, coordination, PartitionId(0), steps, partition_of);
    let plan = plan.expect("it can be coordinated").expect("it has two partitions");
    let records = Records { starts: vec![Start::new(0, plan, derivation)], ..Records::default() };
    let entry = batch_with(header(journal, EntryKind::Batch), records);
    let identity = entry.identity(0, PartitionId(0)).expect("it goes on");
    assert_eq!(
        (identity.command, identity.home, identity.derivation),
        (CommandId([0; 16]), PartitionId(0), derivation)
    );
    assert_eq!(entry.identity(1, PartitionId(0)), None, "the other one is over");
    entry
}

/// Both commands are calls of other partitions. The first one claims its command's id if there are claims.
fn called(journal: &Journal, derivation: Derivation) -> Entry {
    called_by(journal, derivation, CallKey { branch: 1, call: Call::Do, attempt: 0 })
}

fn called_by(journal: &Journal, derivation: Derivation, key: CallKey) -> Entry {
    let fingerprint = Fingerprint::of_command("balance_transfer", &[0xa0]);
    let identity = |home| Identity { command: CommandId([7; 16]), home: PartitionId(home), fingerprint, derivation };
    let first = Origin::new(0, &identity(2), key);
    let first = if derivation == Derivation::ById { first } else { first.claiming() };
    let origins = vec![first, Origin::new(1, &identity(3), key)];
    let entry = batch_with(header(journal, EntryKind::Batch), Records { origins, ..Records::default() });
    assert_eq!([0, 1].map(|at| entry.identity(at, PartitionId(0))), [Some(identity(2)), Some(identity(3))]);
    entry
}

/// Both commands end.
fn ended(journal: &Journal, derivation: Derivation) -> Entry {
    let ended = (derivation != Derivation::ById).then(|| vec![derivation, Derivation::ById]);
    let at = PhaseMoment::at_home(journal.time, 2);
    let key = CallKey { branch: 1, call: Call::Do, attempt: 0 };
    let progress = vec![CallProgress::new(CommandId([0; 16]), key, Outcome::Done { events: Vec::new() }, at)];
    let records = Records { progress, marks: vec![Vec::new(); 2], ended, ..Records::default() };
    let entry = batch_with(header(journal, EntryKind::Saga), records);
    let identity = entry.identity(0, PartitionId(4)).expect("it ends");
    assert_eq!((identity.home, identity.derivation), (PartitionId(4), derivation));
    entry
}

/// Since feature level 3 an entry says which node has vouched for each caller. A reader that does not know the section
/// skips it.
#[test]
fn an_entry_says_which_node_vouched_for_a_caller() {
    let journal = active();
    let entry = batch_vouched(header(&journal, EntryKind::Batch), Records::default(), Some(NodeId(7)));
    let hex: Vec<String> =
        entry.payload().chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    expect_file!["./golden/entry-1-batch-vouched.hex"].assert_eq(&(hex.join("\n") + "\n"));
    let read = Entry::parse(entry.payload().clone()).expect("what was written is well-formed");
    let vouched: Vec<_> = read.batch().expect("it is a batch").commands().map(|command| command.vouched).collect();
    assert_eq!(vouched, [Some(NodeId(7)); 2]);
    let before = batch(header(&journal, EntryKind::Batch));
    assert!(before.batch().expect("it is a batch").commands().all(|command| command.vouched.is_none()));
}

#[test]
fn a_damaged_entry_is_refused_and_never_panics() {
    for vouched in [None, Some(NodeId(7))] {
        check_damaged(vouched);
    }
}

fn check_damaged(vouched: Option<NodeId>) {
    let journal = active();
    let payload = batch_vouched(header(&journal, EntryKind::Batch), Records::default(), vouched).payload().to_vec();
    for length in 0..payload.len() {
        assert!(Entry::parse(Bytes::copy_from_slice(&payload[..length])).is_err(), "cut at {length}");
    }
    for at in 0..payload.len() {
        for bit in 0..8 {
            let mut flipped = payload.clone();
            flipped[at] ^= 1 << bit;
            // Whether it still parses depends on the byte. What parses must be safe to read.
            if let Ok(entry) = Entry::parse(flipped.into()) {
                let Some(batch) = entry.batch() else { continue };
                assert!(batch.commands().count() == batch.command_count());
                assert!(batch.outcome.events().count() == batch.outcome.event_count());
                assert!(
                    (0..batch.ops.op_count()).all(|at| batch.ops.op(at).keyrefs().len() <= batch.ops.key_count() * 2)
                );
            }
        }
    }
}

/// Readers take the number of a command for that of its group, and no entry records that keys are needed. Entries that
/// say otherwise were accepted, and reading on panicked.
#[test]
fn an_entry_whose_groups_are_not_its_commands_is_refused() {
    let journal = active();
    let command = |number: u8| EntryCommand {
        id: CommandId([number; 16]),
        name: "pay",
        caller: "anonymous",
        roles: 63,
        vouched: None,
        request_id: "r",
        body: &[0xa0],
        expires: Micros(1_000_000),
    };
    let parsed = |groups: &[u32], needs_keys: bool| {
        let (mut commands, mut ops, mut outcome) =
            (BatchWriter::default(), OpsWriter::default(), OutcomeWriter::default());
        (0..2).for_each(|number| _ = commands.command(&command(number)));
        for group in groups {
            ops.group(*group);
            ops.op(b"alice", b"op", [], OpRole::Step);
            if needs_keys { outcome.needs_keys(0) } else { outcome.reject(0, b"no") }
        }
        let (ops, outcome) = (ops.finish(Vec::new()), outcome.finish(Vec::new()));
        let entry = commands.finish(header(&journal, EntryKind::Batch), &ops, &outcome, Records::default());
        Entry::parse(entry.payload().clone()).map(drop)
    };
    assert_eq!(parsed(&[0, 1], false), Ok(()));
    for groups in [&[][..], &[0], &[1], &[1, 0], &[0, 0], &[0, 1, 1]] {
        let expected = AbiError::Range { kind: kind::ENTRY, what: "command of a group" };
        assert_eq!(parsed(groups, false), Err(EntryError::Block(expected)), "{groups:?}");
    }
    let expected = AbiError::Range { kind: kind::ENTRY, what: "outcome of a group" };
    assert_eq!(parsed(&[0, 1], true), Err(EntryError::Block(expected)));
}

#[test]
fn a_later_format_is_refused_with_words() {
    let journal = active();
    let mut payload = Entry::tick(header(&journal, EntryKind::Tick)).payload().to_vec();
    let at = payload.len() - 256;
    payload[at..at + 2].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    assert_eq!(Entry::parse(payload.into()).map(|_| ()), Err(EntryError::Format { found: FORMAT + 1 }));
}

#[test]
fn the_journal_of_each_partition_begins_elsewhere() {
    let heads = [
        genesis().head,
        Journal::genesis(&[2; 16], "wallet", PartitionId(0)).head,
        Journal::genesis(&[1; 16], "wallets", PartitionId(0)).head,
        Journal::genesis(&[1; 16], "wallet", PartitionId(1)).head,
    ];
    for (at, head) in heads.iter().enumerate() {
        assert!(!heads[..at].contains(head));
    }
}

#[test]
fn an_entry_computed_on_another_head_is_void() {
    let journal = active();
    let first = batch(header(&journal, EntryKind::Batch));
    let second = Entry::tick(header(&journal, EntryKind::Tick));
    let moved = after(&journal, &first);
    assert_eq!(moved.judge(&second), Ok(Verdict::Void));
    // It stays void for ever, whatever came before it.
    assert_eq!(moved.judge(&first), Ok(Verdict::Void));
    assert_eq!(moved.index, JournalIndex(2));
    assert_eq!(moved.head, first.head_after());
}

#[test]
fn an_entry_that_contradicts_the_journal_halts_it() {
    let journal = active();
    let good = header(&journal, EntryKind::Batch);
    let index = journal.index.next();
    let wrong_index = batch(Header { index: index.next(), ..good });
    assert_eq!(journal.judge(&wrong_index), Err(JournalError::Index { expected: index, found: index.next() }));
    let wrong_time = batch(Header { time: journal.time, ..good });
    assert_eq!(
        journal.judge(&wrong_time),
        Err(JournalError::Time { index, before: journal.time, found: journal.time })
    );
    let found = ModuleId([8; 32]);
    let wrong_module = batch(Header { decider: found, ..good });
    assert_eq!(journal.judge(&wrong_module), Err(JournalError::Decider { index, expected: MODULE, found }));
}

#[test]
fn time_passes_even_when_the_clock_does_not() {
    let journal = Journal { time: Micros(100), ..genesis() };
    assert_eq!(journal.next_time(Micros(50)), Micros(101));
    assert_eq!(journal.next_time(Micros(100)), Micros(101));
    assert_eq!(journal.next_time(Micros(500)), Micros(500));
}

#[test]
fn a_position_reads_back() {
    let journal = Journal { head: Head([0x1a; 32]), index: JournalIndex(42), ..genesis() };
    let position = journal.position(PartitionId(3), 7);
    assert_eq!(position.to_string(), "3.42.7~1a1a1a1a");
    assert_eq!(position.to_string().parse(), Ok(position));
    for wrong in ["", "1.2.3", "1.2~00000000", "1.2.3~0000", "1.2.3.4~00000000", "a.2.3~00000000"] {
        assert!(wrong.parse::<crate::ids::Position>().is_err(), "{wrong}");
    }
}

/// A batch of one rejected command, with the given digest or else with that of no writes.
fn rejected(journal: &Journal, module: ModuleId, digest: Option<Digest>) -> Entry {
    let mut commands = BatchWriter::default();
    let (mut ops, mut outcome) = (OpsWriter::default(), OutcomeWriter::default());
    let command = EntryCommand {
        id: CommandId([1; 16]),
        name: "act",
        caller: "anonymous",
        roles: 63,
        vouched: None,
        request_id: "request-1",
        body: &[0xa0],
        expires: Micros(1_000_000),
    };
    ops.group(commands.command(&command));
    ops.op(b"alice", b"act", [], OpRole::Step);
    let rejection = Rejection { code: "module_trap".to_owned(), detail: "it trapped".to_owned() };
    outcome.reject(0, &minicbor::to_vec(&rejection).expect("writing to memory cannot fail"));
    let header = Header { decider: module, planner: module, ..header(journal, EntryKind::Batch) };
    let header = Header { digest: digest.unwrap_or(digest_of(std::iter::empty())), ..header };
    commands.finish(header, &ops.finish(Vec::new()), &outcome.finish(Vec::new()), Records::default())
}

/// A module whose `apply` fails on everything would halt each replica at the entry that says so. A leader called it
/// again and again.
#[test]
fn where_nothing_was_accepted_and_nothing_written_the_module_is_not_asked() {
    let trap = Fault::Trap { text: "apply is another export".to_owned(), backtrace: Vec::new() };
    let logic = ChangedLogic::of(Some(trap), None);
    let entry = rejected(&active(), logic.id(), None);
    let applied = AppliedEntry::compute(&logic, entry.clone(), &[], &EmptyTable).expect("there is nothing to apply");
    assert_eq!((applied.rows().count(), applied.digest(), logic.applied()), (0, entry.header().digest, 0));

    // If an older leader has recorded writes, the module is called as before.
    let entry = rejected(&active(), logic.id(), Some(Digest([5; 32])));
    let asked = AppliedEntry::compute(&logic, entry, &[], &EmptyTable);
    assert!(matches!(asked, Err(ApplyError::Fault { .. })) && logic.applied() == 1, "{asked:?}");
}

/// Two events of alice, a rejection of bob, one event of carol and of `@local`, one event of alice.
fn batch_of_four(header: Header) -> Entry {
    let (mut commands, mut ops, mut outcome) = (BatchWriter::default(), OpsWriter::default(), OutcomeWriter::default());
    let local = ops.key(&key(b"@local", b"bank"));
    for (number, (entity, events)) in (0u8..).zip([("alice", 2), ("bob", 0), ("carol", 1), ("alice", 1)]) {
        let command = commands.command(&EntryCommand {
            id: CommandId([number; 16]),
            name: "pay",
            caller: "anonymous",
            roles: 63,
            vouched: None,
            request_id: "r",
            body: &[0xa0],
            expires: Micros(1_000_000),
        });
        ops.group(command);
        let own = ops.key(&key(entity.as_bytes(), &[number]));
        let keys = [Some(own), (entity == "carol").then_some(local)];
        ops.op(entity.as_bytes(), b"op", keys.into_iter().flatten(), OpRole::Step);
        let first = outcome.event_count();
        (0..events).for_each(|_| outcome.event(number.into(), &[number]));
        if events == 0 { outcome.reject(first, b"no") } else { outcome.accept(first) }
    }
    commands.finish(header, &ops.finish(Vec::new()), &outcome.finish(Vec::new()), Records::default())
}

#[test]
fn at_a_position_within_an_entry_whole_groups_have_happened() {
    let entry = batch_of_four(header(&genesis(), EntryKind::Batch));
    let batch = entry.batch().expect("its kind says so");
    for (n, groups) in [(0, 1), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (Position::WHOLE, 4)] {
        assert_eq!((groups_until(&batch.outcome, n), is_whole(&entry, n)), (groups, groups == 4), "{n}");
    }
    assert!(is_whole(&Entry::tick(header(&genesis(), EntryKind::Tick)), 0));
    for count in 0..=4 {
        let raw = beginning(&batch.outcome, count);
        let cut = OutcomeBlock::parse(&raw, &batch.ops).expect("it is a block of the same ops");
        let payloads: Vec<u8> = cut.events().map(|event| event.payload[0]).collect();
        assert_eq!(payloads, [0, 0, 2, 3][..[0, 2, 2, 3, 4][count]], "{count} groups");
        assert!(matches!(cut.group(1), GroupOutcome::Rejected(b"no")));
        assert_eq!(groups_until(&cut, Position::WHOLE), 4);
    }
}

#[test]
fn groups_change_entities_of_their_ops_and_what_is_made_of_local_rows() {
    let entry = batch_of_four(header(&genesis(), EntryKind::Batch));
    let batch = entry.batch().expect("its kind says so");
    for (entity, groups, expected) in [
        ("alice", 0..1, true),
        ("alice", 1..3, false),
        ("alice", 1..4, true),
        ("bob", 0..4, false),
        ("carol", 2..4, true),
        ("carol", 3..4, false),
        ("@bank", 0..2, false),
        ("@bank", 2..3, true),
        ("@bank", 3..4, false),
    ] {
        assert_eq!(may_change(&batch, groups.clone(), entity.as_bytes()), expected, "{entity} {groups:?}");
    }
}
