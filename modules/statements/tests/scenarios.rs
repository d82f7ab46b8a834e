//! Plays the text scenarios of the view over decisions of the wallet.
//!
//! The wallet is the released one, the view is called natively and as the released wasm, and both must give the same bytes.

use statehouse_testkit::{ExpectFile, expect_file};
use statements::Statements;

const WALLET: &[u8] = include_bytes!("../../releases/wallet-1.0.1.wasm");
const LIMITED: &[u8] = include_bytes!("../../releases/wallet-2.0.0.wasm");

/// What `statehouse module build` left here, or the released one of this version.
fn wasm() -> Option<Vec<u8>> {
    let name = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"), ".wasm");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    [folder.join(name), folder.join("../releases").join(name)].into_iter().find_map(|file| std::fs::read(file).ok())
}

fn check(file: &ExpectFile, source: &[u8]) {
    statehouse_testkit::check_view::<Statements>(file, source, wasm().as_deref());
}

#[test]
fn statements() {
    check(&expect_file!["scenarios/statements.txt"], WALLET);
}

#[test]
fn settlement_accounts_are_sums() {
    check(&expect_file!["scenarios/settlement.txt"], WALLET);
}

#[test]
fn what_the_view_does_not_know_is_not_answered() {
    check(&expect_file!["scenarios/unknown_events.txt"], LIMITED);
}
