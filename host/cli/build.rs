//! Embeds what `statehouse module new` writes.
//!
//! Out comes `embedded_sources.rs`, one list of (path in the checkout, text) of the SDK and of the templates. It does
//! not know what the texts mean.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

const FOLDERS: [&str; 7] = [
    "guest-sdk/src",
    "guest-sdk/abi/src",
    "guest-sdk/macros/src",
    "guest-sdk/projection/src",
    "guest-sdk/testkit/src",
    "modules/counter",
    "modules/double_charges",
];
const FILES: [&str; 6] = [
    "Cargo.toml",
    "guest-sdk/Cargo.toml",
    "guest-sdk/abi/Cargo.toml",
    "guest-sdk/macros/Cargo.toml",
    "guest-sdk/projection/Cargo.toml",
    "guest-sdk/testkit/Cargo.toml",
];

fn main() -> io::Result<()> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let checkout = package.ancestors().nth(2).expect("the package lies in a folder of a folder of the checkout");
    let mut files: Vec<PathBuf> = FILES.iter().map(|file| checkout.join(file)).collect();
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={}", checkout.join(folder).display());
        collect(&checkout.join(folder), &mut files)?;
    }
    files.sort();
    let mut list = String::from("pub const SOURCES: &[(&str, &str)] = &[\n");
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        let name = file.strip_prefix(checkout).expect("every file lies in the checkout");
        writeln!(list, "    ({name:?}, include_str!({file:?})),").expect("writing to text cannot fail");
    }
    list.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("embedded_sources.rs"), list)
}

/// All files of a folder that are source, manifest or scenario.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if path.is_dir() {
            collect(&path, files)?;
        } else if ["rs", "toml", "txt"].contains(&extension) {
            files.push(path);
        }
    }
    Ok(())
}
