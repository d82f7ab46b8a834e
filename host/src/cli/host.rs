//! Running a node until it is told to stop: what `dev` and `serve` share.
//!
//! In: a node's options and an address. Out: an exit code. On SIGINT and SIGTERM it stops accepting, finishes the requests
//! in its hands, and closes the partitions.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::api::{self, ApiOptions, Callers};
use crate::system::{Node, NodeOptions};

/// What a process serves.
pub struct HostOptions {
    pub node: NodeOptions,
    pub listen: SocketAddr,
    pub callers: Callers,
    pub connections_max: usize,
    pub requests_max: usize,
}

/// Starts a node and serves it. `ready` is called with the address once requests are answered.
pub fn run(options: HostOptions, ready: impl FnOnce(SocketAddr) + Send + 'static) -> anyhow::Result<ExitCode> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,statehouse=info,openraft=error"));
    let with_colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(with_colour).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(serve(options, ready))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(options: HostOptions, ready: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    let metrics = PrometheusBuilder::new().install_recorder().context("installing the metrics recorder")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    // The address first: a node that cannot be reached need not recover its log to find out.
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!("listening on {}; is another process there? choose another address with --http", options.listen)
    })?;
    let address = listener.local_addr().context("asking for the address")?;
    let data = options.node.data.clone();
    let node_id = options.node.node;
    let node = Node::open(options.node).await?;
    write_address(&data.join("http.addr"), address)?;
    let service = api::server(
        node.router().clone(),
        ApiOptions {
            node: node_id,
            callers: options.callers,
            requests_max: options.requests_max,
            metrics: Some(metrics),
        },
    );
    ready(address);
    let router = Arc::clone(node.router());
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing the requests in hand"),
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing the requests in hand"),
        }
        router.set_not_ready(vec!["the node is shutting down".to_owned()]);
    };
    api::serve(listener, service, options.connections_max, stop).await?;
    node.close().await?;
    Ok(())
}

/// Where scripts find the address that the system chose.
fn write_address(path: &std::path::Path, address: SocketAddr) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path).with_context(|| format!("writing {}", path.display()))?;
    writeln!(file, "{address}").with_context(|| format!("writing {}", path.display()))
}
