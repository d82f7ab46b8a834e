//! The kernel is built for wasm32-unknown-unknown, too: the target has no clock, thread, socket or file that the kernel
//! could depend on, and an auditor may run the kernel where nothing else of Statehouse runs.
//!
//! In: the kernel's source, and a compiler for modules if this machine has one. Without one the test says so and checks
//! nothing; `statehouse module build` fetches one.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::build::cargo;
use super::toolchain::{TARGET, Toolchain, cache_folder};

/// Adds a line to the file in which `make test` collects the tests that could not run.
fn skipped(why: &str) {
    println!("skipped: {why}");
    if let Some(path) = std::env::var_os("STATEHOUSE_SKIPPED") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("the file can be opened");
        file.write_all(format!("the_kernel_builds_for_wasm: {why}\n").as_bytes()).expect("it can be written");
    }
}

#[test]
fn the_kernel_builds_for_wasm() {
    let Some(toolchain) = Toolchain::find_here().expect("the compilers of this machine can be listed") else {
        return skipped(&format!("no compiler for {TARGET} is here; `statehouse module build FOLDER` fetches one"));
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/Cargo.toml");
    let mut build = Command::new(cargo());
    build.args(["build", "--locked", "--lib", "--release", "--target", TARGET]).args(&toolchain.cargo_args);
    build.arg("--manifest-path").arg(manifest).envs(toolchain.env);
    build.env("CARGO_TARGET_DIR", cache_folder().expect("the user has a cache folder").join("wasm-target"));
    build.env_remove("RUSTFLAGS").env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
    let built = build.output().expect("cargo can be run");
    assert!(built.status.success(), "the kernel does not build: {}", String::from_utf8_lossy(&built.stderr));
}
