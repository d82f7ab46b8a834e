//! Runs nodes until the process is told to stop: the part that `dev` and `serve` share.
//!
//! In: the options of a node and a bound listener, once or several times. Out: an exit code. On SIGINT and SIGTERM the
//! nodes stop accepting, finish the requests under way, and close their partitions, one node after the other. It knows
//! no command.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use statehouse_journal::durable;
use statehouse_node::api::{
    self, Acceptor, ApiError, ApiOptions, Callers, Descriptors, LiveCommandRoles, LiveLimits, Origins, Places,
};
use statehouse_node::config::{ViewsConfig, WebhooksConfig};
use statehouse_node::limits::{STOP_LAST_WORD, STOP_MAX, STOP_THREADS_MAX};
use statehouse_node::rehearsal::jobs::Replays;
use statehouse_node::rehearsal::shadow;
use statehouse_node::system::{CertificateRenewal, Cluster, Node, NodeError, NodeOptions};
use statehouse_text::printable;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{descriptors, shipped};

/// What is logged unless `RUST_LOG` says otherwise. The last module logs an error whenever a group that has stopped is
/// asked, also if it was closed in order. The caller gets that error anyway, and a group that fails is logged as a
/// halted partition.
const LOGGED: &str = "warn,statehouse=info,openraft=error,openraft::raft::raft_inner=off";

/// What a process has once, however many nodes it runs.
pub struct Process {
    pub metrics: PrometheusHandle,
    /// Connections take some of them.
    pub descriptors: Arc<Descriptors>,
    /// Cancelled by SIGINT, by SIGTERM, or by any part that must stop the process.
    pub stop: CancellationToken,
}

/// Runs `work` on a runtime of its own, with logs on stderr, metrics and signals.
pub fn run<F: Future<Output = anyhow::Result<ExitCode>>>(work: impl FnOnce(Process) -> F) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let with_colour = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(with_colour)
        .with_writer(move || LogLines { with_colour });
    // If stderr is gone, a complaint about that on stderr would panic in the middle of any log line.
    subscriber.log_internal_errors(false).init();
    std::panic::set_hook(Box::new(|panic| {
        let (thread, backtrace) = (std::thread::current(), Backtrace::capture());
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(thread = thread.name().unwrap_or("without a name"), backtrace, "{panic}");
    }));
    let descriptors = Descriptors::new(descriptors::raise());
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let ended = runtime.block_on(async move {
        let metrics = PrometheusBuilder::new().install_recorder().context("installing the metrics recorder")?;
        work(Process { metrics, descriptors, stop }).await
    });
    // A thread that still compiles or computes has no caller left, and must not keep the process alive.
    runtime.shutdown_timeout(STOP_THREADS_MAX);
    ended.or_else(end_of_start)
}

/// How a start that did not succeed ends the process. A node that was told to stop before it served has stopped in
/// order.
fn end_of_start(error: anyhow::Error) -> anyhow::Result<ExitCode> {
    if !is_told_to_stop(&error) {
        return Err(error);
    }
    tracing::info!("stopped before the start was complete");
    Ok(ExitCode::SUCCESS)
}

/// Whether a node did not start because the process is to stop.
pub fn is_told_to_stop(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<NodeError>(), Some(NodeError::Stopping))
}

/// Stderr for the log: each event arrives as one piece and is written as one line, whatever it contains.
struct LogLines {
    /// If set, the subscriber writes escape sequences for colours. It escapes those in logged text itself.
    with_colour: bool,
}

impl Write for LogLines {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = if self.with_colour {
            text.split('\u{1b}').map(printable::line).collect::<Vec<_>>().join("\u{1b}")
        } else {
            printable::line(text).into_owned()
        };
        std::io::stderr().write_all((line + "\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Listens on a thread and a runtime of its own, so that a process whose other threads are all stuck also ends.
fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let listening = "listening for signals";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(listening)?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt()).context(listening)?, signal(SignalKind::terminate()).context(listening)?)
    };
    let listen = move || {
        let told = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        });
        stop.cancel();
        // On another thread, because stderr may be what is stuck.
        std::thread::spawn(move || tracing::info!("{told}: finishing the requests in hand"));
        end_in_time();
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).context(listening)?;
    Ok(())
}

/// Ends a node that cannot end in order: what it has acknowledged is in its log.
fn end_in_time() {
    std::thread::sleep(STOP_MAX.saturating_sub(STOP_LAST_WORD));
    std::thread::spawn(|| {
        tracing::error!(
            seconds = STOP_MAX.as_secs(),
            "the node did not stop in time, and is ended now: the next start recovers from its log"
        );
    });
    std::thread::sleep(STOP_LAST_WORD);
    // SAFETY: it takes no pointer and does not return. Handlers for an orderly exit are skipped, because they may wait
    // for what is stuck.
    unsafe { libc::_exit(1) }
}

/// Binds the REST API, before everything else: a node that cannot be reached should fail before it recovers its log.
pub async fn bind_http(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("listening on {address}; is another process there? choose another address (`--http`, or `http.listen`)")
    })
}

/// The options with which a node is served.
pub struct HostOptions {
    pub node: NodeOptions,
    pub listener: TcpListener,
    pub acceptor: Acceptor,
    pub callers: Arc<Callers>,
    /// The configuration's `auth.hosts`.
    pub hosts: Vec<String>,
    pub command_roles: Arc<LiveCommandRoles>,
    pub limits: Arc<LiveLimits>,
    pub webhooks: WebhooksConfig,
    pub views: ViewsConfig,
}

/// A node that answers requests.
pub struct Host {
    node: Node,
    scheme: &'static str,
    address: SocketAddr,
    serving: JoinHandle<Result<(), ApiError>>,
    replays: Arc<Replays>,
    webhooks: JoinHandle<()>,
}

impl Host {
    /// Opens the node and serves it until the process is told to stop.
    pub async fn start(mut options: HostOptions, process: &Process) -> anyhow::Result<Self> {
        let address = options.listener.local_addr().context("asking for the address")?;
        let data = options.node.data.clone();
        let advertised = options.node.http.take().unwrap_or_else(|| address.to_string());
        let origins = Origins::new(address, &advertised, options.hosts);
        let scheme = options.acceptor.scheme();
        // An address without a scheme belongs to a node without TLS.
        options.node.http = Some(if scheme == "http" { advertised } else { format!("{scheme}://{advertised}") });
        let node = Node::open_unless(options.node, &process.stop).await?;
        write_address(&data.join("http.addr"), address)?;
        let replays = Arc::new(Replays::open(&data, api::parse_time)?);
        let api = ApiOptions {
            cluster: node.cluster(),
            callers: options.callers,
            origins,
            command_roles: options.command_roles,
            replays: replays.clone(),
            limits: options.limits.clone(),
            webhooks: options.webhooks,
            views_instead: Arc::new(shipped::ids().chain(options.views.instead).collect()),
            metrics: Some(process.metrics.clone()),
        };
        let (cluster, pages, stop) = (node.cluster(), node.shadow_pages(), process.stop.clone());
        node.keep("shadow", move || shadow::run(cluster.clone(), pages.clone(), stop.clone()));
        let (service, sender) = api::server(node.router().clone(), api);
        let stop = process.stop.clone();
        let webhooks = node.keep("webhooks", move || sender.clone().run(stop.clone()));
        let (stop, router, cluster) = (process.stop.clone(), node.router().clone(), node.cluster());
        let stopped = async move {
            stop.cancelled().await;
            cluster.leave();
            router.set_not_ready(vec!["the node is shutting down".to_owned()]);
        };
        let places = places(&options.limits, &process.descriptors);
        // A node that cannot continue must not leave the others running unnoticed.
        let stop_others = process.stop.clone().drop_guard();
        let serving = tokio::spawn(async move {
            let _stop_others = stop_others;
            api::serve(options.listener, options.acceptor, service, places, stopped).await
        });
        Ok(Self { node, scheme, address, serving, replays, webhooks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its REST API.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn cluster(&self) -> Cluster {
        self.node.cluster()
    }

    /// See [`Node::certificate_renewal`].
    pub fn certificate_renewal(&self) -> Option<CertificateRenewal> {
        self.node.certificate_renewal()
    }

    /// Whether it serves this machine, and all partitions have a leader.
    pub fn serves(&self, machine: &str) -> bool {
        let router = self.node.router();
        router.find_machine(machine).is_some() && router.is_ready().is_ok()
    }
}

/// Waits until the process is told to stop and all requests under way are answered, then closes the nodes in order.
pub async fn finish(mut hosts: Vec<Host>) -> anyhow::Result<()> {
    let mut result = Ok(());
    for host in &mut hosts {
        let served = (&mut host.serving).await.context("serving panicked").and_then(|served| Ok(served?));
        result = result.and(served);
    }
    for host in hosts {
        // The next start continues what is under way.
        let replays = host.replays.clone();
        tokio::task::spawn_blocking(move || replays.close()).await.context("stopping the replays panicked")?;
        // The last deliveries are recorded while a node is still there to record them.
        host.webhooks.await.context("stopping the webhooks panicked")?;
        let closed = host.node.close().await;
        result = result.and(closed.map_err(anyhow::Error::from));
    }
    result
}

/// The places for connections of one node. Logs a warning if there are fewer than were asked for.
fn places(limits: &Arc<LiveLimits>, descriptors: &Arc<Descriptors>) -> Arc<Places> {
    descriptors.count_others();
    let (wanted, possible) = (limits.now().http_connections, descriptors.connections_max());
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            kept = descriptors.kept(),
            "the limit of open files is low: there is room for `possible` connections, and `kept` stay for logs, \
             stores and other nodes; raise it (`ulimit -Hn`, LimitNOFILE of systemd), or lower \
             `limits.http_connections`"
        );
    }
    Places::new(limits.clone(), descriptors.clone())
}

/// Writes the address that the system chose to a file where scripts find it.
fn write_address(path: &std::path::Path, address: SocketAddr) -> anyhow::Result<()> {
    let mut file = durable::create(path).with_context(|| format!("writing {}", path.display()))?;
    writeln!(file, "{address}").with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It used to be reported as an error, with exit code 2.
    #[test]
    fn a_start_that_was_stopped_is_in_order_and_others_are_not() {
        let check = |error: NodeError, expected: bool| {
            let ended = end_of_start(anyhow::Error::from(error).context("starting node 2"));
            assert_eq!(ended.is_ok(), expected, "{ended:?}");
        };
        check(NodeError::Stopping, true);
        check(NodeError::HasPeers, false);
        assert!(end_of_start(anyhow::anyhow!("the port is taken")).is_err());
    }
}
