//! Secrets by which webhooks are signed: on every node, and in no journal.
//!
//! ```text
//! create, rotate ─▶ kept here and on a majority ─▶ `system` records the fingerprint ─▶ nodes that lack it ask the others
//! ```
//! In: secrets, fingerprints. Out: the other. Each is a file in `<data>/webhook-secrets/`, named by its fingerprint and readable by its owner only;
//! between nodes it goes as everything else does. It does not know what is signed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::durable::{self, PRIVATE};
use crate::limits::{WEBHOOK_SECRET_BYTES_MAX, WEBHOOK_SECRET_BYTES_MIN};
use crate::peer::{Call, Topic};
use crate::system::cluster::ClusterError;
use crate::system::host::Host;

const FOLDER: &str = "webhook-secrets";
/// Makes a fingerprint of nothing but such secrets.
const CONTEXT: &str = "statehouse 1 webhook secret";
/// How long one other node may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// First byte of a message to another node: keep what follows, or find what has this fingerprint.
const KEEP: u8 = 1;
const FIND: u8 = 2;

/// What a journal may know of a secret. Secrets have at least 24 bytes, so that nobody guesses one by it.
pub type Fingerprint = [u8; 32];

pub fn fingerprint(secret: &[u8]) -> Fingerprint {
    blake3::derive_key(CONTEXT, secret)
}

fn path(folder: &Path, of: &Fingerprint) -> PathBuf {
    folder.join(FOLDER).join(file_of(of))
}

fn file_of(of: &Fingerprint) -> String {
    blake3::Hash::from_bytes(*of).to_hex().to_string()
}

/// Durable on return.
fn keep(data: &Path, secret: &[u8]) -> std::io::Result<()> {
    let of = fingerprint(secret);
    if path(data, &of).exists() {
        return Ok(());
    }
    let folder = data.join(FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    durable::write(&folder, &file_of(&of), PRIVATE, secret)?;
    durable::sync_dir(data)
}

/// What is damaged is as good as not there.
fn find(data: &Path, of: &Fingerprint) -> Option<Vec<u8>> {
    std::fs::read(path(data, of)).ok().filter(|secret| fingerprint(secret) == *of)
}

/// Answers another node.
pub async fn answer(host: &Arc<Host>, body: &[u8]) -> Result<Bytes, String> {
    let data = host.folder.path().to_owned();
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
/// The disk refuses, or fewer nodes than make a majority have kept it by the deadline.
pub async fn keep_on_majority(host: &Arc<Host>, secret: &[u8], deadline: Instant) -> Result<Fingerprint, ClusterError> {
    let (data, own) = (host.folder.path().to_owned(), secret.to_vec());
    let kept = blocking(move || keep(&data, &own)).await.and_then(|kept| kept.map_err(|error| error.to_string()));
    kept.map_err(|error| ClusterError::Invalid(format!("the secret cannot be kept on this node: {error}")))?;
    let message: Bytes = [&[KEEP], secret].concat().into();
    let patience = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
    let others = host.others();
    let asking = others.iter().map(|node| {
        let call = Call { topic: Topic::Secret, group: None, body: message.clone() };
        host.network().call(*node, call, patience)
    });
    let kept = 1 + join_all(asking).await.into_iter().filter(Result::is_ok).count();
    let all = 1 + others.len();
    if kept <= all / 2 {
        let detail =
            format!("only {kept} of {all} nodes have kept the secret: start a majority of them, and ask again");
        return Err(ClusterError::Invalid(detail));
    }
    Ok(fingerprint(secret))
}

/// The secret with this fingerprint: of this node, or else of another one, which this node then keeps as well.
pub async fn find_anywhere(host: &Arc<Host>, of: Fingerprint) -> Option<Vec<u8>> {
    let data = host.folder.path().to_owned();
    let own = data.clone();
    if let Some(secret) = blocking(move || find(&own, &of)).await.ok()? {
        return Some(secret);
    }
    for node in host.others() {
        let body = [&[FIND], of.as_slice()].concat().into();
        let call = Call { topic: Topic::Secret, group: None, body };
        let Ok(secret) = host.network().call(node, call, PATIENCE).await else { continue };
        if fingerprint(&secret) != of {
            continue;
        }
        let (data, kept) = (data.clone(), secret.clone());
        match blocking(move || keep(&data, &kept)).await {
            Ok(Ok(())) => tracing::info!(%node, "the secret of a webhook is kept here as well"),
            Ok(Err(error)) => tracing::warn!(%error, "the secret of a webhook cannot be kept here"),
            Err(error) => tracing::warn!(error, "the secret of a webhook cannot be kept here"),
        }
        return Some(secret.into());
    }
    None
}

/// Those of them that are not on this node.
pub fn missing(host: &Host, named: &BTreeSet<Fingerprint>) -> Vec<Fingerprint> {
    named.iter().filter(|of| !path(host.folder.path(), of).exists()).copied().collect()
}

/// Deletes the secrets that nothing has been signed by for so long. One that is about to be recorded is not deleted, for that takes less; `unnamed` is
/// since when they are known to be so.
pub fn forget(
    host: &Host,
    named: &BTreeSet<Fingerprint>,
    unnamed: &mut BTreeMap<Fingerprint, Instant>,
    patience: Duration,
) {
    let folder = host.folder.path().join(FOLDER);
    // There is no folder before there is a secret.
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let here = files.filter_map(|file| blake3::Hash::from_hex(file.file_name().to_str()?).ok());
    let here: BTreeSet<Fingerprint> = here.map(|of| *of.as_bytes()).filter(|of| !named.contains(of)).collect();
    unnamed.retain(|of, _| here.contains(of));
    for of in here {
        let since = *unnamed.entry(of).or_insert_with(Instant::now);
        if patience <= since.elapsed()
            && let Err(error) = std::fs::remove_file(path(host.folder.path(), &of))
        {
            tracing::warn!(%error, "the secret of a webhook cannot be deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
}
