//! The peer network: one suite that both implementations pass, and what only one of them has.

mod conformance;
mod fake;
mod fuzz;
mod grpc;
mod released;
mod renewal;
mod seen;
mod sim;

use std::time::Duration;

use crate::consensus::PeerError;
use crate::ids::{ClusterId, LogIndex, NodeId, PartitionId, Term};
use crate::log::EntryId;
use crate::peer::{Call, GroupName, Topic};

const CALLER: NodeId = NodeId(1);
const ANSWERER: NodeId = NodeId(2);
const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Never reached when everything is right.
const LONG: Duration = Duration::from_secs(20);
/// Reached when nothing answers.
const SHORT: Duration = Duration::from_millis(100);

fn group(partition: u32) -> GroupName {
    GroupName::new("wallet", PartitionId(partition))
}

fn entry_id(index: u64) -> EntryId {
    EntryId { term: Term(3), node: CALLER, index: LogIndex(index) }
}

fn question(topic: Topic, body: &'static str) -> Call {
    Call { topic, group: Some(group(4)), body: body.into() }
}

/// An answer as one line, errors included.
fn told<T: std::fmt::Debug>(answer: Result<T, PeerError>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => error.to_string(),
    }
}
