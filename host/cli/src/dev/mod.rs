//! `statehouse dev`: a cluster with the wallet, without any configuration; all nodes in one process, or each in its
//! own.
//!
//! In: a few flags. Out: running nodes, and on stdout what a newcomer can try. It does not know how requests are
//! answered.

pub mod folder;
pub mod processes;
mod together;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use rcgen::ExtendedKeyUsagePurpose;
use statehouse_kernel::ids::NodeId;
use statehouse_node::api::Callers;
use statehouse_node::config::{HttpTlsConfig, PeerTlsConfig};
use statehouse_node::limits::CLUSTER_NODES_MAX;

use self::folder::{DevFolder, DevNode};
use crate::authority::{Authority, IssuePolicy, IssuedCertificate};
use crate::members::{self, MemberFiles};
use crate::output::print;

/// The machine with which every new data folder starts.
pub const WALLET_NAME: &str = "wallet";
/// Its released module.
pub const WALLET: &[u8] = include_bytes!("../../../../modules/releases/wallet-1.0.1.wasm");
/// If a cluster does not serve after this long, its log says why.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
/// How often to look for changes that are not announced.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Args)]
pub struct DevArgs {
    /// The folder in which the nodes keep everything; it is created if it is missing
    #[arg(long, default_value = "./statehouse-data")]
    data: PathBuf,
    /// The address of the first node's REST API; the other nodes take the next ports, or free ones
    #[arg(long, default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// How many nodes to run; a data folder keeps the number that it was created with
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(CLUSTER_NODES_MAX)))]
    nodes: u32,
    /// Run every node in a process of its own, so that you can kill one
    #[arg(long)]
    processes: bool,
    /// How many partitions the wallet is created with
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    partitions: u32,
    /// An additional machine, as NAME=FILE.wasm; may be given several times
    #[arg(long = "machine", value_parser = parse_machine)]
    machines: Vec<(String, PathBuf)>,
    /// Archive the journals at this URL: s3://bucket/prefix, with the usual AWS_* environment variables, or a folder,
    /// in which each of several nodes has its own folder
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// How many seconds an entry may wait before it is archived
    #[arg(
        long, default_value_t = 60, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    archive_every: u64,
    /// Create the wallet without its views: `statements`, `audit_trail` and `double_charges`
    #[arg(long)]
    no_views: bool,
    /// Serve https. The certificate is signed by an authority that is created in the data folder, as `tls/ca.pem`
    #[arg(long)]
    tls: bool,
    /// Read every row back after it was written, and stop if it differs; slow, for tests
    #[arg(long)]
    paranoid: bool,
}

/// How clients reach the nodes.
#[derive(Clone, Default)]
struct ClientEntrance {
    /// The authority's certificate, which clients must trust, and the certificate that all nodes show.
    tls: Option<(PathBuf, HttpTlsConfig)>,
}

impl ClientEntrance {
    /// With `--tls` a certificate is made at each start; its authority stays.
    fn make(args: &DevArgs) -> anyhow::Result<Self> {
        if !args.tls {
            return Ok(Self::default());
        }
        let authority = Authority::open(&args.data.join("tls"), "Statehouse dev")?;
        let mut names = vec!["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string(), Ipv6Addr::LOCALHOST.to_string()];
        let listen = args.http.ip().to_string();
        if !names.contains(&listen) {
            names.push(listen);
        }
        let IssuedCertificate { certificate, key } =
            authority.issue("node", names, &[ExtendedKeyUsagePurpose::ServerAuth])?;
        Ok(Self { tls: Some((authority.certificate(), HttpTlsConfig::new(certificate, key))) })
    }

    fn tls(&self) -> Option<&HttpTlsConfig> {
        self.tls.as_ref().map(|(_, tls)| tls)
    }

    fn ca(&self) -> Option<&Path> {
        self.tls.as_ref().map(|(ca, _)| ca.as_path())
    }

    fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}

/// The certificates by which the nodes know each other. Their authority is in the data folder; they are made at the
/// first start and kept.
fn make_members(folder: &DevFolder, nodes: &[DevNode]) -> anyhow::Result<BTreeMap<NodeId, PeerTlsConfig>> {
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let made = members::make(&folder.peers(), &ids, IssuePolicy::WhereNeeded)?;
    Ok(made.into_iter().map(|MemberFiles { node, tls, .. }| (node, tls)).collect())
}

fn parse_machine(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE.wasm")?;
    if name == WALLET_NAME {
        return Err(format!(
            "`{WALLET_NAME}` is there already: give the machine another name, or stage the module for it"
        ));
    }
    Ok((name.to_owned(), PathBuf::from(file)))
}

pub fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    // First of all, check whether anybody may be let in at that address.
    Callers::new(&[], args.http)?;
    if args.processes {
        ensure!(
            args.archive.is_none(),
            "--archive cannot be used with --processes: set [archive] url in the configuration files of the nodes"
        );
        ensure!(args.nodes > 1, "--processes starts several nodes; leave it out, or give --nodes 3");
        processes::run(args)
    } else if args.nodes == 1 {
        together::run_alone(args)
    } else {
        together::run(args)
    }
}

/// Says where a node listens; scripts wait for this line.
fn print_listening(url: &str, data: &Path) -> anyhow::Result<()> {
    Ok(print(&format!("listening on {url}   data in {}\n", data.display()))?)
}

/// What a newcomer needs: a transfer to try, and how to check it. `data` is the folder of one node.
fn welcome(nodes: &[SocketAddr], entrance: &ClientEntrance, data: &Path) -> String {
    let urls: Vec<_> = nodes.iter().map(|node| entrance.url(*node)).collect();
    let (first, last) = (&urls[0], &urls[urls.len() - 1]);
    let ca = entrance.ca().map(|ca| ca.display().to_string());
    let (trust, curl) = match &ca {
        Some(ca) => (format!(" --ca {ca}"), format!("curl --cacert {ca}")),
        None => (String::new(), "curl".to_owned()),
    };
    let authority = ca.map_or_else(String::new, |ca| format!("clients must trust the authority in {ca}\n"));
    let cluster = if let [_, _, ..] = nodes {
        format!(
            "one cluster of {} nodes, {}: any of them answers\nlook at it:\n  statehouse cluster status --url \
             {first}{trust}\n",
            nodes.len(),
            urls.join(" ")
        )
    } else {
        String::new()
    };
    format!(
        r#"no tokens are configured, so everybody on this machine may do everything
{authority}{cluster}
try a transfer:
  {curl} -sX POST {first}/v1/wallet/accounts -H 'content-type: application/json' -d '{{"account":"alice","currency":"USD"}}'
  {curl} -sX POST {first}/v1/wallet/accounts -H 'content-type: application/json' -d '{{"account":"bob","currency":"USD"}}'
  {curl} -sX POST {first}/v1/wallet/deposit  -H 'content-type: application/json' -d '{{"account":"alice","amount":"100.00","currency":"USD","transaction_id":"{deposit}"}}'
  {curl} -sX POST {first}/v1/wallet/balance_transfer -H 'content-type: application/json' \
       -d '{{"from_account":"alice","to_account":"bob","amount":"1.00","currency":"USD","transaction_id":"{transfer}"}}'
  {curl} -s {last}/v1/wallet/accounts/bob

recompute it all, also while this runs:
  statehouse audit verify --data {data}

stop with Ctrl-C; start again with the same command and everything is there
"#,
        data = data.display(),
        deposit = uuid::Uuid::new_v4(),
        transfer = uuid::Uuid::new_v4(),
    )
}
