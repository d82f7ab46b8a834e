//! Fetches entries that a node never had, because it was sent a snapshot of the state after them. They come from the
//! other nodes, and are for this node's archive.
//!
//! ```text
//! archiving finds a gap ─▶ a node that answers: its log or archive ─▶ pieces ─▶ hash: is it next? ─▶ archiving
//! ```
//! In: the place after which entries are missing, and the last of them. Out: these entries, in order. The caller checks
//! that this node's own entries follow the last one. Nothing is kept here.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use tokio::time::Instant;

use crate::consensus::PeerError;
use crate::ids::{Head, JournalIndex, NodeId, Position};
use crate::machine::entry::{Entry, EntryError};
use crate::partition::Partition;
use crate::partition::tail::{Start, Tail};
use crate::peer::{Call, GroupName, Pieces, ServiceError, Topic};
use crate::system::context::NodeContext;
use crate::system::messages::{decode, encode};

/// How long a node may take to find the place, and to send the next piece.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of entries in one piece; one larger entry goes alone.
const PIECE_BYTES: usize = 1 << 20;

/// Where a journal stands: its last entry, and the head after it.
pub type Stand = (JournalIndex, Head);

/// The body of [`Topic::History`].
#[derive(Clone, Copy, Debug, Encode, Decode)]
struct JournalFetchRequest {
    /// Asks for the entries after this one, where the journal has the head `head`.
    #[n(0)]
    after: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    head: [u8; 32],
    /// The last entry that is asked for.
    #[n(2)]
    last: u64,
}

/// Why a node does not give what is missing.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("it sent what cannot be read: {0}")]
    Malformed(#[from] ServiceError),
    #[error("it sent what is no entry: {0}")]
    Entry(#[from] EntryError),
    #[error("what it sent does not follow entry {0}: it has another history, or a damaged copy")]
    NotNext(JournalIndex),
    #[error("it sent nothing after entry {0}")]
    Ended(JournalIndex),
}

/// Answers [`Topic::History`]: what follows a place of the journal, from the log or from this node's archive.
pub async fn serve(
    partition: &Partition,
    body: &[u8],
) -> Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError> {
    let failed = |error: crate::partition::PartitionError| ServiceError::Failed(error.to_string());
    let JournalFetchRequest { after, head, last } = decode(body)?;
    let start = start_after(partition, (JournalIndex(after), Head(head)));
    let tail = Tail::open(partition, start, Instant::now() + PATIENCE).await.map_err(failed)?;
    let pieces = stream::try_unfold(tail, move |mut tail| async move {
        let (mut piece, mut size) = (Vec::new(), 0);
        while tail.position().index < JournalIndex(last) && size < PIECE_BYTES {
            let entry = if piece.is_empty() { Some(tail.next().await.map_err(failed)?) } else { tail.next_ready() };
            let Some(entry) = entry else { break };
            size += entry.entry().payload().len();
            piece.push(ByteVec::from(entry.entry().payload().to_vec()));
        }
        Ok((!piece.is_empty()).then(|| (encode(&piece), tail)))
    });
    Ok(pieces.boxed())
}

/// Where a tail starts that follows this place.
pub fn start_after(partition: &Partition, (index, Head(head)): Stand) -> Start {
    if index == JournalIndex(0) {
        return Start::Genesis;
    }
    let [a, b, c, d, ..] = head;
    Start::After(Position { partition: partition.id(), index, n: 0, head8: [a, b, c, d] })
}

/// Entries on their way from another node.
pub struct Incoming {
    pieces: Pieces,
    ready: VecDeque<Entry>,
    stand: Stand,
    last: JournalIndex,
}

impl Incoming {
    /// Asks a node for the entries after `stand`, up to `last`.
    ///
    /// # Errors
    /// The node does not answer, or does not have them.
    pub async fn open(
        context: &NodeContext,
        node: NodeId,
        group: &GroupName,
        stand: Stand,
        last: JournalIndex,
    ) -> Result<Self, HistoryError> {
        let (JournalIndex(after), Head(head)) = stand;
        let body = encode(&JournalFetchRequest { after, head, last: last.0 });
        let call = Call { topic: Topic::History, group: Some(group.clone()), body };
        let pieces = context.network.fetch(node, call, PATIENCE).await?;
        Ok(Self { pieces, ready: VecDeque::new(), stand, last })
    }

    /// The next entry, which follows the one before by its hash; `None` after the last one.
    ///
    /// # Errors
    /// The node does not send it. The entries that were given out before remain valid.
    pub async fn next(&mut self) -> Result<Option<Entry>, HistoryError> {
        let (index, head) = self.stand;
        if self.last <= index {
            return Ok(None);
        }
        if self.ready.is_empty() {
            let piece = self.pieces.try_next().await?.ok_or(HistoryError::Ended(index))?;
            for payload in decode::<Vec<ByteVec>>(&piece)? {
                self.ready.push_back(Entry::parse(Vec::from(payload).into())?);
            }
        }
        let entry = self.ready.pop_front().ok_or(HistoryError::Ended(index))?;
        if entry.header().index != index.next() || entry.header().parent != head {
            return Err(HistoryError::NotNext(index));
        }
        self.stand = (index.next(), entry.head_after());
        Ok(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Digest, Micros, ModuleId};
    use crate::machine::entry::{EntryKind, Header};

    fn tick((index, head): Stand) -> Entry {
        Entry::tick(Header {
            kind: EntryKind::Tick,
            index: index.next(),
            time: Micros(7),
            parent: head,
            seed: [0; 32],
            planner: ModuleId::ZERO,
            decider: ModuleId::ZERO,
            digest: Digest([0; 32]),
        })
    }

    /// Takes entries from these pieces, up to entry 3. Returns how many were given out, and how it ended.
    async fn take(pieces: Vec<Bytes>) -> (usize, Option<HistoryError>) {
        let pieces = stream::iter(pieces).map(Ok).boxed();
        let stand = (JournalIndex(0), Head([5; 32]));
        let mut incoming = Incoming { pieces, ready: VecDeque::new(), stand, last: JournalIndex(3) };
        let mut count = 0;
        loop {
            match incoming.next().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => return (count, None),
                Err(error) => return (count, Some(error)),
            }
        }
    }

    fn piece(entries: &[&Entry]) -> Bytes {
        encode(&entries.iter().map(|entry| ByteVec::from(entry.payload().to_vec())).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn only_what_follows_by_its_hash_is_given_out() {
        let first = tick((JournalIndex(0), Head([5; 32])));
        let second = tick((JournalIndex(1), first.head_after()));
        let third = tick((JournalIndex(2), second.head_after()));
        let fourth = tick((JournalIndex(3), third.head_after()));
        let all = [&first, &second, &third, &fourth];
        let whole = take(vec![piece(&all[..1]), piece(&all[1..])]).await;
        assert!(matches!(whole, (3, None)), "{whole:?}");
        let short = take(vec![piece(&all[..2])]).await;
        assert!(matches!(short, (2, Some(HistoryError::Ended(JournalIndex(2))))), "{short:?}");
        let empty = take(vec![piece(&all[..1]), piece(&[])]).await;
        assert!(matches!(empty, (1, Some(HistoryError::Ended(JournalIndex(1))))), "{empty:?}");
        let left_out = take(vec![piece(&[&first, &third])]).await;
        assert!(matches!(left_out, (1, Some(HistoryError::NotNext(JournalIndex(1))))), "{left_out:?}");
        let other = tick((JournalIndex(1), Head([6; 32])));
        let forked = take(vec![piece(&[&first, &other])]).await;
        assert!(matches!(forked, (1, Some(HistoryError::NotNext(JournalIndex(1))))), "{forked:?}");
        let torn = take(vec![piece(&all).slice(..20)]).await;
        assert!(matches!(torn, (0, Some(HistoryError::Malformed(_)))), "{torn:?}");
        let no_entry = take(vec![encode(&vec![ByteVec::from(vec![1, 2, 3])])]).await;
        assert!(matches!(no_entry, (0, Some(HistoryError::Entry(_)))), "{no_entry:?}");
    }
}
