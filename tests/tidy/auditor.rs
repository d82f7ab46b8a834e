//! What the program `statehouse-audit` links: nothing that an auditor would have to trust besides the code that
//! recomputes.
//!
//! In: cargo's tree of the package, as it is built by itself. Out: an assertion. Which crates the host links is not
//! asked here.

use std::process::Command;

use crate::tree::root;

/// A runtime, consensus, a database, and whatever speaks to a network.
const ABSENT: [&str; 12] = [
    "tokio",
    "openraft",
    "rocksdb",
    "librocksdb-sys",
    "axum",
    "tonic",
    "reqwest",
    "hyper",
    "rustls",
    "object_store",
    "metrics",
    "statehouse",
];

#[test]
fn an_auditor_links_no_runtime_consensus_database_or_network() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let options = ["--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let told = output_of(Command::new(cargo).args(["tree", "--package", "statehouse-audit"]).args(options));
    let linked: Vec<&str> = told.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(linked.contains(&"statehouse-kernel") && linked.contains(&"wasmtime"), "cargo tells the tree: {told}");
    let found: Vec<&&str> = ABSENT.iter().filter(|name| linked.contains(name)).collect();
    assert!(
        found.is_empty(),
        "`statehouse-audit` links {found:?}; `cargo tree -p statehouse-audit -e normal -i NAME` says by which way"
    );
}

fn output_of(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().expect("cargo runs this test, so it is there");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}
