//! Submissions, outcomes and recorded answers as released versions have sent them: this version reads them, and sends
//! the same.

use statehouse_fuzz::{check_recorded, recorded};

use super::*;
use crate::saga::{Call, Outcome as CallOutcome, PhaseMoment};

/// A client's commands, and a coordinator's call.
pub(super) fn submissions() -> [Bytes; 2] {
    let called = BranchCall {
        parent: CommandId([7; 16]),
        home: PartitionId(2),
        key: CallKey { branch: 1, call: Call::Do, attempt: 0 },
        is_cancel: false,
        carried: Micros(5),
        derivation: Derivation::ByContent,
        needs_claim: true,
    };
    let called = UnticketedSubmission { called: Some(Arc::new(called)), ..submission() };
    [encode_submissions([&submission(), &submission()].into_iter()), encode_submissions([&called].into_iter())]
}

/// One of each kind.
pub(super) fn outcomes() -> [SubmissionAnswer; 6] {
    let position = Position { partition: PartitionId(3), index: JournalIndex(42), n: 1, head8: [1, 2, 3, 4] };
    let body = Value::map([("a", Value::Int(1))]);
    let recorded = RecordedOutcome { position, time: Micros(5), is_replayed: true, status: 201, body };
    let rejection = Rejection { code: "no".to_owned(), detail: "never".to_owned() };
    let unavailable = Unavailability { reason: UnavailableReason::NoLeader, retry_after: Duration::from_millis(1500) };
    [
        SubmissionAnswer::not_led(Some(NodeId(2))),
        SubmissionAnswer::Unknown,
        SubmissionAnswer::Answer(Answer::Done(recorded.clone())),
        SubmissionAnswer::Answer(Answer::Rejected(recorded, rejection)),
        SubmissionAnswer::Answer(Answer::Conflict { fields: vec!["amount".to_owned()], position }),
        SubmissionAnswer::Answer(Answer::Unavailable(unavailable)),
    ]
}

pub(super) fn answers() -> Vec<Option<Answered>> {
    let at = PhaseMoment::at_home(Micros(5), 9);
    let refused = CallOutcome::Refused { rejection: vec![0xa0].into(), code: "no".to_owned() };
    vec![
        None,
        Some(Answered { outcome: CallOutcome::Done { events: Vec::new() }, at: at.clone() }),
        Some(Answered { outcome: refused, at }),
    ]
}

#[test]
fn messages_of_released_versions_are_read_and_sent_as_before() {
    let mut sent: Vec<_> = submissions().map(|bytes| ("submissions".to_owned(), bytes.to_vec())).into();
    sent.push(("outcomes".to_owned(), encode_told(outcomes().into(), Some(Micros(7))).to_vec()));
    sent.push(("answers".to_owned(), encode_answers(answers()).to_vec()));
    check_recorded("0.1.0", "router.txt", &sent);
    for (name, bytes) in recorded("router.txt") {
        match name.as_str() {
            "submissions" => {
                let read = decode_submissions(NodeId(2), &bytes).expect("it was sent");
                assert!(
                    read.iter().all(|read| read.id == submission().id && read.fingerprint == submission().fingerprint)
                );
                assert_eq!(encode_submissions(read.iter()), bytes, "nothing is lost on the way");
            }
            "outcomes" => {
                let read = decode_told(&bytes, outcomes().len()).expect("it was sent");
                assert_eq!(format!("{read:?}"), format!("{:?}", (outcomes(), Some(Micros(7)))));
            }
            _ => assert_eq!(decode_answers(&bytes, 3).expect("it was sent"), answers()),
        }
    }
}
