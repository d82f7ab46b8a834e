//! `statehouse dev`: a node with the wallet, in one process, with nothing to configure.
//!
//! In: a few flags. Out: a running node, and on stdout what a newcomer can try. It knows nothing of how requests are
//! answered.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;

use crate::api::Callers;
use crate::cli::host::{HostOptions, run as run_host};
use crate::clock::SystemClock;
use crate::config::LimitsConfig;
use crate::ids::NodeId;
use crate::limits;
use crate::log::RealDisk;
use crate::system::{MachineSpec, ModuleSource, NodeOptions};

/// The released wallet that a new data folder starts with.
const WALLET: &[u8] = include_bytes!("../../../modules/releases/wallet-1.0.0.wasm");

#[derive(Args)]
pub struct DevArgs {
    /// Folder of everything the node keeps; created when missing
    #[arg(long, default_value = "./statehouse-data")]
    data: PathBuf,
    /// Address of the REST API
    #[arg(long, default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// How many nodes to run; for now only 1
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    /// Into how many partitions the wallet is split when it is created
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    partitions: u32,
    /// Additional machine, as NAME=FILE.wasm; may be given several times
    #[arg(long = "machine", value_parser = parse_machine)]
    machines: Vec<(String, PathBuf)>,
    /// Check more than a production node would
    #[arg(long)]
    paranoid: bool,
}

fn parse_machine(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE.wasm")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

pub fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    if args.nodes != 1 {
        bail!("501: this version runs one node; start it with --nodes 1");
    }
    let callers = Callers::new(&[], args.http)?;
    let mut machines = vec![MachineSpec {
        name: "wallet".to_owned(),
        module: ModuleSource::Embedded(WALLET),
        partitions: args.partitions,
    }];
    machines.extend(args.machines.into_iter().map(|(name, file)| MachineSpec {
        name,
        module: ModuleSource::File(file),
        partitions: args.partitions,
    }));
    let limits = LimitsConfig::default();
    let data = args.data.clone();
    let options = HostOptions {
        node: NodeOptions {
            data: args.data,
            node: NodeId(1),
            machines,
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            paranoid: args.paranoid,
            hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
            peer: None,
            http: None,
        },
        listen: args.http,
        callers,
        connections_max: limits.http_connections,
        requests_max: limits.http_requests,
    };
    run_host(options, move |address| print_welcome(address, &data))
}

/// What a newcomer needs: the address, a transfer to try, and how to check it.
fn print_welcome(address: SocketAddr, data: &std::path::Path) {
    println!(
        r#"listening on http://{address}   data in {data}
no tokens are configured, so everybody on this machine may do everything

try a transfer:
  curl -sX POST http://{address}/v1/wallet/accounts -H 'content-type: application/json' -d '{{"account":"alice","currency":"USD"}}'
  curl -sX POST http://{address}/v1/wallet/accounts -H 'content-type: application/json' -d '{{"account":"bob","currency":"USD"}}'
  curl -sX POST http://{address}/v1/wallet/deposit  -H 'content-type: application/json' -d '{{"account":"alice","amount":"100.00","currency":"USD","transaction_id":"{deposit}"}}'
  curl -sX POST http://{address}/v1/wallet/balance_transfer -H 'content-type: application/json' \
       -d '{{"from_account":"alice","to_account":"bob","amount":"1.00","currency":"USD","transaction_id":"{transfer}"}}'
  curl -s http://{address}/v1/wallet/accounts/bob

recompute it all, also while this runs:
  statehouse audit verify --data {data}

stop with Ctrl-C; start again with the same command and everything is there"#,
        data = data.display(),
        deposit = uuid::Uuid::new_v4(),
        transfer = uuid::Uuid::new_v4(),
    );
}
