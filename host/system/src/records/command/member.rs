//! How the fields of a command stand in its body: an id is a number or a text there.
//!
//! In: members of bodies, within the bounds of their schema. Out: fields, or the refusal of a member that means
//! nothing. It does not know which command a member belongs to.

use std::collections::{BTreeMap, BTreeSet};

use statehouse_guest::Refusal;

use crate::features::FeatureLevel;
use crate::ids::{Micros, ModuleId, NodeId, PartitionId, Position};
use crate::key::PublicKey;
use crate::records::command::body::{AcceptLoss, AddNode, ListedNode};
use crate::records::loss_row::AcceptedLoss;
use crate::records::module_row::Mode;

/// A field of a command that stands as an `M` in the body.
pub trait BodyMember<M>: Sized {
    /// # Errors
    /// The member means nothing, in a body that keeps its schema.
    fn read(member: &M) -> Result<Self, Refusal>;
    /// `read` gives the same field again.
    fn write(&self) -> M;
}

/// Fields that are their own members.
macro_rules! as_they_are {
    ($($field:ty),*) => {$(
        impl BodyMember<$field> for $field {
            fn read(member: &$field) -> Result<Self, Refusal> {
                Ok(Clone::clone(member))
            }

            fn write(&self) -> $field {
                Clone::clone(self)
            }
        }
    )*};
}

/// Ids that are numbers in a body.
macro_rules! numbers {
    ($($field:ident: $number:ty;)*) => {$(
        impl BodyMember<$number> for $field {
            fn read(member: &$number) -> Result<Self, Refusal> {
                Ok(Self(*member))
            }

            fn write(&self) -> $number {
                self.0
            }
        }
    )*};
}

/// Fields that are texts in a body, with the refusal of a text that is none: code, detail and member.
macro_rules! texts {
    ($($field:ty: $code:literal, $detail:literal, $member:literal;)*) => {$(
        impl BodyMember<String> for $field {
            fn read(member: &String) -> Result<Self, Refusal> {
                member.parse().map_err(|_| refusal($code, 422, $detail, Some($member)))
            }

            fn write(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

as_they_are!(String, u32, u64, bool, Option<String>, Vec<String>);

numbers! {
    NodeId: u64;
    PartitionId: u32;
    FeatureLevel: u32;
    Micros: i64;
}

texts! {
    ModuleId: "invalid_module", "the module's id is 64 hexadecimal digits", "module";
    PublicKey: "invalid_key", "a key is 64 hexadecimal digits", "key";
    Position: "invalid_position", "a position is partition.index.n~head8", "position";
}

impl BodyMember<String> for Mode {
    fn read(member: &String) -> Result<Self, Refusal> {
        let detail = "the mode is proved, without_proof or rollback";
        Self::parse(member).ok_or_else(|| refusal("invalid_mode", 422, detail, Some("mode")))
    }

    fn write(&self) -> String {
        self.name().to_owned()
    }
}

/// The fingerprint of a secret.
impl BodyMember<String> for [u8; 32] {
    fn read(member: &String) -> Result<Self, Refusal> {
        let detail = "the fingerprint of a secret is 64 hexadecimal digits";
        let hash = blake3::Hash::from_hex(member);
        hash.map(Into::into).map_err(|_| refusal("invalid_secret", 422, detail, Some("secret")))
    }

    fn write(&self) -> String {
        blake3::Hash::from_bytes(*self).to_string()
    }
}

impl BodyMember<Vec<String>> for Vec<Position> {
    fn read(members: &Vec<String>) -> Result<Self, Refusal> {
        members.iter().map(Position::read).collect()
    }

    fn write(&self) -> Vec<String> {
        self.iter().map(Position::write).collect()
    }
}

impl BodyMember<Vec<AddNode>> for BTreeMap<NodeId, String> {
    fn read(members: &Vec<AddNode>) -> Result<Self, Refusal> {
        let nodes: Self = members.iter().map(|AddNode { id, peer }| (NodeId(*id), peer.clone())).collect();
        check_each_once(nodes.len(), members.len())?;
        Ok(nodes)
    }

    fn write(&self) -> Vec<AddNode> {
        self.iter().map(|(id, peer)| AddNode { id: id.0, peer: peer.clone() }).collect()
    }
}

impl BodyMember<Vec<ListedNode>> for BTreeSet<NodeId> {
    fn read(members: &Vec<ListedNode>) -> Result<Self, Refusal> {
        let nodes: Self = members.iter().map(|node| NodeId(node.id)).collect();
        check_each_once(nodes.len(), members.len())?;
        Ok(nodes)
    }

    fn write(&self) -> Vec<ListedNode> {
        self.iter().map(|node| ListedNode { id: node.0 }).collect()
    }
}

/// Nodes in order. One that is named twice stays there twice, and the rows then refuse the list.
impl BodyMember<Vec<ListedNode>> for Vec<NodeId> {
    fn read(members: &Vec<ListedNode>) -> Result<Self, Refusal> {
        let mut nodes: Self = members.iter().map(|node| NodeId(node.id)).collect();
        nodes.sort_unstable();
        Ok(nodes)
    }

    fn write(&self) -> Vec<ListedNode> {
        self.iter().map(|node| ListedNode { id: node.0 }).collect()
    }
}

impl BodyMember<AcceptLoss> for AcceptedLoss {
    fn read(body: &AcceptLoss) -> Result<Self, Refusal> {
        let AcceptLoss { machine, partition, node, by, why, time, refusal } = body;
        let (machine, by, why, refusal) = (machine.clone(), by.clone(), why.clone(), refusal.clone());
        Ok(Self { machine, partition: *partition, node: *node, by, why, time: *time, refusal })
    }

    fn write(&self) -> AcceptLoss {
        let Self { machine, partition, node, by, why, time, refusal } = self.clone();
        AcceptLoss { machine, partition, node, by, why, time, refusal }
    }
}

/// Checks that a list of nodes has at least one, and each once.
fn check_each_once(distinct: usize, listed: usize) -> Result<(), Refusal> {
    if 0 < listed && distinct == listed {
        return Ok(());
    }
    Err(refusal("invalid_nodes", 422, "name at least one node, and each once", Some("nodes")))
}

pub fn refusal(code: &str, status: u16, detail: &str, field: Option<&str>) -> Refusal {
    Refusal { code: code.to_owned(), status, detail: detail.to_owned(), field: field.map(str::to_owned) }
}
