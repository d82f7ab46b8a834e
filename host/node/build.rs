//! Compiles the protocol between nodes.
//!
//! Out comes `statehouse.peer.v1.rs`, the messages and service of `proto/peer.proto`. It needs no `protoc`, and does
//! not know what the messages mean.

use std::path::PathBuf;
use std::{env, io};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("proto");
    let protocol = folder.join("peer.proto");
    println!("cargo::rerun-if-changed={}", protocol.display());
    let descriptors = protox::compile([&protocol], [&folder]).map_err(io::Error::other)?;
    // Payloads stay what they were on the wire: slices of the bytes that came in.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)
}
