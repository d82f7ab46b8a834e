//! Repair of sealed segments while their partition runs: what this node's disk has lost of them comes from the other
//! nodes.
//!
//! ```text
//! a reader or the scrubber meets damage ─▶ which entries? ─▶ ask peer after peer ─▶ check by hash, write in place
//! ```
//! In: what the logs say is damaged. Out: whole segments. Until then the node is not ready and says why; it continues
//! to vote, and leads that partition only if nobody else can. If the state itself needs what is lost, the partition
//! opens after the repair. It does not know how a segment is written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::Lsn;
use crate::log::{Log, LogError, LogOptions, StreamId};
use crate::peer::GroupName;
use crate::system::context::NodeContext;
use crate::system::repair;

/// The name under which `/readyz` shows the damage.
const DAMAGE: &str = "mend";
/// How often it looks for new damage.
const LOOK: Duration = Duration::from_millis(200);
/// How soon a repair is tried again, at first and later. Each attempt reads a whole segment.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// A segment, by where it begins.
type SegmentPlace = (GroupName, Lsn);

/// An attempt that failed.
struct Failed {
    why: String,
    wait: Duration,
    again: Instant,
}

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>) {
    let mut failed: BTreeMap<SegmentPlace, Failed> = BTreeMap::new();
    while !context.stopping.is_cancelled() {
        let damaged = damaged(&context);
        failed.retain(|place, _| damaged.contains_key(place));
        tell(&context, &damaged, &failed);
        for (place, (log, _)) in &damaged {
            let known = failed.get(place);
            if known.is_some_and(|failed| Instant::now() < failed.again) {
                continue;
            }
            let wait = known.map_or(AGAIN_MIN, |failed| (failed.wait * 2).min(AGAIN_MAX));
            match mend(&context, &place.0, log, place.1).await {
                Ok(()) => _ = failed.remove(place),
                Err(why) => _ = failed.insert(place.clone(), Failed { why, wait, again: Instant::now() + wait }),
            }
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The damaged segments that the logs of this node have met, each with its log and a description of the damage.
fn damaged(context: &NodeContext) -> BTreeMap<SegmentPlace, (Log, String)> {
    let mut damaged = BTreeMap::new();
    for (group, partition) in context.replicas() {
        let rot = partition.log().watch_rot().borrow().clone();
        damaged.extend(rot.into_iter().map(|(at, how)| ((group.clone(), at), (partition.log().clone(), how))));
    }
    damaged
}

fn tell(
    context: &NodeContext,
    damaged: &BTreeMap<SegmentPlace, (Log, String)>,
    failed: &BTreeMap<SegmentPlace, Failed>,
) {
    let words = damaged.iter().map(|(place, (_, how))| match failed.get(place) {
        Some(failed) => format!("{}: {how}; it is not repaired yet: {}", place.0, failed.why),
        None => format!("{}: {how}; it is being repaired", place.0),
    });
    let words: Vec<String> = words.collect();
    context.router.set_trouble(DAMAGE, (!words.is_empty()).then(|| words.join("; ")));
}

/// Repairs the known damage of a log that is not open, because its partition does not open without the repair.
///
/// # Errors
/// Some of it cannot be repaired now, or something else is damaged; the text says what.
pub async fn mend_closed(context: &NodeContext, group: &GroupName, folder: &Path) -> Result<(), String> {
    let (disk, dir) = (context.opening.disk.clone(), folder.join("log"));
    let stream = StreamId::new(&group.machine, group.partition).map_err(|error| error.reason())?;
    let opening = blocking(move || Log::open(disk, &dir, LogOptions::new(stream)));
    let log = opening.await.map_err(|error| error.reason())?;
    let places: Vec<Lsn> = log.watch_rot().borrow().keys().copied().collect();
    let mut mended = if places.is_empty() { Err("nothing that is sealed is marked".to_owned()) } else { Ok(()) };
    for at in places {
        mended = mended.and(mend(context, group, &log, at).await);
    }
    blocking(move || log.close()).await.map_err(|error| error.reason())?;
    mended
}

/// Repairs one segment with what one other node has. The error says what stands in the way.
async fn mend(context: &NodeContext, group: &GroupName, log: &Log, at: Lsn) -> Result<(), String> {
    let looking = log.clone();
    let lost = blocking(move || looking.lost_in(at)).await.map_err(|error| error.reason())?;
    let mut reasons = Vec::new();
    let others = if lost.is_empty() { vec![context.node] } else { context.others() };
    if others.is_empty() {
        return Err(
            "this node has no peers that could have what is lost; put the segment of a backup in its place".to_owned()
        );
    }
    for node in others {
        let mut entries = Vec::new();
        let mut failed = None;
        for range in &lost {
            match repair::fetch(context, node, group, range).await {
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
