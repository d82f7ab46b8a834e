//! Who leads a group, as the rest of the host may know it.
//!
//! A node is announced as leader only once its partition has taken the blank entry of its term. By then everything
//! committed before is applied or queued, a majority has answered, and openraft accepts proposals. This file knows
//! nothing of what a leader does.

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::metrics::RaftServerMetrics;
use openraft::{Raft, ServerState};
use tokio::sync::watch;

use super::StopReason;
use super::model::{self, Model};
use super::state::GroupStateMachine;
use crate::ids::{NodeId, Term};
use crate::log::EntryId;

/// This node's role in its group. `term` is the newest term that the node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This node leads and may propose in `term`. It never leads twice in one term.
    Leader { term: Term },
    /// Another node leads, or no leader is known (during an election, or before this node's own election is complete).
    Follower { leader: Option<NodeId>, term: Term },
    /// The group has stopped until the process opens the log again.
    Stopped { reason: StopReason },
}

/// Follows openraft until it stops. The last value is then [`Leadership::Stopped`].
pub(super) fn follow(
    raft: &Raft<Model, GroupStateMachine>,
    node: NodeId,
    mut blank: watch::Receiver<Option<EntryId>>,
) -> watch::Receiver<Leadership> {
    let (leadership, receiver) = watch::channel(Leadership::Follower { leader: None, term: Term(0) });
    let (mut server, mut all) = (raft.server_metrics(), raft.metrics());
    tokio::spawn(async move {
        loop {
            let blank_newest = *blank.borrow_and_update();
            let now = current(&server.borrow_watched(), node, blank_newest);
            leadership.send_if_modified(|before| {
                *before != now && {
                    *before = now;
                    true
                }
            });
            let running = tokio::select! {
                changed = server.changed() => changed.is_ok(),
                changed = blank.changed() => changed.is_ok(),
            };
            if !running {
                break;
            }
        }
        while all.borrow_watched().running_state.is_ok() && all.changed().await.is_ok() {}
        let reason = all.borrow_watched().running_state.as_ref().err().map_or(StopReason::Panicked, stop_reason);
        leadership.send_replace(Leadership::Stopped { reason });
    });
    receiver
}

fn current(server: &RaftServerMetrics<Model>, node: NodeId, blank: Option<EntryId>) -> Leadership {
    let vote = model::vote(&server.vote);
    let leads = server.state == ServerState::Leader && vote.committed;
    if leads && blank.is_some_and(|blank| blank.term == vote.term && blank.node == node) {
        return Leadership::Leader { term: vote.term };
    }
    let leader = server.current_leader.map(NodeId).filter(|leader| *leader != node);
    Leadership::Follower { leader, term: vote.term }
}

pub(super) fn stop_reason(fatal: &Fatal<Model>) -> StopReason {
    match fatal {
        Fatal::Stopped => StopReason::Shutdown,
        Fatal::Panicked => StopReason::Panicked,
        Fatal::StorageError(error) => StopReason::Failed { detail: error.to_string() },
    }
}
