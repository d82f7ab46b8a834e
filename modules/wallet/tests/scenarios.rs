//! Plays the text scenarios of the wallet: every route, every refusal, every rejection.
//!
//! Every call is made natively and by the released wasm, and must give the same bytes.

use statehouse_testkit::{ExpectFile, expect_file};
use wallet::WalletModule;

/// The released module of this version.
fn wasm() -> Vec<u8> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../releases/wallet-", env!("CARGO_PKG_VERSION"), ".wasm");
    std::fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}; `statehouse module release` makes it"))
}

fn check(file: &ExpectFile) {
    statehouse_testkit::check::<WalletModule>(file, Some(&wasm()));
}

#[test]
fn transfers() {
    check(&expect_file!["scenarios/transfers.txt"]);
}

#[test]
fn settlement() {
    check(&expect_file!["scenarios/settlement.txt"]);
}

#[test]
fn lifecycle() {
    check(&expect_file!["scenarios/lifecycle.txt"]);
}

#[test]
fn refusals() {
    check(&expect_file!["scenarios/refusals.txt"]);
}

#[test]
fn phases() {
    check(&expect_file!["scenarios/phases.txt"]);
}
