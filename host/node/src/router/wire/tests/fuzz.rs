//! Fuzz targets: submissions, outcomes and recorded answers as another node may send them.
//!
//! In: any bytes. Out: nothing, if a message that is accepted is sent on as it was read, and needs memory in proportion
//! to its bytes. It does not know how inputs are made.

use statehouse_fuzz::{Target, fuzz, within};

use super::released::{answers, outcomes, submissions};
use super::*;

/// Memory for reading: the shortest submission becomes some hundred bytes, in a list that grows.
fn bound(input: &[u8]) -> usize {
    (16 << 10) + 256 * input.len()
}

#[test]
fn submissions_that_are_accepted_are_sent_on_as_they_were() {
    fuzz!(Target::new("submissions").seeds(submissions().map(Vec::from)), |input| {
        let read = within(bound(input), || decode_submissions(NodeId(2), input));
        let Ok(submissions) = read else { return };
        // How long somebody waits is all that the way changes.
        let submissions =
            submissions.into_iter().map(|submission| UnticketedSubmission { deadline: None, ..submission });
        let submissions: Vec<UnticketedSubmission> = submissions.collect();
        let again = encode_submissions(submissions.iter());
        let back = decode_submissions(NodeId(2), &again).expect("what was read can be sent on");
        assert_eq!(back.len(), submissions.len());
        for (one, other) in submissions.iter().zip(&back) {
            assert_eq!((one.id, one.fingerprint, one.planner), (other.id, other.fingerprint, other.planner));
            assert_eq!((one.size, one.roles, one.expires), (other.size, other.roles, other.expires));
        }
        assert_eq!(encode_submissions(back.iter()), again);
    });
}

#[test]
fn outcomes_that_are_accepted_are_sent_on_as_they_were() {
    let seeds = outcomes().map(|told| encode_told(vec![told], Some(Micros(7))).to_vec());
    fuzz!(Target::new("outcomes").seeds(seeds), |input| {
        for count in [0, 1, 2] {
            let read = within(bound(input), || decode_told(input, count));
            let Ok((told, time)) = read else { continue };
            let again = decode_told(&encode_told(told.clone(), time), count).expect("what was read can be sent on");
            assert_eq!(format!("{again:?}"), format!("{:?}", (told, time)));
        }
    });
}

#[test]
fn recorded_answers_that_are_accepted_are_sent_on_as_they_were() {
    fuzz!(Target::new("answers").seeds([encode_answers(answers()).to_vec()]), |input| {
        let Ok(answers) = within(bound(input), || decode_answers(input, 3)) else { return };
        let again = encode_answers(answers.clone());
        assert_eq!(decode_answers(&again, 3).expect("what was read can be sent on"), answers);
    });
}
