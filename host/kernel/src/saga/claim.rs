//! What a partition records when a command needs it: a claim of the client's id if the id is free, a refusal if the id
//! belongs to another command there.
//!
//! In: both commands. Out: the recorded refusal, which names the fields that differ, and those fields read back from
//! it. The refusal is a rejection like that of a module, with one more member. It does not know how the owner of an id
//! is found.

use minicbor::{Decode, Encode};
use statehouse_abi::cold::Rejection;
use statehouse_abi::value::Value;

use crate::ids::Position;

/// The code of the refusal.
pub const ID_REUSED: &str = "id_reused";

/// The code of a recorded claim that a partition grants before the confirm comes. Its steps are not carried out yet.
pub const CLAIMED: &str = "claimed";

/// CBOR of what is recorded for a claim. For the rows of the partition it is a refusal, since no step is carried out.
pub fn claimed() -> Vec<u8> {
    let detail = "the partition keeps the id for this command; the steps come with its confirm".to_owned();
    minicbor::to_vec(Rejection { code: CLAIMED.to_owned(), detail }).expect("a vector takes all bytes")
}

/// A `Rejection` of the ABI with a member that only the host reads.
#[derive(Encode, Decode)]
#[cbor(map)]
struct ReuseRejection {
    #[n(0)]
    code: String,
    #[n(1)]
    detail: String,
    #[n(2)]
    fields: Option<Vec<String>>,
}

/// CBOR of the refusal. The other command is recorded at `position`; there are no `fields` if its content was released.
pub fn refusal(fields: Option<Vec<String>>, position: Position) -> Vec<u8> {
    let difference = match &fields {
        Some(fields) => format!("; it differs in {}", fields.join(", ")),
        None => String::new(),
    };
    let detail = format!(
        "this id belongs to a command with other content in a partition that both need, recorded at \
         {position}{difference}; use a new id"
    );
    let reused = ReuseRejection { code: ID_REUSED.to_owned(), detail, fields };
    minicbor::to_vec(&reused).expect("a vector takes all bytes")
}

/// The fields that a refusal names; none for a rejection of another kind.
pub fn fields_of(rejection: &[u8]) -> Option<Vec<String>> {
    let reused: ReuseRejection = minicbor::decode(rejection).ok()?;
    reused.fields.filter(|_| reused.code == ID_REUSED)
}

/// A command's name and canonical body.
pub type CommandContent<'a> = (&'a str, &'a [u8]);

/// The fields in which the bodies of two commands differ: `command` if even their names differ, `home` if nothing else
/// does.
pub fn different_fields(ours: CommandContent<'_>, recorded: CommandContent<'_>) -> Vec<String> {
    if ours.0 != recorded.0 {
        return vec!["command".to_owned()];
    }
    let bodies = (Value::from_cbor(ours.1), Value::from_cbor(recorded.1));
    let (Ok(Value::Map(ours)), Ok(Value::Map(recorded))) = bodies else { return vec!["body".to_owned()] };
    let all = ours.iter().chain(&recorded).map(|(key, _)| key);
    let value = |pairs: &[(String, Value)], key: &str| {
        pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    };
    let mut fields: Vec<String> = all.filter(|key| value(&ours, key) != value(&recorded, key)).cloned().collect();
    fields.sort();
    fields.dedup();
    if fields.is_empty() { vec!["home".to_owned()] } else { fields }
}
