//! Finds a compiler for wasm32-unknown-unknown: rustup's; otherwise rustup's after adding the target; otherwise
//! Debian's. A compiler of Debian's that was unpacked earlier has priority over the two ways that need the network.
//!
//! Out: the settings with which cargo uses it. It knows nothing of modules.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{debian, spinner};

pub(super) const TARGET: &str = "wasm32-unknown-unknown";
/// If a download takes longer, the network is closed.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(20);

/// A compiler for modules, and the settings with which cargo uses it.
pub(super) struct Toolchain {
    /// The output of `rustc -V`.
    pub(super) compiler: String,
    pub(super) env: Vec<(&'static str, OsString)>,
    pub(super) cargo_args: Vec<&'static str>,
    /// Source of the standard library, if it is compiled with the module.
    pub(super) library: Option<PathBuf>,
}

impl Toolchain {
    /// # Errors
    /// None of the three ways works; the message names all of them with their reasons.
    pub(super) fn find() -> anyhow::Result<Self> {
        if let Some(toolchain) = Self::find_here()? {
            return Ok(toolchain);
        }
        let (sysroot, cache) = (sysroot(), cache_folder()?);
        let linker = find_linker(sysroot.as_deref().ok());
        let by_rustup = sysroot.and_then(|sysroot| add_target(&sysroot));
        let Err(rustup_error) = by_rustup else { return Self::rustup() };
        match linker.and_then(|linker| Self::debian(debian::unpack(&cache)?, &linker)) {
            Ok(toolchain) => Ok(toolchain),
            Err(debian_error) => bail!(
                "no compiler for {TARGET}. Do one of these and try again:\n1. have rustup's toolchain with the target \
                 installed, for example in an image built elsewhere;\n2. open the network for `rustup target add \
                 {TARGET}`\n   (tried: {rustup_error:#});\n3. on Debian or Ubuntu, make `apt-get download rustc-web \
                 rust-web-src` possible\n   (tried: {debian_error:#})"
            ),
        }
    }

    /// One that is on this machine already, so that nobody needs the network.
    pub(super) fn find_here() -> anyhow::Result<Option<Self>> {
        let sysroot = sysroot();
        if sysroot.as_ref().is_ok_and(|sysroot| has_target(sysroot)) {
            return Self::rustup().map(Some);
        }
        match (debian::find_unpacked(&cache_folder()?)?, find_linker(sysroot.as_deref().ok())) {
            (Some(unpacked), Ok(linker)) => Self::debian(unpacked, &linker).map(Some),
            _ => Ok(None),
        }
    }

    fn rustup() -> anyhow::Result<Self> {
        let compiler = output(Command::new("rustc").arg("-V"))?;
        Ok(Self { compiler, env: Vec::new(), cargo_args: Vec::new(), library: None })
    }

    /// Debian's compiler has no standard library for the target: cargo compiles it from source, with rustup's linker.
    fn debian(unpacked: debian::UnpackedCompiler, linker: &Path) -> anyhow::Result<Self> {
        let compiler = output(Command::new(&unpacked.rustc).arg("-V"))?;
        let env = vec![
            ("RUSTC", unpacked.rustc.into_os_string()),
            ("RUSTC_BOOTSTRAP", "1".into()),
            ("__CARGO_TESTS_ONLY_SRC_ROOT", unpacked.library.clone().into_os_string()),
            ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker.as_os_str().to_owned()),
        ];
        let cargo_args = vec!["-Zbuild-std=std,panic_abort"];
        Ok(Self { compiler, env, cargo_args, library: Some(unpacked.library) })
    }
}

/// `$XDG_CACHE_HOME/statehouse`, or `~/.cache/statehouse`.
pub(super) fn cache_folder() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("no cache folder: set HOME or XDG_CACHE_HOME")?.join("statehouse"))
}

fn sysroot() -> anyhow::Result<PathBuf> {
    output(Command::new("rustc").args(["--print", "sysroot"])).map(PathBuf::from)
}

fn has_target(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn add_target(sysroot: &Path) -> anyhow::Result<()> {
    let _spinner = spinner(format!("adding rustup's target {TARGET}"));
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = rustup.spawn().context("rustup cannot be run")?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if RUSTUP_PATIENCE < start.elapsed() {
            child.kill()?;
            child.wait()?;
            bail!("no answer within {} s", RUSTUP_PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let done = child.wait_with_output()?;
    if !done.status.success() || !has_target(sysroot) {
        bail!("{}", last_line(&done.stderr));
    }
    Ok(())
}

/// lld from rustup, otherwise the installed one.
fn find_linker(sysroot: Option<&Path>) -> anyhow::Result<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let of_rustup = sysroot.map(|sysroot| sysroot.join("lib/rustlib").join(host).join("bin/rust-lld"));
    if let Some(linker) = of_rustup.filter(|linker| linker.is_file()) {
        return Ok(linker);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join("wasm-ld")).find(|file| file.is_file());
    installed.context("neither rustup's rust-lld nor wasm-ld is there; install rustup, or the package lld")
}

/// Standard output of a command that must succeed, trimmed.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("{name} cannot be run"))?;
    if !done.status.success() {
        bail!("{name} failed: {}", last_line(&done.stderr));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}
