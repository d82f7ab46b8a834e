//! What two packages link: `statehouse-audit` nothing that an auditor would have to trust besides the code that
//! recomputes, and the node nothing of the command line above it.
//!
//! In: cargo's tree of a package, as it is built by itself. Out: assertions. That the node does not name the command
//! line is not asked here, because Cargo refuses it.

use std::process::Command;

use crate::tree::root;

/// A runtime, consensus, a database, and whatever speaks to a network.
const NOT_OF_AN_AUDITOR: [&str; 13] = [
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
    "statehouse-node",
];
/// What reads arguments, and what draws tables and bars in a terminal.
const NOT_OF_A_NODE: [&str; 5] = ["clap", "comfy-table", "indicatif", "tracing-subscriber", "statehouse"];

#[test]
fn an_auditor_links_no_runtime_consensus_database_or_network() {
    check("statehouse-audit", &["statehouse-kernel", "wasmtime"], &NOT_OF_AN_AUDITOR);
}

#[test]
fn a_node_links_nothing_of_the_command_line() {
    check("statehouse-node", &["statehouse-audit", "openraft"], &NOT_OF_A_NODE);
}

/// The packages in `present` must be in the tree, which shows that it was read.
fn check(package: &str, present: &[&str], absent: &[&str]) {
    let tree = tree_of(package);
    let linked: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(present.iter().all(|name| linked.contains(name)), "cargo tells the tree of {package}: {tree}");
    let found: Vec<&&str> = absent.iter().filter(|name| linked.contains(name)).collect();
    assert!(
        found.is_empty(),
        "`{package}` links {found:?}; `cargo tree -p {package} -e normal -i NAME` says by which way"
    );
}

fn tree_of(package: &str) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let options = ["--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let mut command = Command::new(cargo);
    command.args(["tree", "--package", package]).args(options).current_dir(root());
    let output = command.output().expect("cargo runs this test, so it is there");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}
