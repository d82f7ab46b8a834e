//! Plays the text scenarios of capacity: every route, every refusal, every rejection.
//!
//! Every call is made natively and by the released wasm, and must give the same bytes.

use capacity::CapacityModule;
use statehouse_testkit::{ExpectFile, expect_file};

/// The released module of this version.
fn wasm() -> Vec<u8> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../releases/capacity-", env!("CARGO_PKG_VERSION"), ".wasm");
    std::fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}; `statehouse module release` makes it"))
}

fn check(file: &ExpectFile) {
    statehouse_testkit::check::<CapacityModule>(file, Some(&wasm()));
}

#[test]
fn planning() {
    check(&expect_file!["scenarios/planning.txt"]);
}

#[test]
fn ordering() {
    check(&expect_file!["scenarios/ordering.txt"]);
}

#[test]
fn combined() {
    check(&expect_file!["scenarios/combined.txt"]);
}

#[test]
fn refusals() {
    check(&expect_file!["scenarios/refusals.txt"]);
}
