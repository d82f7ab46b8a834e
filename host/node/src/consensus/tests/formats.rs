//! The bytes of a membership: encoded and decoded, compared with a golden file, and damaged in every way.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{EmptyNode, Membership};

use super::*;
use crate::consensus::MembershipError;
use crate::consensus::membership::{RaftMembership, decode, encode};
use crate::consensus::model;

/// Two sets of voters, as during a change, and a learner.
fn membership() -> RaftMembership {
    let sets = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
    let nodes: BTreeMap<u64, EmptyNode> = (1..=4).map(|node| (node, EmptyNode::new())).collect();
    Membership::new(sets, nodes).expect("all voters are nodes")
}

pub(super) fn golden() -> Vec<u8> {
    let mut bytes = vec![1, 2, 4, 0, 0, 0, 0, 0];
    for number in [5_u64, 7, 9] {
        bytes.extend(number.to_le_bytes());
    }
    for (node, mask) in [(1_u64, 1), (2, 3), (3, 2), (4, 0)] {
        bytes.extend(node.to_le_bytes());
        bytes.push(mask);
    }
    bytes
}

#[test]
fn a_membership_is_written_as_its_table_says_and_read_back() {
    let bytes = encode(id(5, 9), &membership());
    assert_eq!(bytes, golden());
    assert_eq!(decode(&bytes), Ok((id(5, 9), membership())));
}

#[test]
fn a_damaged_membership_is_named() {
    let check = |position: usize, value: u8, expected: MembershipError| {
        let mut bytes = golden();
        bytes[position] = value;
        assert_eq!(decode(&bytes), Err(expected));
    };
    check(0, 2, MembershipError::Version { expected: 1, found: 2 });
    check(1, 0, MembershipError::Sets(0));
    check(1, 3, MembershipError::Sets(3));
    check(2, 5, MembershipError::Length { expected: 77, found: 68 });
    check(41, 1, MembershipError::Order { node: NodeId(1) });
    check(40, 4, MembershipError::Mask { node: NodeId(1) });
    assert_eq!(decode(&golden()[..31]), Err(MembershipError::Length { expected: 32, found: 31 }));
}

#[test]
fn a_membership_in_the_wrong_entry_is_refused() {
    let entry = LogEntry { id: id(5, 10), payload: Payload::Membership(encode(id(5, 9), &membership())) };
    let refused = model::raft_entry(entry).expect_err("it belongs to another entry");
    assert_eq!(refused, MembershipError::Entry { expected: id(5, 10), found: id(5, 9) });
}
