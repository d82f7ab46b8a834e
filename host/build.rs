//! Embeds what `statehouse module new` writes, and compiles the protocol between nodes.
//!
//! Out come `embedded_sources.rs`, one list of (path in the checkout, text) of the SDK and of the templates, and
//! `statehouse.peer.v1.rs`, the messages and service of `proto/peer.proto`. It needs no `protoc`, and does not know
//! what the texts and messages mean.

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
    let host = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    embed_sources(&host)?;
    compile_protocol(&host.join("proto"))
}

fn compile_protocol(folder: &Path) -> io::Result<()> {
    let protocol = folder.join("peer.proto");
    println!("cargo::rerun-if-changed={}", protocol.display());
    let descriptors = protox::compile([&protocol], [folder]).map_err(io::Error::other)?;
    // Payloads stay what they were on the wire: slices of the bytes that came in.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)
}

fn embed_sources(host: &Path) -> io::Result<()> {
    let checkout = host.parent().expect("the host lies in the checkout");
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
