//! A child process that compiles, as its parent sees it: started, given the module, waited for, and ended.
//!
//! In: a module and its bounds. Out: the child's result, or the limit that it met. Only one child for foreign modules
//! runs at a time. It knows nothing of how modules are compiled.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Resource, getrlimit};

use super::Compilation;
use super::wire::{ChildAnswer, CompileFailure};
use crate::guest::allowance::Allowance;
use crate::guest::error::{CompileLimit, GuestError};
use crate::guest::module::Pace;

/// How soon a child is ended once nobody waits for it any more.
const LOOK: Duration = Duration::from_millis(20);
/// How often to check whether a child that has closed its pipe has ended.
const LOOKS_MAX: usize = 100;
/// How much is kept of what a child writes on stderr: its last words.
const WORDS_BYTES_MAX: usize = 4 << 10;
/// Threads of a child. With more it would only reach its limit of CPU time sooner.
const THREADS: &str = "4";

/// The exit code of a program that panics.
const PANICKED: i32 = 101;

/// Several compilations at once would take too much from a node's other work. But recorded modules do not wait for
/// foreign ones.
static TURN_OF_FOREIGN: Mutex<()> = Mutex::new(());
static TURN_OF_RECORDED: Mutex<()> = Mutex::new(());

/// What is asked of a child.
pub(super) struct CompileJob<'a> {
    pub(super) paces: &'a [Pace],
    /// The fingerprint of this process's engines.
    pub(super) fingerprint: &'a blake3::Hash,
    pub(super) wasm: &'a [u8],
    pub(super) allowance: Allowance,
    /// Returns an error once nobody waits for the result any more.
    pub(super) is_wanted: &'a dyn Fn() -> Result<(), GuestError>,
}

/// Compiles a module in a child. The calling thread must live until this returns, because the child dies with that
/// thread.
pub(super) fn run(program: &Path, job: &CompileJob<'_>) -> Result<Compilation, GuestError> {
    let _turn = wait_for_turn(job)?;
    let started = Instant::now();
    let mut child = start(program, job)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        unreachable!("all three were asked to be pipes");
    };
    let wasm = job.wasm;
    let (heard, answer, words) = std::thread::scope(|scope| {
        // A child that has ended reads no more, and has said why.
        scope.spawn(move || drop(stdin.write_all(wasm)));
        let (say, hear) = channel();
        scope.spawn(move || drop(say.send(ChildAnswer::read(&mut stdout))));
        let words = scope.spawn(move || last_words(stderr));
        let heard = wait(&hear, started, job);
        let answer = match &heard {
            Ok(answer) if !answer.is_whole => Err(ended(&mut child)),
            _ => Ok(()),
        };
        // The child has nothing more to do; when it is gone the other threads end.
        end(&mut child);
        (heard, answer, words.join().unwrap_or_default())
    });
    let heard = heard?;
    tell_confined(&heard);
    match answer {
        Err(status) => Err(died(&status.map_err(not_run)?, &words, job.allowance)),
        Ok(()) => judge(heard, job),
    }
}

fn wait_for_turn(job: &CompileJob<'_>) -> Result<MutexGuard<'static, ()>, GuestError> {
    let turn = match job.allowance {
        Allowance::Foreign => &TURN_OF_FOREIGN,
        Allowance::Recorded => &TURN_OF_RECORDED,
    };
    loop {
        (job.is_wanted)()?;
        if let Some(turn) = turn.try_lock_for(LOOK) {
            return Ok(turn);
        }
    }
}

fn start(program: &Path, job: &CompileJob<'_>) -> Result<Child, GuestError> {
    let mut command = Command::new(program);
    command.arg("compile-module");
    command.args((job.allowance == Allowance::Recorded).then_some("--recorded"));
    command.args(job.paces.contains(&Pace::Fast).then_some("--fast"));
    command.args(job.paces.contains(&Pace::Metered).then_some("--metered"));
    // The child gets no environment of this process, and no signals of its terminal.
    command.env_clear().env("RAYON_NUM_THREADS", THREADS).current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(not_run)
}

/// Waits until the child has said everything, or nobody waits for it any more.
fn wait(hear: &Receiver<ChildAnswer>, started: Instant, job: &CompileJob<'_>) -> Result<ChildAnswer, GuestError> {
    let wall = job.allowance.wall();
    loop {
        match hear.recv_timeout(LOOK) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Disconnected) => unreachable!("whoever reads says what was read"),
            Err(RecvTimeoutError::Timeout) => (job.is_wanted)()?,
        }
        if wall < started.elapsed() {
            return Err(GuestError::Limit(CompileLimit::Wall { seconds: wall.as_secs() }));
        }
    }
}

/// How a child that says nothing more has ended. A child that only pretends to end is killed.
fn ended(child: &mut Child) -> std::io::Result<ExitStatus> {
    for _ in 0..LOOKS_MAX {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
    child.kill()?;
    child.wait()
}

fn end(child: &mut Child) {
    // Both fail if it has ended already.
    drop(child.kill());
    drop(child.wait());
}

fn last_words(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(size @ 1..) = stderr.read(&mut piece) {
        kept.extend_from_slice(&piece[..size]);
        let surplus = kept.len().saturating_sub(WORDS_BYTES_MAX);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Which limit was met by a child that said nothing more.
fn died(status: &ExitStatus, words: &str, allowance: Allowance) -> GuestError {
    tracing::debug!(%status, words, "a compiling child process has died");
    if is_memory(words) {
        return memory_met(allowance);
    }
    if status.signal() == Some(libc::SIGXCPU) {
        return GuestError::Limit(CompileLimit::Cpu {
            seconds: or_inherited(Resource::Cpu, allowance.cpu().as_secs()),
        });
    }
    if status.code().is_some_and(|code| code != PANICKED) {
        // It ended before it looked at the module.
        return GuestError::Compiler { detail: format!("{status}: {words}") };
    }
    let words: String = words.lines().take(3).collect::<Vec<_>>().join("; ");
    GuestError::Limit(CompileLimit::Death { how: format!("{status}: {words}") })
}

fn memory_met(allowance: Allowance) -> GuestError {
    GuestError::Limit(CompileLimit::Memory { mib: or_inherited(Resource::Data, allowance.memory()) >> 20 })
}

/// The limit of this process if it is lower, because a child cannot raise it.
fn or_inherited(resource: Resource, wanted: u64) -> u64 {
    getrlimit(resource).maximum.map_or(wanted, |maximum| wanted.min(maximum))
}

/// Whether the text is that of an allocator, in Rust's words or the system's.
fn is_memory(words: &str) -> bool {
    ["memory allocation of", "out of memory", "Out of memory", "Cannot allocate memory"]
        .iter()
        .any(|known| words.contains(known))
}

/// Judges what a child said that finished.
fn judge(answer: ChildAnswer, job: &CompileJob<'_>) -> Result<Compilation, GuestError> {
    match answer.failure {
        Some(CompileFailure::Compile(detail)) if is_memory(&detail) => {
            return Err(memory_met(job.allowance));
        }
        Some(CompileFailure::Compile(detail)) => return Err(GuestError::Compile { detail }),
        Some(CompileFailure::Describe(fault)) => return Err(GuestError::Describe(fault)),
        Some(CompileFailure::TooLong { limit }) => {
            return Err(GuestError::Limit(CompileLimit::Artefact { mib: limit as u64 >> 20 }));
        }
        Some(CompileFailure::Other(detail)) => return Err(GuestError::Compiler { detail }),
        None => {}
    }
    let strange = |detail: &str| GuestError::Compiler { detail: detail.to_owned() };
    if answer.fingerprint.is_none_or(|found| found != *job.fingerprint.as_bytes()) {
        return Err(strange("it compiles for other engines than this process has: is it the same program?"));
    }
    if !answer.artefacts.iter().map(|(pace, _)| pace).eq(job.paces) {
        return Err(strange("it has compiled for other engines than it was asked to"));
    }
    let described = answer.described.ok_or_else(|| strange("it has not asked the module to describe itself"))?;
    Ok(Compilation { artefacts: answer.artefacts, described })
}

/// Once in the life of this process.
fn tell_confined(answer: &ChildAnswer) {
    static TOLD: Once = Once::new();
    let Some(missing) = &answer.confined else { return };
    TOLD.call_once(|| match missing.as_str() {
        "" => tracing::info!("foreign modules are compiled in a child without files, network or other processes"),
        missing => tracing::warn!(
            missing,
            "foreign modules are compiled in a child process that this kernel cannot confine completely: a module \
             that breaks the compiler would have the rights of this user"
        ),
    });
}

fn not_run(error: std::io::Error) -> GuestError {
    GuestError::Compiler { detail: error.to_string() }
}
