//! The voters and learners as bytes: in a membership entry of the log and, uninterpreted, beside the partition's state.
//!
//! Numbers are little-endian. The bytes include the id of the entry that carries them, so that the state need not keep
//! anything else.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | format version, 1 |
//! | 1 | 1 | sets of voters: 1, or 2 while a change is under way |
//! | 2 | 2 | number of nodes, n |
//! | 4 | 4 | zero |
//! | 8 | 24 | term, node, index of the entry |
//! | 32 | 9 n | per node, ascending: id (8), sets it votes in (1): bit 0 the first, bit 1 the second; none = learner |

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use openraft::{EmptyNode, Membership};

use super::MembershipError;
use crate::ids::{LogIndex, NodeId, Term};
use crate::log::EntryId;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 32;
const NODE_BYTES: usize = 9;

pub(super) type RaftMembership = Membership<u64, EmptyNode>;

pub(super) fn encode(entry: EntryId, membership: &RaftMembership) -> Bytes {
    let sets = membership.get_joint_config();
    let nodes: Vec<u64> = membership.nodes().map(|(node, _)| *node).collect();
    assert!(sets.len() <= 2, "a change of membership has a before and an after");
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + NODE_BYTES * nodes.len());
    bytes.put_u8(VERSION);
    bytes.put_u8(sets.len() as u8);
    bytes.put_u16_le(u16::try_from(nodes.len()).expect("a group has far fewer than 65,536 members"));
    bytes.put_u32_le(0);
    for number in [entry.term.0, entry.node.0, entry.index.0] {
        bytes.put_u64_le(number);
    }
    for node in nodes {
        bytes.put_u64_le(node);
        bytes.put_u8(
            sets.iter().enumerate().fold(0, |mask, (set, voters)| mask | (voters.contains(&node) as u8) << set),
        );
    }
    bytes.freeze()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(EntryId, RaftMembership), MembershipError> {
    let found = bytes.len();
    let (header, nodes) =
        bytes.split_at_checked(HEADER_BYTES).ok_or(MembershipError::Length { expected: HEADER_BYTES, found })?;
    if header[0] != VERSION {
        return Err(MembershipError::Version { expected: VERSION, found: header[0] });
    }
    let set_count = header[1];
    if !(1..=2).contains(&set_count) {
        return Err(MembershipError::Sets(set_count));
    }
    let expected = HEADER_BYTES + NODE_BYTES * u16::from_le_bytes([header[2], header[3]]) as usize;
    if found != expected {
        return Err(MembershipError::Length { expected, found });
    }
    let entry = EntryId {
        term: Term(number(&header[8..16])),
        node: NodeId(number(&header[16..24])),
        index: LogIndex(number(&header[24..32])),
    };
    let mut sets = vec![BTreeSet::new(); set_count as usize];
    let mut members = BTreeMap::new();
    for record in nodes.chunks_exact(NODE_BYTES) {
        let (node, mask) = (number(&record[..8]), record[8]);
        if members.last_key_value().is_some_and(|(last, _)| node <= *last) {
            return Err(MembershipError::Order { node: NodeId(node) });
        }
        if mask >> set_count != 0 {
            return Err(MembershipError::Mask { node: NodeId(node) });
        }
        members.insert(node, EmptyNode::new());
        for (set, voters) in sets.iter_mut().enumerate() {
            if mask >> set & 1 == 1 {
                voters.insert(node);
            }
        }
    }
    let membership = Membership::new(sets, members).map_err(|_| MembershipError::Sets(set_count))?;
    Ok((entry, membership))
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("the caller cut eight bytes"))
}
