//! A process of the real `statehouse` binary: how it is started, signalled and killed, and what it printed.
//!
//! In: a command. Out: the address on which the process said it listens, or how it ended instead. It finds the binary
//! beside the test executable (or at `STATEHOUSE_BIN`), and knows neither routes nor flags.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::hold::{PATIENCE, eventually};

/// How many lines of output are kept.
const OUTPUT_LINES_MAX: usize = 500;
const LISTENING: &str = "listening on ";

/// A running process that has said where it listens. Dropping it kills it.
pub struct Process {
    /// The name of the process in failures.
    name: String,
    child: Child,
    address: SocketAddr,
    output: Output,
    /// These threads end with the process.
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a process and waits until it says where it listens; a process that ends first is returned as `Err`.
    pub async fn start(name: &str, mut command: Command) -> Result<Self, FailedStart> {
        // A process that is told to do so stops when its stdin ends, which also happens when the test is killed.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the host's binary can be started");
        let output = Output::default();
        let (found, address) = oneshot::channel();
        let readers = vec![
            output.collect(child.stdout.take().expect("stdout is piped"), Some(found)),
            output.collect(child.stderr.take().expect("stderr is piped"), None),
        ];
        match tokio::time::timeout(PATIENCE, address).await {
            Ok(Ok(address)) => Ok(Self { name: name.to_owned(), child, address, output, readers }),
            Ok(Err(_)) => {
                let status = exit_of(&mut child).await;
                Err(FailedStart::new(status, readers, &output))
            }
            Err(_) => {
                end(&mut child);
                panic!("{name} did not say where it listens: {}", output.text());
            }
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process's number in the system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How much memory the process holds now.
    pub fn memory_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that the process ever held.
    pub fn memory_bytes_peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kilobytes") * 1024
    }

    /// How many files the process has open now.
    pub fn descriptor_count(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the process is there").count()
    }

    /// What the process printed last.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Whether the process has ended on its own.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child can be waited for").is_some()
    }

    /// `kill -9`; the process is gone on return.
    pub fn kill(mut self) {
        end(&mut self.child);
    }

    /// Sends SIGTERM, and waits until the process has ended on its own.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        exit_of(&mut self.child).await
    }

    /// Sends SIGTERM without waiting.
    pub fn ask_to_end(&self) {
        self.signal("TERM");
    }

    /// Sends SIGHUP: the process reads its configuration again.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    /// Sends SIGSTOP: the process does nothing until [`Process::resume`].
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill can be run").success(), "the process is still there to be signalled");
    }

    /// How the process ended and all that it printed, once it has ended on its own.
    pub fn find_refusal(&mut self) -> Option<FailedStart> {
        let status = self.child.try_wait().expect("the child can be waited for")?;
        Some(FailedStart::new(status, std::mem::take(&mut self.readers), &self.output))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- {} printed last:\n{}", self.name, self.output.text());
        }
    }
}

/// A process that ended instead of serving.
#[derive(Debug)]
pub struct FailedStart {
    pub status: ExitStatus,
    /// What it printed on both streams.
    pub output: String,
}

impl FailedStart {
    /// Waits until everything that the process printed has been read.
    fn new(status: ExitStatus, readers: Vec<JoinHandle<()>>, output: &Output) -> Self {
        for reader in readers {
            reader.join().expect("reading lines does not panic");
        }
        Self { status, output: output.text() }
    }
}

/// What a command of the CLI printed, and how it ended.
#[derive(Debug)]
pub struct CommandOutput {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `statehouse` with the arguments to its end.
pub fn cli<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> CommandOutput {
    cli_in(&[], arguments)
}

/// The same, with variables in its environment.
pub fn cli_in<A>(environment: &[(String, String)], arguments: impl IntoIterator<Item = A>) -> CommandOutput
where
    A: AsRef<std::ffi::OsStr>,
{
    finish(Command::new(binary()).args(arguments).envs(environment.iter().map(|(name, value)| (name, value))))
}

/// Runs `statehouse-audit` with the arguments to its end.
pub fn auditor(arguments: &[&str]) -> CommandOutput {
    let path = binary().with_file_name("statehouse-audit");
    assert!(path.is_file(), "no {}: run `cargo build --release -p statehouse-audit` first", path.display());
    finish(Command::new(path).args(arguments))
}

fn finish(command: &mut Command) -> CommandOutput {
    let output = command.stdin(Stdio::null()).output().expect("the binary can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    CommandOutput { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The path of a folder as an argument.
pub fn argument(path: &Path) -> &str {
    path.to_str().expect("temporary folders have UTF-8 names")
}

/// `STATEHOUSE_BIN`, or the binary of the build that this test belongs to.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("STATEHOUSE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/release/deps");
    let path = folder.join("statehouse");
    assert!(path.is_file(), "no {}: run `cargo build --release -p statehouse` first", path.display());
    path
}

fn end(child: &mut Child) {
    // Both calls fail only for a child that has ended and was waited for, which is the aim.
    child.kill().ok();
    child.wait().ok();
}

async fn exit_of(child: &mut Child) -> ExitStatus {
    eventually("the process ends", async || child.try_wait().expect("the child can be waited for")).await
}

/// The last lines that a process printed.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<VecDeque<String>>>);

impl Output {
    /// Reads a stream to its end on a thread of its own, and reports the first address it names.
    fn collect(
        &self,
        stream: impl Read + Send + 'static,
        mut found: Option<oneshot::Sender<SocketAddr>>,
    ) -> JoinHandle<()> {
        let output = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let url = line.split_once(LISTENING).and_then(|(_, rest)| rest.split_whitespace().next());
                let address = url.and_then(|url| url.split_once("://")?.1.parse().ok());
                output.push(line);
                if let Some(address) = address
                    && let Some(found) = found.take()
                {
                    // Nobody waits for the address if the start was given up.
                    found.send(address).ok();
                }
            }
        })
    }

    fn push(&self, line: String) {
        let mut lines = self.lines();
        lines.push_back(line);
        if lines.len() > OUTPUT_LINES_MAX {
            lines.pop_front();
        }
    }

    fn text(&self) -> String {
        Vec::from(self.lines().clone()).join("\n")
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().expect("collecting lines does not panic")
    }
}
