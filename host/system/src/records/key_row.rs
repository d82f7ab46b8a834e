//! What `system` knows about the keys with which nodes sign: every key that a node ever had, removed nodes included.
//!
//! In: what nodes say about themselves. Out: rejections, and the row. A key is never deleted, because what it signed
//! stays signed. It is written against the SDK like any module, and knows nothing of certificates.

use statehouse_guest::Value;
use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};

use crate::ids::NodeId;
use crate::key::PublicKey;
use crate::records::rejection::Rejection;

/// Suffix of the row with all keys. A machine's name never begins with `#`.
pub const KEYS: &[u8] = b"#keys";
/// How many keys one node may ever have. A node gets a new key only if somebody has removed its key file.
const NODE_KEYS_MAX: usize = 16;

/// The keys of all nodes, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct KeysRow {
    pub keys: Vec<KeyRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct KeyRow {
    pub node: u64,
    pub key: [u8; 32],
    /// When it was recorded, microseconds since 1970.
    pub time: i64,
}

impl KeyRow {
    pub fn node(&self) -> NodeId {
        NodeId(self.node)
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::of(self.key)
    }
}

impl KeysRow {
    /// Whether the key is new. A key belongs to one node for ever.
    pub fn check(&self, node: u64, key: [u8; 32]) -> Result<bool, Rejection> {
        match self.keys.iter().find(|known| known.key == key) {
            Some(known) if known.node == node => return Ok(false),
            Some(known) => return Err(Rejection::KeyOfOther { node: known.node }),
            None => {}
        }
        let count = self.keys.iter().filter(|known| known.node == node).count();
        if NODE_KEYS_MAX <= count { Err(Rejection::TooManyKeys) } else { Ok(true) }
    }

    pub fn value(&self) -> Value {
        Value::Array(self.keys.iter().map(|key| key_value(key.node, key.key)).collect())
    }
}

pub fn key_value(node: u64, key: [u8; 32]) -> Value {
    Value::map([("node", Value::Int(node.into())), ("key", Value::text(PublicKey::of(key).to_string()))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recorded_once_and_belongs_to_one_node() {
        let mut row = KeysRow::default();
        assert_eq!(row.check(1, [1; 32]).ok(), Some(true));
        row.keys.push(KeyRow { node: 1, key: [1; 32], time: 7 });
        assert_eq!(row.check(1, [1; 32]).ok(), Some(false), "it says so at every start");
        assert!(matches!(row.check(2, [1; 32]), Err(Rejection::KeyOfOther { node: 1 })));
        for number in 2..=NODE_KEYS_MAX as u8 {
            assert_eq!(row.check(1, [number; 32]).ok(), Some(true));
            row.keys.push(KeyRow { node: 1, key: [number; 32], time: 7 });
        }
        assert!(matches!(row.check(1, [99; 32]), Err(Rejection::TooManyKeys)));
        assert_eq!(row.check(2, [99; 32]).ok(), Some(true), "another node has its own");
    }
}
