//! Plays the text scenarios of this module.
//!
//! Every call is made natively and, where the module has been built, as wasm; both must give the same bytes.

use statehouse_testkit::expect_file;
use toll::Toll;

/// The module as wasm: what `statehouse module build` left here, or the released one of this version.
fn wasm() -> Option<Vec<u8>> {
    let name = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"), ".wasm");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    [folder.join(name), folder.join("../releases").join(name)].into_iter().find_map(|file| std::fs::read(file).ok())
}

#[test]
fn paying() {
    statehouse_testkit::check::<Toll>(&expect_file!["scenarios/paying.txt"], wasm().as_deref());
}
