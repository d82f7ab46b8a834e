//! Under which ids the calls of a command and its end are recorded, and how a participant's claim of the client's id reads.
//!
//! | derivation | hashed for a call | hashed for the end |
//! |---|---|---|
//! | 1 | `command id 16 B, branch u16, do or undo u8, attempt u32` | `command id 16 B, "finish"` |
//! | 2 | `home partition u32, fingerprint 32 B`, then as in 1 | `home partition u32, fingerprint 32 B`, then as in 1 |
//!
//! In: what is recorded of a command. Out: ids. With derivation 1, two commands under one id make the same calls, and a participant cannot tell
//! them apart. The start of a command records which one it uses; without a word it is 1. It does not know who may use an id.

use minicbor::{Decode, Encode};

use crate::ids::{CommandId, Fingerprint, PartitionId};
use crate::saga::status::CallKey;

/// Which rule derives the ids; chosen when a command starts, and never changed while it is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Derivation {
    /// From the command's id alone: what the first release did.
    #[n(1)]
    ById,
    /// From home and content as well.
    #[n(2)]
    ByContent,
}

impl Derivation {
    /// As it is recorded: the first release knew only one, and wrote nothing.
    pub fn recorded(self) -> Option<Self> {
        if self == Self::ById { None } else { Some(self) }
    }

    pub fn of_recorded(recorded: Option<Self>) -> Self {
        recorded.unwrap_or(Self::ById)
    }
}

/// What tells one command from every other, also under the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The id that the client chose.
    pub command: CommandId,
    /// The partition of its home entity, which coordinates it.
    pub home: PartitionId,
    pub fingerprint: Fingerprint,
    pub derivation: Derivation,
}

impl Identity {
    /// The id under which a participant records a call, so that it can tell a second time from the first.
    pub fn call(&self, key: CallKey) -> CommandId {
        let CallKey { branch, call, attempt } = key;
        self.derive(&[&branch.to_le_bytes()[..], &[call as u8], &attempt.to_le_bytes()].concat())
    }

    /// The id under which the end of the command is recorded at home; its own stands for its start.
    pub fn end(&self) -> CommandId {
        self.derive(b"finish")
    }

    fn derive(&self, what: &[u8]) -> CommandId {
        let mut hasher = match self.derivation {
            Derivation::ById => blake3::Hasher::new_derive_key("statehouse 2026 ids of the calls of a command"),
            Derivation::ByContent => {
                let mut hasher = blake3::Hasher::new_derive_key("statehouse 2026 ids of calls by home and content");
                hasher.update(&self.home.0.to_le_bytes()).update(&self.fingerprint.0);
                hasher
            }
        };
        hasher.update(&self.command.0).update(what);
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        CommandId(id)
    }

    /// What a participant records beside the client's id, so that nobody else's command is carried out under it there. It is no command's
    /// fingerprint, so that a command of that partition never takes a claim for its own record.
    pub fn claim(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("statehouse 2026 claim of a command id");
        hasher.update(&self.home.0.to_le_bytes()).update(&self.fingerprint.0);
        Fingerprint(*hasher.finalize().as_bytes())
    }
}
