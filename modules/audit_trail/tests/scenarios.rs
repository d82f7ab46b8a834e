//! Plays the text scenario of the view over decisions of the wallet.
//!
//! The wallet is the released one, the view is called natively and as the released wasm, and both must give the same bytes.

use audit_trail::AuditTrail;
use statehouse_testkit::expect_file;

const WALLET: &[u8] = include_bytes!("../../releases/wallet-1.0.1.wasm");

/// What `statehouse module build` left here, or the released one of this version.
fn wasm() -> Option<Vec<u8>> {
    let name = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"), ".wasm");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    [folder.join(name), folder.join("../releases").join(name)].into_iter().find_map(|file| std::fs::read(file).ok())
}

#[test]
fn the_scenario_is_as_expected() {
    statehouse_testkit::check_view::<AuditTrail>(&expect_file!["scenarios/audit_trail.txt"], WALLET, wasm().as_deref());
}
