//! What an entry cannot record about commands on several partitions, given its kind and its commands.

use super::*;

/// An entry of two commands with these records, as it is read back.
fn read_back(kind: EntryKind, change: impl FnOnce(&mut Records, [Records; 3])) -> Result<(), String> {
    let journal = active();
    let by_content = Derivation::ByContent;
    let kinds = [starting, called, ended].map(|make| make(&journal, by_content)).map(|entry| entry.records().clone());
    let mut records = Records::default();
    change(&mut records, kinds);
    match Entry::parse(batch_with(header(&journal, kind), records).payload().clone()) {
        Ok(_) => Ok(()),
        Err(EntryError::Records { reason }) => Err(reason),
        Err(other) => panic!("refused for its records, not for {other}"),
    }
}

#[test]
fn a_batch_ends_nothing() {
    let refused = Err("a batch records an outcome, an order or an end".to_owned());
    assert_eq!(read_back(EntryKind::Batch, |all, [start, ..]| *all = start), Ok(()));
    assert_eq!(read_back(EntryKind::Batch, |all, [_, call, _]| *all = call), Ok(()));
    assert_eq!(read_back(EntryKind::Batch, |all, [.., end]| all.progress = end.progress), refused);
    assert_eq!(read_back(EntryKind::Batch, |all, [.., end]| all.marks = end.marks), refused);
    assert_eq!(read_back(EntryKind::Batch, |all, [.., end]| all.ended = end.ended), refused);
    assert_eq!(read_back(EntryKind::Batch, |all, _| all.ordered = Some(Vec::new())), refused);
    let with_marks = |all: &mut Records, [start, _, end]: [Records; 3]| *all = Records { marks: end.marks, ..start };
    assert_eq!(read_back(EntryKind::Batch, with_marks), refused, "beside what it may record");
}

#[test]
fn an_entry_of_outcomes_says_how_each_of_its_commands_ended_and_starts_nothing() {
    let refused = |reason: &str| Err(format!("an entry of outcomes {reason}"));
    assert_eq!(read_back(EntryKind::Saga, |all, [.., end]| *all = end), Ok(()));
    let start = |all: &mut Records, [start, _, end]: [Records; 3]| *all = Records { starts: start.starts, ..end };
    assert_eq!(read_back(EntryKind::Saga, start), refused("starts a command, or answers a call"));
    let call = |all: &mut Records, [_, call, end]: [Records; 3]| *all = Records { origins: call.origins, ..end };
    assert_eq!(read_back(EntryKind::Saga, call), refused("starts a command, or answers a call"));
    for count in [0, 1, 3] {
        let marks = vec![Vec::new(); count];
        let histories = |all: &mut Records, [.., end]: [Records; 3]| *all = Records { marks, ..end };
        let expected = refused("does not have one history for each command that ends");
        assert_eq!(read_back(EntryKind::Saga, histories), expected, "{count}");
        let ended = Some(vec![Derivation::ById; count]);
        let derivations = |all: &mut Records, [.., end]: [Records; 3]| *all = Records { ended, ..end };
        let expected = refused("does not say for each command that ends how its ids are derived");
        assert_eq!(read_back(EntryKind::Saga, derivations), expected, "{count}");
    }
    let nothing = read_back(EntryKind::Saga, |_, _| {});
    assert_eq!(nothing, refused("does not have one history for each command that ends"), "without a section");
}
