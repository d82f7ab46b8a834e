//! A fuzz target: rows of the phase status table, as a damaged store or another node's snapshot may have them.
//!
//! In: any bytes. Out: nothing, if a row that is accepted is written again as it was read. It does not know how inputs
//! are made.

use std::path::Path;

use statehouse_fuzz::{Target, fuzz, within};

use super::*;

#[test]
fn a_row_that_is_accepted_is_written_as_it_was() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/saga/golden");
    fuzz!(Target::new("phase_row").files(&golden, |_| true), |input| {
        let Ok(saga) = within(4096 + 128 * input.len(), || Saga::of_row(input)) else { return };
        let row = saga.to_row();
        let back = Saga::of_row(&row).expect("what was read can be written");
        assert_eq!(back.to_row(), row);
        assert_eq!(back.identity(), saga.identity());
    });
}
