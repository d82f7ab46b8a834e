//! Every identifier that is a number or a hash, as a type of its own, and the position that clients see.
//!
//! In: numbers, hashes, text. Out: ids, and their text. Ids have no arithmetic except `next` and `distance_to`. They
//! know nothing of what they identify.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $number:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl $name {
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("ids are never exhausted in the life of a cluster"))
            }

            /// How many steps `later` lies ahead of this id; 0 if it does not.
            pub fn distance_to(self, later: Self) -> $number {
                later.0.saturating_sub(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id!(
    /// A process of the cluster.
    NodeId,
    u64
);
number_id!(
    /// A share of a machine's entities: one Raft group, one ordered stream.
    PartitionId,
    u32
);
number_id!(
    /// A term of Raft.
    Term,
    u64
);
number_id!(
    /// Raft's index of a log entry; blank, membership and void entries count.
    LogIndex,
    u64
);
number_id!(
    /// Number of an effective entry in a partition's journal; the first is 1, genesis is 0.
    JournalIndex,
    u64
);
number_id!(
    /// Byte offset in a partition's log stream.
    Lsn,
    u64
);

number_id!(
    /// The formats and rules that all nodes of a cluster understand; see the host's `features.rs`.
    FeatureLevel,
    u32
);

/// The identity of a log entry: two entries with the same id have the same content on every replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub term: Term,
    /// The leader that proposed it.
    pub node: NodeId,
    pub index: LogIndex,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.{}", self.term, self.node, self.index)
    }
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            pub const ZERO: Self = Self([0; 32]);

            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// The first four bytes as eight hexadecimal digits: enough to recognise the hash.
            pub fn short(&self) -> String {
                blake3::Hash::from_bytes(self.0).to_hex()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let hash = blake3::Hash::from_hex(text).map_err(|_| IdError::Hash(text.to_owned()))?;
                Ok(Self(*hash.as_bytes()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_id!(
    /// One compiled version of a machine's logic: blake3 of its wasm bytes.
    ModuleId
);
hash_id!(
    /// The journal's chain hash: `head' = blake3(head ‖ entry payload)`.
    Head
);
hash_id!(
    /// blake3 of the row writes of a batch.
    Digest
);
hash_id!(
    /// blake3 of a command's name and canonical body: what "the same content" means for one id.
    Fingerprint
);

impl Fingerprint {
    /// The fingerprint of a command, from its name and its canonical body.
    pub fn of_command(name: &str, body: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(name.len() as u32).to_le_bytes()).update(name.as_bytes()).update(body);
        Self(*hasher.finalize().as_bytes())
    }
}

/// The cluster that a node belongs to: chosen when its first node starts, and never changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// The id that a client chose for its command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub [u8; 16]);

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandId({self})")
    }
}

impl FromStr for CommandId {
    type Err = IdError;

    /// Accepts the hyphenated form only, in either case.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let hyphenated = text.len() == 36;
        let uuid = uuid::Uuid::try_parse(text).ok().filter(|_| hyphenated);
        uuid.map(|uuid| Self(uuid.into_bytes())).ok_or_else(|| IdError::Command(text.to_owned()))
    }
}

/// Microseconds since 1970-01-01 UTC: an entry's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

/// The place of an event in the journal of a partition: `partition.index.n~head8`.
///
/// `head8` is the first four bytes of the head after the entry, so that a position of another history is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub partition: PartitionId,
    pub index: JournalIndex,
    /// Counts the events and rejections of the entry. Those of one command all mean the state after the command.
    pub n: u32,
    pub head8: [u8; 4],
}

impl Position {
    /// The `n` that means all of the entry, however many events it has.
    pub const WHOLE: u32 = u32::MAX;
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.head8;
        write!(f, "{}.{}.{}~{a:02x}{b:02x}{c:02x}{d:02x}", self.partition, self.index, self.n)
    }
}

impl FromStr for Position {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let (numbers, head8) = text.split_once('~')?;
            let mut numbers = numbers.split('.');
            let partition = PartitionId(numbers.next()?.parse().ok()?);
            let index = JournalIndex(numbers.next()?.parse().ok()?);
            let n = numbers.next()?.parse().ok()?;
            let head8 = u32::from_str_radix(head8, 16).ok().filter(|_| head8.len() == 8)?.to_be_bytes();
            numbers.next().is_none().then_some(Self { partition, index, n, head8 })
        };
        parse().ok_or_else(|| IdError::Position(text.to_owned()))
    }
}

/// Why a text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("`{0}` is no hash: expected 64 hexadecimal digits")]
    Hash(String),
    #[error("`{0}` is no command id: expected a hyphenated uuid")]
    Command(String),
    #[error("`{0}` is no position: expected partition.index.n~head8, like 0.42.0~1a2b3c4d")]
    Position(String),
}
