//! A rejection as an entry records it. This is the only file that reads one.
//!
//! In: the bytes of a rejected group. Out: its code and detail. No version of this program has recorded anything else,
//! so a caller shows a stand-in for bytes that cannot be read. It does not know what a code means.

use statehouse_abi::cold::Rejection;

/// The code of the stand-in for a rejection that cannot be read.
pub const UNREADABLE: &str = "unreadable";

/// Why bytes are no rejection.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct UnreadableRejection(#[from] minicbor::decode::Error);

impl UnreadableRejection {
    /// What is shown in place of the rejection: the code [`UNREADABLE`], and why it cannot be read.
    pub fn stand_in(&self) -> Rejection {
        Rejection { code: UNREADABLE.to_owned(), detail: self.to_string() }
    }
}

/// Reads a recorded rejection.
///
/// # Errors
/// The bytes are none.
pub fn read_rejection(bytes: &[u8]) -> Result<Rejection, UnreadableRejection> {
    Ok(minicbor::decode(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_and_anything_else_has_a_stand_in() {
        let recorded = Rejection { code: "funds".to_owned(), detail: "too little".to_owned() };
        let bytes = minicbor::to_vec(&recorded).expect("a vector takes all bytes");
        let read = read_rejection(&bytes).expect("a rejection");
        assert_eq!((read.code, read.detail), (recorded.code, recorded.detail));
        let failed = read_rejection(&bytes[..bytes.len() - 1]).expect_err("it is cut");
        let stand_in = failed.stand_in();
        assert_eq!(stand_in.code, UNREADABLE);
        assert_eq!(
            stand_in.detail,
            minicbor::decode::<Rejection>(&bytes[..bytes.len() - 1]).expect_err("cut").to_string()
        );
    }
}
