//! `statehouse serve`: a node as its configuration file says.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use crate::api::Callers;
use crate::cli::host::{HostOptions, run as run_host};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::limits;
use crate::log::RealDisk;
use crate::system::{MachineSpec, ModuleSource, NodeOptions};

#[derive(Args)]
pub struct ServeArgs {
    /// The configuration file, TOML
    #[arg(long)]
    config: PathBuf,
    /// Check more than a production node would
    #[arg(long)]
    paranoid: bool,
}

pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let callers = Callers::new(&config.auth.tokens, config.http.listen)?;
    let machine = |(name, machine): (&String, &crate::config::MachineConfig)| MachineSpec {
        name: name.clone(),
        module: ModuleSource::File(machine.module.clone()),
        partitions: machine.partitions,
    };
    let options = HostOptions {
        node: NodeOptions {
            data: config.node.data.clone(),
            node: config.node.id,
            machines: config.machines.iter().map(machine).collect(),
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            paranoid: args.paranoid,
            hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
            peer: None,
            http: None,
        },
        listen: config.http.listen,
        callers,
        connections_max: config.limits.http_connections,
        requests_max: config.limits.http_requests,
    };
    let data = config.node.data;
    run_host(options, move |address| println!("listening on http://{address}   data in {}", data.display()))
}
