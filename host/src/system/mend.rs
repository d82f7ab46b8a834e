//! Mending of sealed segments while their partition runs: what this node's disk has lost of them comes from the other nodes.
//!
//! ```text
//! a reader or the scrubber has met damage ─▶ which entries? ─▶ fetch from one peer after the other ─▶ check by hash, write in place
//! ```
//! In: what the logs say is damaged. Out: whole segments; until then the node is not ready and says why, votes on, and leads that partition only
//! where nobody else can. It does not know how a segment is written.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::Lsn;
use crate::log::{Log, LogError};
use crate::peer::GroupName;
use crate::system::host::Host;
use crate::system::repair;

/// What `/readyz` has the damage under.
const DAMAGE: &str = "mend";
/// How often it is looked, and tried again.
const LOOK: Duration = Duration::from_millis(200);

/// Runs until the node stops.
pub async fn run(host: Arc<Host>) {
    while !host.stopping.is_cancelled() {
        let mut damaged = Vec::new();
        for (group, partition) in host.replicas() {
            let rot = partition.log().watch_rot().borrow().clone();
            damaged.extend(rot.into_iter().map(|(at, reason)| (group.clone(), partition.log().clone(), at, reason)));
        }
        if !damaged.is_empty() {
            let words: Vec<String> =
                damaged.iter().map(|(group, .., reason)| format!("{group}: {reason}; it is being mended")).collect();
            host.router.set_trouble(DAMAGE, Some(words.join("; ")));
        }
        let mut left = Vec::new();
        for (group, log, at, reason) in damaged {
            if let Err(why) = mend(&host, &group, &log, at).await {
                left.push(format!("{group}: {reason}; it is not mended yet: {why}"));
            }
        }
        host.router.set_trouble(DAMAGE, (!left.is_empty()).then(|| left.join("; ")));
        tokio::select! {
            () = host.stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Mends one segment with what one other node has; what stands in the way, in words.
async fn mend(host: &Host, group: &GroupName, log: &Log, at: Lsn) -> Result<(), String> {
    let looking = log.clone();
    let lost = blocking(move || looking.lost_in(at)).await.map_err(|error| error.reason())?;
    let mut reasons = Vec::new();
    let others = if lost.is_empty() { vec![host.node] } else { host.others() };
    if others.is_empty() {
        return Err(
            "this node has no peers that could have what is lost; put the segment of a backup in its place".to_owned()
        );
    }
    for node in others {
        let mut entries = Vec::new();
        let mut failed = None;
        for range in &lost {
            match repair::fetch(host, node, group, range).await {
                Ok(fetched) => entries.extend(fetched),
                Err(error) => failed = Some(error.to_string()),
            }
        }
        if let Some(reason) = failed {
            reasons.push(format!("node {node}: {reason}"));
            continue;
        }
        let mending = log.clone();
        match blocking(move || mending.mend(at, &entries)).await {
            Ok(()) => {
                metrics::counter!("statehouse_log_mended_total").increment(1);
                return Ok(());
            }
            Err(error) => reasons.push(format!("node {node}: {}", error.reason())),
        }
    }
    Err(reasons.join("; "))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let working = tokio::task::spawn_blocking(work).await;
    working.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
