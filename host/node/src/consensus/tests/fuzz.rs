//! A fuzz target: the bytes of a membership, from an entry of the log or from a snapshot.
//!
//! In: any bytes. Out: nothing, if a membership that is accepted is written byte for byte. It does not know how inputs
//! are made.

use statehouse_fuzz::{Target, fuzz, within};

use super::formats::golden;
use crate::consensus::membership::{decode, encode};

#[test]
fn a_membership_that_is_accepted_is_written_byte_for_byte() {
    fuzz!(Target::new("membership").seeds([golden()]), |input| {
        let Ok((entry, membership)) = within(4096 + 128 * input.len(), || decode(input)) else { return };
        let again = encode(entry, &membership);
        // Four bytes are written as zeros and not read.
        assert_eq!((&again[..4], &again[8..]), (&input[..4], &input[8..]));
    });
}
