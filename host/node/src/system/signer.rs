//! Records the node's own key in `system`, where anyone who checks a signature later finds whose it is.
//!
//! In: the directory. Out: one command, until the directory has the key. Nodes that are older than the recording of
//! keys do the same when they start again. It signs nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::key::PublicKey;
use crate::records::command::SystemCommand;
use crate::system::context::NodeContext;
use crate::system::directory::Directory;
use crate::system::submit::submit;

/// How long `system` may take to record it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon it tries again.
const AGAIN: Duration = Duration::from_secs(2);

/// Records the key until it is recorded, then ends.
pub async fn run(context: Arc<NodeContext>) {
    let key = context.key;
    let mut directory = context.watch_directory();
    let mut said = None;
    loop {
        let is_recorded = is_recorded(&context, &directory.borrow_and_update().directory, key);
        match is_recorded {
            Some(true) => return,
            Some(false) => {
                if let Err(error) = record(&context, key).await {
                    let error = error.to_string();
                    if said.as_ref() != Some(&error) {
                        tracing::warn!(
                            error,
                            "the node's key is not recorded yet: certificates that it signs are not accepted"
                        );
                    }
                    said = Some(error);
                }
            }
            None => {}
        }
        tokio::select! {
            changed = directory.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN) => {}
            () = context.stopping.cancelled() => return,
        }
    }
}

/// `None` while the node is not one of the cluster's.
fn is_recorded(context: &NodeContext, directory: &Directory, key: PublicKey) -> Option<bool> {
    directory
        .nodes
        .contains_key(&context.node)
        .then(|| directory.keys.iter().any(|known| known.node() == context.node && known.public() == key))
}

async fn record(context: &NodeContext, key: PublicKey) -> Result<(), crate::system::ClusterError> {
    let Some(system) = context.system.get().cloned() else { return Ok(()) };
    submit(&system, &SystemCommand::RecordKey { node: context.node, key }, Instant::now() + PATIENCE).await
}
