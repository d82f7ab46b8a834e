//! `statehouse cluster certificates`: the authority of a cluster, and certificates for its nodes.
//!
//! In: a folder, ids of nodes. Out: PEM files, and for each node the line of its configuration. It asks no node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use statehouse_kernel::ids::NodeId;
use statehouse_node::config::PeerTlsConfig;

use crate::authority::IssuePolicy;
use crate::members;
use crate::output::print;

/// Make the certificates by which nodes know each other, and the authority that signs them
///
/// The command writes ca.pem, ca.key, and node-ID.pem and node-ID.key for each node to DIR. It prints the `tls` line
/// for each node's configuration. Give a node ca.pem and its own two files. Keep ca.key away from all nodes: whoever
/// has it can create nodes. A certificate that exists is kept if it is valid for 60 more days. To renew certificates,
/// give the nodes their new files and send them SIGHUP.
#[derive(Args)]
pub struct CertificatesArgs {
    /// The folder for the files; it is created if it is missing, with access for this user only
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The id of a node; repeat the option for each node
    #[arg(long = "node", value_name = "ID", required = true, value_parser = clap::value_parser!(u64).range(1..))]
    nodes: Vec<u64>,
    /// Make new certificates even if the existing ones are valid for 60 more days; the authority stays
    #[arg(long)]
    renew: bool,
}

pub fn run(args: &CertificatesArgs) -> anyhow::Result<ExitCode> {
    let nodes: Vec<NodeId> = args.nodes.iter().copied().map(NodeId).collect();
    let issuing = if args.renew { IssuePolicy::Always } else { IssuePolicy::WhereNeeded };
    let mut text = String::new();
    for made in members::make(&args.out, &nodes, issuing)? {
        let PeerTlsConfig { ca, certificate, key } = &made.tls;
        let (what, node) = (if made.is_new { "made" } else { "kept" }, made.node);
        let [ca, certificate, key] = [ca, certificate, key].map(|path| toml::Value::String(path.display().to_string()));
        text += &format!("node {node}, {what}: tls = {{ ca = {ca}, certificate = {certificate}, key = {key} }}\n");
    }
    let key = args.out.join("ca.key");
    print(&format!(
        "{text}put each line below [peer] in the configuration of its node; no node needs {}\n",
        key.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
