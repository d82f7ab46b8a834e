//! Hands over the partitions that a node leads when it is about to stop: others lead them before it is gone.
//!
//! In: the other nodes, and which of them stay. Out: nothing is led here any more, or no node is left that could lead.
//! It does not know why the node stops.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::ids::NodeId;
use crate::system::clock_round::ask_clock;
use crate::system::context::NodeContext;
use crate::system::reconciliation;

/// How long a node that stops waits for others to lead instead, and how often it looks.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
const HAND_OVER_LOOK: Duration = Duration::from_millis(50);
/// How long the others have to say whether they can.
const HAND_OVER_ASK: Duration = Duration::from_millis(400);

/// Stops standing for election, and only then tells the others that this node is about to stop. A node that hears it
/// need not ask whether this one may still lead.
pub fn announce(context: &NodeContext) {
    stand_back(context);
    context.leaving.cancel();
    // The health check may have let this node stand again in between.
    stand_back(context);
}

fn stand_back(context: &NodeContext) {
    context.replicas().into_iter().for_each(|(_, partition)| partition.group().stand(false));
}

/// Hands over what this node leads, so that nobody has to notice first that it is gone.
pub async fn hand_over_all(context: &Arc<NodeContext>) {
    let led = || context.replicas().into_iter().filter(|(_, partition)| partition.is_leader());
    if led().next().is_none() {
        return;
    }
    // The others may be about to stop as well, and a node that does not answer now does not lead either.
    let asked = Instant::now();
    join_all(context.others().into_iter().map(|node| ask_clock(context, node, HAND_OVER_ASK))).await;
    let can_lead = |node: &NodeId| {
        let samples = context.clocks.samples();
        samples.get(node).is_some_and(|sample| asked <= sample.at && !sample.is_stopping)
    };
    let is_there_one = || context.others().iter().any(can_lead);
    while led().next().is_some() && is_there_one() && asked.elapsed() < HAND_OVER_MAX {
        let handing = led().map(|(group, partition)| async move {
            if let Err(error) = reconciliation::hand_over(context, &group, &partition, can_lead).await {
                tracing::debug!(%error, "leadership could not be transferred");
            }
        });
        join_all(handing).await;
        tokio::time::sleep(HAND_OVER_LOOK).await;
    }
}
