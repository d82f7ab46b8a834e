//! Fuzz targets: offers of snapshots, their replies, and the file of what other nodes were seen to hold.
//!
//! In: any bytes. Out: nothing, if what is accepted is written as it was read, and needs memory in proportion to its
//! bytes. It does not know how inputs are made.

use statehouse_fuzz::{Target, fuzz, within};

use super::released::{offer, replies};
use super::seen::{forged, open_with, written};
use super::*;
use crate::peer::Offer;
use crate::peer::offer::decode_reply;

#[test]
fn an_offer_or_its_reply_that_is_accepted_is_written_as_it_was() {
    let replies = replies().map(|reply| Offer::encode_reply(&reply).to_vec());
    fuzz!(Target::new("offer").seeds([offer().encode().to_vec()]).seeds(replies), |input| {
        if let Ok(offer) = within(4096 + 8 * input.len(), || Offer::decode(input)) {
            assert_eq!(Offer::decode(&offer.encode()).ok(), Some(offer));
        }
        if let Some(reply) = within(4096 + 8 * input.len(), || decode_reply(input)) {
            assert_eq!(decode_reply(&Offer::encode_reply(&reply)), Some(reply));
        }
    });
}

#[test]
fn a_book_that_is_accepted_names_what_it_has() {
    fuzz!(Target::new("seen_book").seeds([written()]).iterations(5_000), |input| {
        let content = input.split_last_chunk::<32>().map_or(input, |(content, _)| content);
        for bytes in [input.to_vec(), forged(content)] {
            let bound = (64 << 10) + 64 * bytes.len();
            let (_, opened) = within(bound, || open_with(bytes));
            if let Ok(book) = opened {
                for (group, entry) in book.all_of(CALLER) {
                    assert_eq!(book.of(CALLER, &group), Ok(Some(entry)));
                }
            }
        }
    });
}
