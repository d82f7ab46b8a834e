//! `statehouse cluster certificates`: the authority of a cluster, and certificates for its nodes.
//!
//! In: a folder, ids of nodes. Out: PEM files, and for each node the line of its configuration. It asks no node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::authority::Issuing;
use crate::cli::members;
use crate::cli::output::print;
use crate::config::PeerTlsConfig;
use crate::ids::NodeId;

/// Make certificates by which nodes know each other, and the authority that signs them
///
/// DIR gets ca.pem, ca.key, and node-ID.pem and node-ID.key for each node. Give a node ca.pem and its own two files. Keep ca.key away from all
/// nodes: it creates nodes. A certificate that is there already is kept if it is valid for 60 more days. Give nodes their new files, and send
/// them SIGHUP.
#[derive(Args)]
pub struct CertificatesArgs {
    /// Folder of the files; created when missing, for this user alone
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The id of a node; given once for each
    #[arg(long = "node", value_name = "ID", required = true, value_parser = clap::value_parser!(u64).range(1..))]
    nodes: Vec<u64>,
    /// New certificates also where the last ones are good for long; the authority stays
    #[arg(long)]
    renew: bool,
}

pub fn run(args: &CertificatesArgs) -> anyhow::Result<ExitCode> {
    let nodes: Vec<NodeId> = args.nodes.iter().copied().map(NodeId).collect();
    let issuing = if args.renew { Issuing::Always } else { Issuing::WhereNeeded };
    let mut text = String::new();
    for made in members::make(&args.out, &nodes, issuing)? {
        let PeerTlsConfig { ca, certificate, key } = &made.tls;
        let (what, node) = (if made.is_new { "made" } else { "kept" }, made.node);
        let [ca, certificate, key] = [ca, certificate, key].map(|path| toml::Value::String(path.display().to_string()));
        text += &format!("node {node}, {what}: tls = {{ ca = {ca}, certificate = {certificate}, key = {key} }}\n");
    }
    let key = args.out.join("ca.key");
    print(&format!("{text}that line goes below [peer] of each node; no node needs {}\n", key.display()))?;
    Ok(ExitCode::SUCCESS)
}
