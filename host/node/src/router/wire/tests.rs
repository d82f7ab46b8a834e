//! Messages between nodes: what was written is read back, and nothing else is.

mod fuzz;
mod released;

use statehouse_abi::key::Scope;
use statehouse_abi::plan::{Coordination, TccRole};

use super::*;
use crate::ids::{JournalIndex, PartitionId, Position};
use crate::sequencer::submission::Submission;

fn submission() -> UnticketedSubmission {
    let mut plans = PlanOutWriter::default();
    plans.step(b"debit", b"alice", Some(b"undo"), TccRole::Try);
    plans.key(Scope::Own, b"balance");
    plans.step(b"credit", b"bob", None, TccRole::Confirm);
    plans.plan(Coordination::TryConfirmCancel, b"alice", b"\xa0");
    let plan = Plan::all(plans.finish(Vec::new())).expect("a good block").remove(0).expect("a plan");
    UnticketedSubmission {
        id: CommandId([7; 16]),
        fingerprint: Fingerprint::of_command("transfer", b"\xa0"),
        name: "transfer".into(),
        size: size_of(&plan.view()),
        plan,
        planner: ModuleId([9; 32]),
        caller: "till".into(),
        roles: 3,
        vouched: NodeId(1),
        request_id: "r-1".into(),
        expires: Micros(77),
        deadline: None,
        saga: None,
        called: None,
        ticket: (),
    }
}

#[test]
fn a_submission_arrives_as_it_was_sent() {
    let sent = submission();
    let bytes = encode_submissions([&sent, &sent].into_iter());
    let arrived = decode_submissions(NodeId(2), &bytes).expect("what was just written");
    assert_eq!(arrived.len(), 2);
    for arrived in arrived {
        assert_eq!((arrived.id, arrived.fingerprint, arrived.planner), (sent.id, sent.fingerprint, sent.planner));
        assert_eq!(arrived.vouched, NodeId(2), "who sends it vouches, whatever it says");
        assert_eq!((arrived.roles, arrived.expires, arrived.size), (sent.roles, sent.expires, sent.size));
        assert_eq!((&*arrived.name, &*arrived.caller, &*arrived.request_id), ("transfer", "till", "r-1"));
        let (ours, theirs) = (sent.plan.view(), arrived.plan.view());
        assert_eq!((ours.home, ours.body, ours.coordination), (theirs.home, theirs.body, theirs.coordination));
        let steps = |plan: &Plan| -> Vec<String> {
            let view = plan.view();
            let keys = |first: u32, count: u32| -> Vec<(Scope, Vec<u8>)> {
                (first..first + count).map(|at| view.block.key(at)).map(|(scope, key)| (scope, key.to_vec())).collect()
            };
            let step = |step: statehouse_abi::plan::Step<'_>| {
                let keys = keys(step.first_key, step.key_count);
                format!("{:?} {:?} {:?} {:?} {keys:?}", step.op, step.entity, step.undo, step.tcc)
            };
            view.steps().map(step).collect()
        };
        assert_eq!(steps(&sent.plan), steps(&arrived.plan));
    }
}

#[test]
fn outcomes_arrive_as_they_were_told() {
    let position = Position { partition: PartitionId(3), index: JournalIndex(42), n: 1, head8: [1, 2, 3, 4] };
    let recorded = RecordedOutcome {
        position,
        time: Micros(5),
        is_replayed: true,
        status: 201,
        body: Value::map([("a", Value::Int(1))]),
    };
    let rejection = Rejection { code: "no".to_owned(), detail: "never".to_owned() };
    let retry_after = Duration::from_millis(1500);
    let unavailable = |reason| SubmissionAnswer::Answer(Answer::Unavailable(Unavailability { reason, retry_after }));
    let mut told = vec![
        SubmissionAnswer::not_led(None),
        SubmissionAnswer::not_led(Some(NodeId(2))),
        SubmissionAnswer::Unknown,
        SubmissionAnswer::Answer(Answer::Done(recorded.clone())),
        SubmissionAnswer::Answer(Answer::Rejected(recorded, rejection)),
        SubmissionAnswer::Answer(Answer::Conflict { fields: vec!["amount".to_owned()], position }),
    ];
    told.extend(REASONS.map(unavailable));
    for time in [None, Some(Micros(5)), Some(Micros(-5))] {
        let arrived = decode_told(&encode_told(told.clone(), time), told.len()).expect("what was just written");
        assert_eq!(format!("{arrived:?}"), format!("{:?}", (&told, time)));
    }
}

/// Messages have one number for all obstacles, which nodes of every version know.
#[test]
fn why_a_partition_with_a_leader_takes_nothing_is_not_told_to_other_nodes() {
    let unavailable = |reason| {
        let retry_after = Duration::from_secs(1);
        vec![SubmissionAnswer::Answer(Answer::Unavailable(Unavailability { reason, retry_after }))]
    };
    let why = UnavailableReason::NotNow(Obstacle::NoMajority);
    let told = encode_told(unavailable(UnavailableReason::NoLeader), None);
    assert_eq!(encode_told(unavailable(why), None), told);
    let leader = Some(NodeId(2));
    assert_eq!(
        encode_told(vec![SubmissionAnswer::NotNow { leader, why }], None),
        encode_told(vec![SubmissionAnswer::not_led(leader)], None)
    );
}

/// What nodes below the level of `TIMELINES` read and write, field by field.
#[test]
fn nodes_that_say_no_times_read_and_write_what_they_always_did() {
    #[derive(Encode, Decode)]
    struct OldSubmissions(#[n(0)] u8, #[n(1)] ByteVec, #[n(2)] Vec<OldSubmitted>);
    #[derive(Encode, Decode)]
    struct OldSubmitted(
        #[cbor(n(0), with = "minicbor::bytes")] [u8; 16],
        #[n(1)] String,
        #[cbor(n(2), with = "minicbor::bytes")] [u8; 32],
        #[n(3)] String,
        #[n(4)] u32,
        #[n(5)] String,
        #[n(6)] i64,
        #[n(7)] Option<CalledBy>,
    );
    #[derive(Encode, Decode)]
    struct OldOutcomes(#[n(0)] u8, #[n(1)] Vec<WireOutcome>);

    let untimed = encode_submissions([&submission()].into_iter());
    let read: OldSubmissions = decode(&untimed).expect("an old node reads it");
    assert_eq!(encode(&read), untimed, "and would have written the same");
    let deadline = Some(Instant::now() + Duration::from_secs(5));
    let timed = encode_submissions([&Submission { deadline, ..submission() }].into_iter());
    let read: OldSubmissions = decode(&timed).expect("an old node reads it");
    assert_eq!(encode(&read), untimed, "what it does not know it passes over");
    let arrived = decode_submissions(NodeId(2), &timed).expect("what was just written").remove(0);
    let left = arrived.deadline.expect("it says how long somebody waits").duration_since(Instant::now());
    assert!(left <= Duration::from_secs(5), "{left:?}");

    let untimed = encode_told(vec![SubmissionAnswer::Unknown], None);
    assert_eq!(encode(&decode::<OldOutcomes>(&untimed).expect("an old node reads it")), untimed);
    let timed = encode_told(vec![SubmissionAnswer::Unknown], Some(Micros(7)));
    assert_eq!(encode(&decode::<OldOutcomes>(&timed).expect("an old node reads it")), untimed);
}

#[test]
fn what_is_no_message_is_refused() {
    let bytes = encode_submissions([&submission()].into_iter());
    for length in 0..bytes.len() {
        assert!(decode_submissions(NodeId(2), &bytes[..length]).is_err(), "{length} bytes");
    }
    let told = encode_told(vec![SubmissionAnswer::Unknown], None);
    assert!(decode_told(&told, 2).is_err(), "one outcome for two submissions");
    let mut later = told.to_vec();
    later[1] = FORMAT + 1;
    assert!(matches!(decode_told(&later, 1), Err(WireError::Format { found: 2 })), "{later:?}");
}
