//! `statehouse serve`: a node as its configuration file says.
//!
//! In: a configuration file, which is read again on SIGHUP. Out: a node that runs until it is told to stop, or until
//! the process that started it is gone. It does not know how requests are answered; of the other nodes it knows only
//! the addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use statehouse_journal::disk::RealDisk;
use statehouse_node::api::{Acceptor, Callers, CommandRoles, LiveCommandRoles, LiveLimits};
use statehouse_node::clock::SystemClock;
use statehouse_node::config::{ClusterConfig, Config, MachineConfig, PeerConfig, PeerTlsConfig};
use statehouse_node::limits;
use statehouse_node::system::{
    ArchiveOptions, MachineSpec, ModuleSource, NodeOptions, PeerOptions, PeerTlsFiles, PeerWay,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::host::{self, Host, HostOptions, Process};
use crate::output::print;
use crate::reload::Reload;
use crate::shipped;

#[derive(Args)]
pub struct ServeArgs {
    /// The configuration file, in TOML
    #[arg(long)]
    config: PathBuf,
    /// Read every row back after it was written, and stop if it differs; slow, for tests
    #[arg(long)]
    paranoid: bool,
    /// Stop as on SIGTERM when stdin ends, so that the node stops with the process that started it
    #[arg(long)]
    stop_with_stdin: bool,
}

pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let callers = Arc::new(Callers::new(&config.auth.tokens, config.http.listen)?);
    let command_roles = LiveCommandRoles::new(CommandRoles::new(&config.auth)?);
    let acceptor = Acceptor::new(config.http.tls.as_ref()).context("`http.tls`")?;
    let limits = LiveLimits::new(config.limits.clone());
    let mut reload = Reload {
        path: args.config,
        config: config.clone(),
        callers: callers.clone(),
        acceptor: acceptor.clone(),
        limits: limits.clone(),
        command_roles: command_roles.clone(),
        peers: None,
    };
    let machines = config.machines.into_iter().map(machine_spec).collect::<anyhow::Result<_>>()?;
    host::run(async move |process: Process| {
        // From now on SIGHUP does not end the process; a signal that arrives before the node serves is handled later.
        let hangups = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        if args.stop_with_stdin {
            let stop = process.stop.clone();
            std::thread::spawn(move || stop_with_stdin(&stop));
        }
        let listener = host::bind_http(config.http.listen).await?;
        let peer = match config.peer {
            Some(peer) => Some(peer_options(peer, &config.cluster).await?),
            None => None,
        };
        let http = advertised_http(config.http.listen, peer.as_ref());
        let data = config.node.data.clone();
        let archive = config.archive.map(|archive| ArchiveOptions { url: archive.url(&data), every: archive.every() });
        let options = HostOptions {
            node: NodeOptions {
                data: config.node.data,
                node: config.node.id,
                machines,
                disk: Arc::new(RealDisk),
                clock: Arc::new(SystemClock),
                paranoid: args.paranoid,
                hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
                log_keep_bytes: config.log.keep_bytes,
                archive,
                snapshot_every_bytes: config.snapshots.every_bytes,
                snapshot_keep: config.snapshots.keep,
                scrub_bytes_per_second: config.scrub.bytes_per_second,
                feature_level_max: config.node.feature_level_max,
                peer,
                http,
            },
            listener,
            acceptor,
            callers,
            hosts: config.auth.hosts,
            command_roles,
            limits,
            webhooks: config.webhooks,
            views: config.views,
        };
        let host = Host::start(options, &process).await?;
        print(&format!("listening on {}   data in {}\n", host.url(), data.display()))?;
        reload.peers = host.certificate_renewal();
        tokio::spawn(reload.run(hangups, process.stop.clone()));
        host::finish(vec![host]).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn machine_spec((name, machine): (String, MachineConfig)) -> anyhow::Result<MachineSpec> {
    let views = machine.views.iter().map(|view| shipped::find(view)).collect::<anyhow::Result<_>>();
    let views = views.with_context(|| format!("`machines.{name}.views`"))?;
    Ok(MachineSpec { name, module: ModuleSource::File(machine.module), partitions: machine.partitions, views })
}

async fn peer_options(peer: PeerConfig, cluster: &ClusterConfig) -> anyhow::Result<PeerOptions> {
    let listener = bind_peer(peer.listen).await?;
    let advertise = peer.advertise();
    let tls = peer.tls.as_ref().map(peer_files);
    let way = PeerWay::Listen { listener, tls };
    Ok(PeerOptions { way, advertise, routes: peer.routes, clock_skew_max: cluster.clock_skew_max() })
}

/// The files by which a node and the other nodes know each other.
pub fn peer_files(tls: &PeerTlsConfig) -> PeerTlsFiles {
    let PeerTlsConfig { ca, certificate, key } = tls.clone();
    PeerTlsFiles { ca, certificate, key }
}

async fn bind_peer(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("listening on {address} for the other nodes; is another process there? see `peer.listen`")
    })
}

/// Where clients reach this node, if that is not simply its listening address: nobody can connect to an unspecified
/// address.
fn advertised_http(listen: SocketAddr, peer: Option<&PeerOptions>) -> Option<String> {
    let (host, _) = peer?.advertise.rsplit_once(':')?;
    listen.ip().is_unspecified().then(|| format!("{host}:{}", listen.port()))
}

/// Reads stdin to its end, which is reached when the last process that could write to it has closed it or died.
fn stop_with_stdin(stop: &CancellationToken) {
    let ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    stop.cancel();
    match ended {
        Ok(_) => tracing::info!("stdin has ended: finishing the requests in hand"),
        Err(error) => tracing::info!(%error, "stdin is gone: finishing the requests in hand"),
    }
}
