//! The ids under which the calls of a command and its end are recorded, and the fingerprint of a participant's claim of
//! the client's id.
//!
//! | derivation | hashed for a call | hashed for the end |
//! |---|---|---|
//! | 1 | `command id 16 B, branch u16, do or undo u8, attempt u32` | `command id 16 B, "finish"` |
//! | 2 | `home partition u32, fingerprint 32 B`, then as in 1 | `home partition u32, fingerprint 32 B`, then as in 1 |
//!
//! In: what is recorded about a command. Out: ids. With derivation 1, two commands under one id make the same calls,
//! and a participant cannot tell them apart. The start of a command records its derivation; if it records none, it is
//! 1. It does not know who may use an id.

use minicbor::{Decode, Encode};

use crate::ids::{CommandId, Fingerprint, PartitionId};
use crate::saga::status::CallKey;

/// The rule that derives the ids. It is chosen when a command starts, and does not change while the command is in
/// flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Derivation {
    /// From the command's id alone, as in the first release.
    #[n(1)]
    ById,
    /// From the home and the content as well.
    #[n(2)]
    ByContent,
}

impl Derivation {
    /// What is recorded. The first release had one derivation only, and recorded nothing.
    pub fn recorded(self) -> Option<Self> {
        if self == Self::ById { None } else { Some(self) }
    }

    pub fn of_recorded(recorded: Option<Self>) -> Self {
        recorded.unwrap_or(Self::ById)
    }
}

/// What distinguishes a command from all others, even under the same id.
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
    /// The id under which a participant records a call, so that it recognizes a repeated one.
    pub fn call(&self, key: CallKey) -> CommandId {
        let CallKey { branch, call, attempt } = key;
        self.derive(&[&branch.to_le_bytes()[..], &[call as u8], &attempt.to_le_bytes()].concat())
    }

    /// The id under which the end of the command is recorded at home. The command's own id stands for its start.
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

    /// The fingerprint that a participant records with the client's id, so that no other command is carried out there
    /// under that id. It differs from the fingerprint of every command, so no command mistakes a claim for its own
    /// record.
    pub fn claim(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("statehouse 2026 claim of a command id");
        hasher.update(&self.home.0.to_le_bytes()).update(&self.fingerprint.0);
        Fingerprint(*hasher.finalize().as_bytes())
    }
}
