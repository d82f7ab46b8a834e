//! A snapshot's files on their way between nodes: the node that was offered one fetches them, one stream for each file,
//! and resumes a partial file.
//!
//! An offer goes in. The folder `install` comes out. A stream carries pieces of bounded size. At most its window of
//! them is under way, and each piece has its own deadline: a large snapshot may take long, but a dead connection may
//! not. This file does not know when a snapshot is offered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use minicbor::{Decode, Encode};

use super::incoming::IncomingSnapshot;
use super::manifest::SnapshotFileFacts;
use super::{SnapshotError, Snapshots};
use crate::consensus::PeerError;
use crate::disk::{DiskFile, FileIdentity};
use crate::ids::{LogIndex, NodeId};
use crate::limits;
use crate::peer::{Call, GroupName, Network, ServiceError, Topic};

/// The most time that the next piece may take.
const PIECE_PATIENCE: Duration = Duration::from_secs(10);

/// The body of [`Topic::Snapshot`]: a file of the snapshot at a log index, from an offset to its end.
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct FileRequest {
    #[n(0)]
    last: u64,
    /// The file's position in the manifest.
    #[n(1)]
    file: u32,
    #[n(2)]
    offset: u64,
}

/// Why a snapshot was not received. The parts that are here stay for the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Takes the place of a file's number, and requests the manifest of the newest snapshot, which should have the entry at
/// `last`. Nodes of earlier releases have no such file, and nodes of later releases did not use `last`.
const NEWEST: u32 = u32::MAX;

/// The entry that should be in the newest snapshot, if the [`Topic::Snapshot`] request asks for that snapshot.
pub fn newest_wanted(body: &[u8]) -> Option<LogIndex> {
    let wanted: FileRequest = minicbor::decode(body).ok()?;
    (wanted.file == NEWEST).then_some(LogIndex(wanted.last))
}

/// Answers [`Topic::Snapshot`] with the requested bytes, in pieces. A file that is sent completely is checked on the
/// way.
pub fn serve(
    snapshots: &Arc<Snapshots>,
    body: &[u8],
) -> Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError> {
    let malformed = |error: minicbor::decode::Error| ServiceError::Malformed(error.to_string());
    let FileRequest { last, file, offset } = minicbor::decode(body).map_err(malformed)?;
    let failed = |error: SnapshotError| ServiceError::Failed(error.to_string());
    if file == NEWEST {
        let newest = snapshots.newest().ok_or_else(|| ServiceError::Failed("there is no snapshot here".to_owned()))?;
        return Ok(stream::once(async move { Ok(Bytes::clone(&newest.offer)) }).boxed());
    }
    let kept = snapshots.find(LogIndex(last)).ok_or_else(|| failed(SnapshotError::Gone(LogIndex(last))))?;
    let Some(facts) = kept.manifest.files.get(file as usize).cloned() else {
        return Err(ServiceError::Malformed(format!("the snapshot has no file {file}")));
    };
    let path = kept.folder.join(&facts.name);
    let opened = snapshots.open_file(&kept, &facts).map_err(failed)?;
    let identity = opened.identity().map_err(|error| failed(SnapshotError::io(&path, "read")(error)))?;
    // The offer is held too, so that the snapshot counts as being sent.
    let sent = pieces(opened, path, facts.size, offset, kept.offer.clone());
    if 0 < offset {
        return Ok(sent);
    }
    Ok(checked(sent, facts, identity, snapshots.clone()))
}

/// The same pieces, but the last one only if all of them match the manifest: a file that has rotted since is not passed
/// on.
fn checked(
    sent: BoxStream<'static, Result<Bytes, ServiceError>>,
    facts: SnapshotFileFacts,
    identity: FileIdentity,
    snapshots: Arc<Snapshots>,
) -> BoxStream<'static, Result<Bytes, ServiceError>> {
    let begin = (sent, blake3::Hasher::new(), Arc::new((facts, identity, snapshots)));
    let pieces = stream::try_unfold(begin, |(mut sent, mut hasher, source)| async move {
        let Some(piece) = sent.try_next().await? else { return Ok(None) };
        hasher.update(&piece);
        let facts = &source.0;
        if hasher.count() == facts.size && *hasher.finalize().as_bytes() != facts.hash {
            let error = ServiceError::Failed(format!("the file `{}` of the snapshot is damaged here", facts.name));
            let dropping = tokio::task::spawn_blocking(move || source.2.on_damaged(&source.0.name, source.1));
            dropping.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            return Err(error);
        }
        Ok(Some((piece, (sent, hasher, source))))
    });
    pieces.boxed()
}

/// A file of this size from an offset to its end, read while it is sent. `held` is kept until then.
pub fn pieces(
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    size: u64,
    offset: u64,
    held: impl Send + Sync + 'static,
) -> BoxStream<'static, Result<Bytes, ServiceError>> {
    let source = Arc::new((file, path, size, held));
    let pieces = stream::try_unfold(offset, move |offset| {
        let source = source.clone();
        async move {
            // This reads from disk, so it must not run on a thread of the runtime.
            let reading = tokio::task::spawn_blocking(move || {
                read_piece(&*source.0, source.2, offset)
                    .map_err(|error| ServiceError::Failed(SnapshotError::io(&source.1, "read")(error).to_string()))
            });
            let piece = reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            let next = offset + piece.len() as u64;
            Ok((!piece.is_empty()).then_some((piece, next)))
        }
    });
    pieces.boxed()
}

fn read_piece(file: &dyn DiskFile, size: u64, offset: u64) -> Result<Bytes, std::io::Error> {
    let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut piece = vec![0; left.min(limits::SNAPSHOT_PIECE_BYTES)];
    file.read_at(&mut piece, offset)?;
    Ok(piece.into())
}

/// The manifest of the newest snapshot that a node has of the partition. If no snapshot reaches `at_least`, a node that
/// has applied that entry makes one first: a cluster in which nothing happens makes none on its own.
pub async fn ask_newest(
    network: &dyn Network,
    node: NodeId,
    group: &GroupName,
    at_least: LogIndex,
) -> Result<Bytes, PeerError> {
    let wanted = FileRequest { last: at_least.0, file: NEWEST, offset: 0 };
    let body = minicbor::to_vec(wanted).expect("writing to memory cannot fail").into();
    let call = Call { topic: Topic::Snapshot, group: Some(group.clone()), body };
    let mut pieces = network.fetch(node, call, PIECE_PATIENCE).await?;
    pieces.try_next().await?.ok_or(PeerError::UnexpectedReply { node })
}

/// Fetches the missing parts of a snapshot from the node that offered it, checks every file, and accepts it. It is
/// durable on return.
pub async fn receive(
    network: &dyn Network,
    from: NodeId,
    group: &GroupName,
    incoming: IncomingSnapshot,
) -> Result<(), TransferError> {
    let mut incoming = incoming;
    let last = incoming.manifest.last().index.0;
    for (number, file) in (0_u32..).zip(incoming.manifest.files.clone()) {
        let (kept, missing) = {
            let file = file.clone();
            blocking(incoming, move |incoming| incoming.missing_from(&file)).await
        };
        incoming = kept;
        let Some(offset) = missing? else { continue };
        let wanted = FileRequest { last, file: number, offset };
        let body = minicbor::to_vec(wanted).expect("writing to memory cannot fail").into();
        let call = Call { topic: Topic::Snapshot, group: Some(group.clone()), body };
        fetch_file(network, from, call, &incoming, &file).await?;
        let (kept, checked) = blocking(incoming, move |incoming| incoming.check(&file)).await;
        incoming = kept;
        checked?;
    }
    let accepting = tokio::task::spawn_blocking(move || incoming.accept()).await;
    accepting.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(())
}

async fn fetch_file(
    network: &dyn Network,
    from: NodeId,
    call: Call,
    incoming: &IncomingSnapshot,
    file: &SnapshotFileFacts,
) -> Result<(), TransferError> {
    let mut pieces = network.fetch(from, call, PIECE_PATIENCE).await?;
    let mut appending = incoming.append(file)?;
    while let Some(piece) = pieces.try_next().await? {
        let (kept, written) = blocking(appending, move |appending| appending.write(&piece)).await;
        appending = kept;
        written?;
    }
    Ok(())
}

/// Runs work on files on a thread outside the runtime.
async fn blocking<T: Send + 'static, R: Send + 'static>(
    mut subject: T,
    work: impl FnOnce(&mut T) -> R + Send + 'static,
) -> (T, R) {
    let working = tokio::task::spawn_blocking(move || {
        let result = work(&mut subject);
        (subject, result)
    });
    working.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
