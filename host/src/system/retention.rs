//! Retention: keeps the logs of this node at about the length that its configuration says.
//!
//! In: how much to keep. Out: snapshots, and segments that are deleted once a snapshot has what is in them. It runs only where the
//! configuration names a length; nothing else ever deletes a part of a journal. It does not know what the other nodes keep.

use std::sync::Arc;
use std::time::Duration;

use crate::system::host::Host;

/// How often the logs are looked at.
const ROUND: Duration = Duration::from_secs(1);

/// Runs until the node stops.
pub async fn run(host: Arc<Host>, keep_bytes: u64) {
    loop {
        for (group, partition) in host.replicas() {
            if !partition.is_running() {
                continue;
            }
            if let Err(error) = partition.release_log(keep_bytes).await {
                tracing::warn!(%group, %error, "the log is not released, to be tried again");
            }
        }
        tokio::select! {
            () = host.stopping.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}
