//! Secrets that sign webhooks. They are on every node, and in no journal.
//!
//! ```text
//! create, rotate ─▶ kept here and on a majority ─▶ `system` records the fingerprint ─▶ nodes without it ask the others
//! ```
//! In: a secret or a fingerprint. Out: the other one. Each secret is a file in `<data>/webhook-secrets/`, named by its
//! fingerprint and readable by its owner only. Between nodes it travels like any other message. It does not know what
//! is signed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::durable::{self, PRIVATE};
use crate::limits::{WEBHOOK_SECRET_BYTES_MAX, WEBHOOK_SECRET_BYTES_MIN};
use crate::peer::{Call, Topic};
use crate::system::cluster_error::ClusterError;
use crate::system::context::NodeContext;

const FOLDER: &str = "webhook-secrets";
/// The key derivation context, which only these fingerprints use.
const CONTEXT: &str = "statehouse 1 webhook secret";
/// How long each other node may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// First byte of a message to another node: keep the secret that follows, or find the secret with the fingerprint.
const KEEP: u8 = 1;
const FIND: u8 = 2;

/// Held while files are written or deleted, so that no secret is deleted that was kept again just now.
static FILES: Mutex<()> = Mutex::new(());

/// What a journal may know about a secret. Secrets have at least 24 bytes, so that nobody guesses one from its
/// fingerprint.
pub type Fingerprint = [u8; 32];

/// Secrets here that no webhook names: when each was kept last, and since when it is known to be unnamed.
pub type Unnamed = BTreeMap<Fingerprint, (SystemTime, Instant)>;

pub fn fingerprint(secret: &[u8]) -> Fingerprint {
    blake3::derive_key(CONTEXT, secret)
}

fn path(folder: &Path, of: &Fingerprint) -> PathBuf {
    folder.join(FOLDER).join(file_of(of))
}

fn file_of(of: &Fingerprint) -> String {
    blake3::Hash::from_bytes(*of).to_hex().to_string()
}

/// Keeps a secret; durable on return. If it is there already, its time is renewed, because somebody is about to record
/// it.
fn keep(data: &Path, secret: &[u8]) -> std::io::Result<()> {
    let of = fingerprint(secret);
    let _turn = FILES.lock();
    if find(data, &of).is_some() {
        return File::open(path(data, &of))?.set_modified(SystemTime::now());
    }
    let folder = data.join(FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    durable::write(&folder, &file_of(&of), PRIVATE, secret)?;
    durable::sync_dir(data)
}

/// Finds a secret. A damaged file counts as missing.
fn find(data: &Path, of: &Fingerprint) -> Option<Vec<u8>> {
    std::fs::read(path(data, of)).ok().filter(|secret| fingerprint(secret) == *of)
}

/// Answers another node.
pub async fn answer(context: &NodeContext, body: &[u8]) -> Result<Bytes, String> {
    let data = context.folder.path().to_owned();
    match body {
        [KEEP, secret @ ..] if (WEBHOOK_SECRET_BYTES_MIN..=WEBHOOK_SECRET_BYTES_MAX).contains(&secret.len()) => {
            let secret = secret.to_vec();
            blocking(move || keep(&data, &secret)).await?.map_err(|error| error.to_string())?;
            Ok(Bytes::new())
        }
        [FIND, of @ ..] => {
            let of = of.try_into().map_err(|_| "a fingerprint has 32 bytes".to_owned())?;
            Ok(blocking(move || find(&data, &of)).await?.unwrap_or_default().into())
        }
        _ => Err("neither a secret nor a fingerprint".to_owned()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

/// Keeps a secret here and on other nodes, before anything relies on it.
///
/// # Errors
/// The disk refuses, or no majority of the nodes has kept the secret by the deadline.
pub async fn keep_on_majority(
    context: &Arc<NodeContext>,
    secret: &[u8],
    deadline: Instant,
) -> Result<Fingerprint, ClusterError> {
    let (data, own) = (context.folder.path().to_owned(), secret.to_vec());
    let kept = blocking(move || keep(&data, &own)).await.and_then(|kept| kept.map_err(|error| error.to_string()));
    kept.map_err(|error| ClusterError::NotKept(format!("the secret cannot be stored on this node: {error}")))?;
    let message: Bytes = [&[KEEP], secret].concat().into();
    let patience = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
    let others = context.others();
    let asking = others.iter().map(|node| {
        let call = Call { topic: Topic::Secret, group: None, body: message.clone() };
        context.network.call(*node, call, patience)
    });
    let kept = 1 + join_all(asking).await.into_iter().filter(Result::is_ok).count();
    let all = 1 + others.len();
    if kept <= all / 2 {
        let detail =
            format!("only {kept} of {all} nodes have stored the secret: start a majority of them, and try again");
        return Err(ClusterError::NotKept(detail));
    }
    Ok(fingerprint(secret))
}

/// Finds the secret with this fingerprint on this node, or else on another one; then this node keeps it as well.
pub async fn find_anywhere(context: &Arc<NodeContext>, of: Fingerprint) -> Option<Vec<u8>> {
    let data = context.folder.path().to_owned();
    let own = data.clone();
    if let Some(secret) = blocking(move || find(&own, &of)).await.ok()? {
        return Some(secret);
    }
    for node in context.others() {
        let body = [&[FIND], of.as_slice()].concat().into();
        let call = Call { topic: Topic::Secret, group: None, body };
        let Ok(secret) = context.network.call(node, call, PATIENCE).await else { continue };
        if fingerprint(&secret) != of {
            continue;
        }
        let (data, kept) = (data.clone(), secret.clone());
        match blocking(move || keep(&data, &kept)).await {
            Ok(Ok(())) => tracing::info!(%node, "the secret of a webhook is stored on this node, too"),
            Ok(Err(error)) => tracing::warn!(%error, "the secret of a webhook cannot be stored on this node"),
            Err(error) => tracing::warn!(error, "the secret of a webhook cannot be stored on this node"),
        }
        return Some(secret.into());
    }
    None
}

/// Those of the named secrets that are not on this node.
pub async fn missing(context: &NodeContext, named: BTreeSet<Fingerprint>) -> Vec<Fingerprint> {
    let data = context.folder.path().to_owned();
    let missing = blocking(move || named.into_iter().filter(|of| !path(&data, of).exists()).collect()).await;
    missing.unwrap_or_default()
}

/// Whether this node has other secrets than these.
pub async fn has_others(context: &NodeContext, named: BTreeSet<Fingerprint>) -> bool {
    let data = context.folder.path().to_owned();
    blocking(move || !others(&data, &named).is_empty()).await.unwrap_or_default()
}

/// Deletes the secrets that no webhook has named for `patience`; `named` are those that are named as of now. A secret
/// that is about to be recorded is not deleted, because recording it takes less time.
pub async fn forget(context: &NodeContext, named: BTreeSet<Fingerprint>, unnamed: &mut Unnamed, patience: Duration) {
    let (data, mut memory) = (context.folder.path().to_owned(), std::mem::take(unnamed));
    let forgetting = blocking(move || {
        forget_in(&data, &named, &mut memory, Instant::now(), patience);
        memory
    });
    *unnamed = forgetting.await.unwrap_or_default();
}

fn forget_in(data: &Path, named: &BTreeSet<Fingerprint>, unnamed: &mut Unnamed, now: Instant, patience: Duration) {
    let _turn = FILES.lock();
    let here = others(data, named);
    unnamed.retain(|of, (kept, _)| here.get(of) == Some(kept));
    for (of, kept) in here {
        let (_, since) = *unnamed.entry(of).or_insert((kept, now));
        if patience <= now.saturating_duration_since(since)
            && let Err(error) = std::fs::remove_file(path(data, &of))
        {
            tracing::warn!(%error, "the secret of a webhook cannot be deleted");
        }
    }
}

/// The secrets that are here beside the named ones, and when each was kept last.
fn others(data: &Path, named: &BTreeSet<Fingerprint>) -> BTreeMap<Fingerprint, SystemTime> {
    // There is no folder before there is a secret.
    let files = std::fs::read_dir(data.join(FOLDER)).into_iter().flatten().flatten();
    let here = files.filter_map(|file| {
        let of = blake3::Hash::from_hex(file.file_name().to_str()?).ok()?;
        Some((*of.as_bytes(), file.metadata().and_then(|facts| facts.modified()).ok()?))
    });
    here.filter(|(of, _)| !named.contains(of)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_secret_is_found_by_its_fingerprint_and_damaged_is_not() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let secret = [7; 32];
        let of = fingerprint(&secret);
        assert_eq!(find(data.path(), &of), None);
        keep(data.path(), &secret).expect("a new folder");
        keep(data.path(), &secret).expect("it is there already");
        assert_eq!(find(data.path(), &of).as_deref(), Some(secret.as_slice()));
        let file = path(data.path(), &of);
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(!file.to_string_lossy().contains(&"07".repeat(8)), "the name does not show it");
        std::fs::write(&file, [8; 32]).expect("it is ours");
        assert_eq!(find(data.path(), &of), None);
    }

    #[test]
    fn what_is_kept_again_is_not_deleted_before_it_can_be_recorded() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (first, other, named) = ([7; 32], [8; 32], [9; 32]);
        for secret in [first, other, named] {
            keep(data.path(), &secret).expect("a new folder");
        }
        let long_ago = UNIX_EPOCH + Duration::from_secs(3600);
        for secret in [first, other] {
            let file = File::open(path(data.path(), &fingerprint(&secret))).expect("it is there");
            file.set_modified(long_ago).expect("it is ours");
        }
        let (names, patience) = (BTreeSet::from([fingerprint(&named)]), Duration::from_secs(60));
        let (mut unnamed, begun) = (Unnamed::new(), Instant::now());
        let mut forget_at = |now: Instant| {
            forget_in(data.path(), &names, &mut unnamed, now, patience);
            [first, other, named].map(|secret| find(data.path(), &fingerprint(&secret)).is_some())
        };
        assert_eq!(forget_at(begun), [true; 3], "whenever it was kept: it may be named since a moment ago no more");
        keep(data.path(), &first).expect("it is there already");
        assert_eq!(forget_at(begun + patience), [true, false, true], "it is about to be recorded");
        assert_eq!(forget_at(begun + 2 * patience), [false, false, true], "and was not");
    }
}
