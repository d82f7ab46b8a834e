//! Why a body or a parameter does not satisfy its schema, and where.
//!
//! In: nothing. Out: a fault with words for people and a JSON pointer for programs. It knows nothing of statuses.

/// A fault and the JSON pointer (RFC 6901) of the value that has it; empty for the whole body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", place(.pointer))]
pub struct BodyError {
    pub pointer: String,
    pub fault: JsonFault,
}

fn place(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!("`{pointer}`: ") }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// The bytes are no JSON or no CBOR at all, or something follows the value.
    #[error("{0}")]
    Malformed(String),
    #[error("this field is unknown; leave it out")]
    UnknownField,
    #[error("this field is given twice")]
    DuplicateField,
    #[error("this field is required")]
    MissingField,
    #[error("this field is taken from the path; leave it out of the body")]
    GivenByPath,
    #[error("expected {expected}, found {found}")]
    WrongType { expected: &'static str, found: &'static str },
    #[error("expected an integer of at most 64 bits, without fraction or exponent")]
    NotInteger,
    #[error("expected an integer from {min} to {max}")]
    OutOfRange { min: i64, max: i64 },
    #[error("expected at least {min} characters")]
    TooShort { min: u32 },
    #[error("expected at most {max} characters")]
    TooLong { max: u32 },
    #[error("expected one of {}", .values.join(", "))]
    NotListed { values: Vec<String> },
    #[error("expected a hyphenated uuid, like 018f0000-0000-7000-8000-000000000001")]
    NotUuid,
    #[error("expected letters, digits and . _ : - only, and @ at most as the first character")]
    NotName,
    #[error("expected at most {max} items")]
    TooMany { max: u32 },
    #[error("nested more than {max} deep")]
    TooDeep { max: usize },
    #[error("a value of this kind cannot be given as text")]
    NotText,
}

impl JsonFault {
    /// This fault in the member `key` of the whole.
    pub fn at(self, key: &str) -> BodyError {
        BodyError { pointer: pointer(key), fault: self }
    }

    pub fn at_whole(self) -> BodyError {
        BodyError { pointer: String::new(), fault: self }
    }
}

/// The JSON pointer of a member.
pub fn pointer(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}
