//! One host on a folder of its own, `statehouse dev` or `serve`: started, asked for readiness, killed and stopped.
//!
//! It knows the flags of `dev` and the route `/readyz`, and nothing of clusters.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::artefacts;
use crate::cluster::release;
use crate::hold::eventually;
use crate::http::Client;
pub use crate::process::{CommandOutput, FailedStart, argument, cli};
use crate::process::{Process, binary};
use crate::secure::Trust;

/// How to start a host.
#[derive(Clone, Debug)]
pub struct Start {
    /// The binary that is started.
    pub program: PathBuf,
    pub data: PathBuf,
    /// Where it listens: a port of the system's choice, unless a test needs the host to return to the same one.
    pub http: SocketAddr,
    /// Further arguments of `statehouse dev`.
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// The most files that it may have open; `None`: what the system allows.
    pub descriptors: Option<u64>,
    /// Whether the wallet has its views, which cost every node some of its time.
    pub has_views: bool,
    /// The file with the certificate of its authority, which is there once it listens, if it speaks TLS.
    pub authority: Option<PathBuf>,
}

impl Start {
    pub fn on(data: &Path) -> Self {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            program: binary(),
            data: data.to_owned(),
            http,
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: None,
            has_views: false,
            authority: None,
        }
    }
}

/// A running host. Dropping it kills the process.
pub struct Host {
    process: Process,
    /// What its clients trust, if it speaks TLS.
    trust: Option<Trust>,
}

impl Host {
    /// Starts a host on the data folder and waits until it is ready.
    pub async fn start(data: &Path) -> Self {
        Self::start_with(&Start::on(data)).await.unwrap_or_else(|refused| panic!("the host did not start: {refused:?}"))
    }

    /// Like [`Host::start`]; a process that ends before it is ready is returned as `Err`.
    pub async fn start_with(start: &Start) -> Result<Self, FailedStart> {
        let host = Self::start_unready(start).await?.ready().await?;
        artefacts::keep(&start.data);
        Ok(host)
    }

    /// Like [`Host::start_with`], for a host that will not become ready.
    pub async fn start_unready(start: &Start) -> Result<Self, FailedStart> {
        let mut command = match start.descriptors {
            None => Command::new(&start.program),
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {count} && exec \"$0\" \"$@\"")).arg(&start.program);
                shell
            }
        };
        command.arg("dev").arg("--data").arg(&start.data).arg("--http").arg(start.http.to_string());
        command.args(["--nodes", "1"]);
        command.args(Some("--no-views").filter(|_| !start.has_views));
        command.args(&start.arguments);
        command.envs(start.environment.iter().cloned());
        artefacts::lend(&start.data);
        let process = Process::start("the host", command).await?;
        let trust = start.authority.as_deref().map(Trust::of);
        Ok(Self { process, trust })
    }

    /// Starts `statehouse serve` with these `[limits]`, because `dev` has no flags for them.
    pub async fn serve(data: &Path, partitions: u32, limits: &str) -> Self {
        let config = data.join("node.toml");
        let folder = data.join("node");
        let module = release("wallet-1.0.1.wasm");
        let (module, node) = (argument(&module), argument(&folder));
        let open = if limits.contains("[[auth.tokens]]") { "" } else { "[auth]\nopen = true\n\n" };
        let text = format!(
            "[node]\nid = 1\ndata = {node:?}\n\n[http]\nlisten = \"127.0.0.1:0\"\n\n{open}[limits]\n{limits}\n\n\
             [machines.wallet]\nmodule = {module:?}\npartitions = {partitions}\n"
        );
        std::fs::write(&config, text).expect("a new file");
        artefacts::lend(&folder);
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(&config);
        let started = Process::start("the host", command).await;
        let process = started.unwrap_or_else(|refused| panic!("the host did not start: {refused:?}"));
        let host = Self { process, trust: None };
        let host = host.ready().await.unwrap_or_else(|refused| panic!("the host did not become ready: {refused:?}"));
        artefacts::keep(&folder);
        host
    }

    pub fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// The process's number in the system.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How much memory the process holds now.
    pub fn memory_bytes(&self) -> u64 {
        self.process.memory_bytes()
    }

    /// How many files the process has open now.
    pub fn descriptor_count(&self) -> usize {
        self.process.descriptor_count()
    }

    /// The most memory that the process ever held.
    pub fn memory_bytes_peak(&self) -> u64 {
        self.process.memory_bytes_peak()
    }

    pub fn client(&self) -> Client {
        let client = Client::to(self.address());
        match &self.trust {
            Some(trust) => client.over(trust),
            None => client,
        }
    }

    /// What the process printed last.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Whether the process has ended on its own.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// `kill -9`; the process is gone on return.
    pub fn kill(self) {
        self.process.kill();
    }

    /// Sends SIGTERM, and waits until the process has ended on its own.
    pub async fn terminate(self) -> ExitStatus {
        self.process.terminate().await
    }

    /// Sends SIGSTOP: the process does nothing until [`Host::resume`].
    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.resume();
    }

    /// Waits for `/readyz`; a process that ends first refused to start.
    async fn ready(mut self) -> Result<Self, FailedStart> {
        let mut client = self.client();
        let refused = eventually("the host becomes ready", async || {
            if let Some(refused) = self.process.find_refusal() {
                return Some(Some(refused));
            }
            let answer = client.get("/readyz").await;
            answer.is_ok_and(|answer| answer.status == 200).then_some(None)
        });
        match refused.await {
            None => Ok(self),
            Some(refused) => Err(refused),
        }
    }
}
