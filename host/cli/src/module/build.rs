//! `module build`: compiles a module, checks it as the host will, and prints what was built.
//!
//! The same source, compiler and folder give the same bytes; no path of the machine is in them. Function names stay,
//! for backtraces and the validator's messages. It does not know how the compiler was found.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value as Json;
use statehouse_engine::guest::{Allowance, Engine, EngineOptions, GuestError, Module};

use super::spinner;
use super::toolchain::{TARGET, Toolchain, cache_folder, output};
use crate::output::print;

/// Compile a module, check it, and print its id
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The folder with the module's Cargo.toml
    folder: PathBuf,
    /// The file to write; the default is FOLDER/<name>-<version>.wasm
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How every module is compiled: fast code first, then small.
const PROFILE: [(&str, &str); 7] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "false"),
];

/// A module that was compiled and that the host accepts.
pub(super) struct BuiltModule {
    pub(super) module: Arc<Module>,
    /// The output of `rustc -V`.
    pub(super) compiler: String,
}

pub(super) fn run(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let built = build(&args.folder)?;
    let described = built.module.describe();
    let name = format!("{}-{}.wasm", described.name, described.version);
    let out = args.out.clone().unwrap_or_else(|| args.folder.join(name));
    fs::write(&out, built.module.wasm()).with_context(|| format!("{} cannot be written", out.display()))?;
    print(&format!(
        "module    {} {}\nschema    {}\nid        {}\nsize      {} bytes\ncompiler  {}\nfile      {file}\n\
         next: `statehouse module inspect {file}` shows what it declares\n",
        described.name,
        described.version,
        described.schema,
        built.module.id(),
        built.module.wasm().len(),
        built.compiler,
        file = out.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Compiles the module in `folder` and loads it.
pub(super) fn build(folder: &Path) -> anyhow::Result<BuiltModule> {
    let manifest = folder.join("Cargo.toml");
    let manifest = manifest.canonicalize().with_context(|| {
        format!("{} is not there; name a module's folder, or make one with `statehouse module new`", manifest.display())
    })?;
    let toolchain = Toolchain::find()?;
    let metadata =
        output(Command::new(cargo()).args(["metadata", "--format-version", "1", "--manifest-path"]).arg(&manifest))?;
    let metadata: Json = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let target_folder = cache_folder()?.join("wasm-target");
    let rustflags = rustflags(&metadata, &toolchain, &target_folder)?;
    let file = compile(&manifest, &toolchain, &target_folder, rustflags)?;
    let wasm = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(BuiltModule { module: load(&wasm, &file)?, compiler: toolchain.compiler })
}

/// Loads a module as a host does that does not know it, without a cache.
pub(super) fn load(wasm: &[u8], file: &Path) -> anyhow::Result<Arc<Module>> {
    let _spinner = spinner(format!("checking {}", file.display()));
    let engine = Engine::new(EngineOptions { instances_max: 1, ..EngineOptions::default() })?;
    engine.load(wasm, Allowance::Foreign).map_err(|error| match error {
        GuestError::Refused { problems } => {
            let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            anyhow::anyhow!("{} is no module:{}", file.display(), lines.concat())
        }
        error => anyhow::Error::new(error).context(format!("{} is no module", file.display())),
    })
}

fn compile(
    manifest: &Path,
    toolchain: &Toolchain,
    target_folder: &Path,
    rustflags: OsString,
) -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new(cargo());
    cargo.args(["build", "--lib", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.args(&toolchain.cargo_args).arg("--manifest-path").arg(manifest);
    cargo.envs(PROFILE).envs(toolchain.env.iter().map(|(name, value)| (name, value)));
    cargo.env("CARGO_TARGET_DIR", target_folder).env("CARGO_ENCODED_RUSTFLAGS", rustflags);
    cargo.env_remove("RUSTFLAGS").env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
    let done = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    if !done.status.success() {
        bail!("the module does not compile; cargo's messages above say why");
    }
    let messages = String::from_utf8_lossy(&done.stdout);
    let artefacts = messages.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let file = artefacts.filter_map(|message| find_wasm(&message, manifest)).next_back();
    file.with_context(|| {
        format!("{} makes no .wasm; give it `[lib] crate-type = [\"cdylib\", \"rlib\"]`", manifest.display())
    })
}

/// The `.wasm` file that, according to a message of cargo, was made from this manifest.
fn find_wasm(message: &Json, manifest: &Path) -> Option<PathBuf> {
    if message["reason"] != "compiler-artifact" || Path::new(message["manifest_path"].as_str()?) != manifest {
        return None;
    }
    let mut files = message["filenames"].as_array()?.iter().filter_map(Json::as_str).map(PathBuf::from);
    files.find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

/// Flags that replace every folder of this machine by a name; the last one that matches counts.
fn rustflags(metadata: &Json, toolchain: &Toolchain, target_folder: &Path) -> anyhow::Result<OsString> {
    let mut prefixes: Vec<(PathBuf, String)> = Vec::new();
    if let Some(home) = std::env::var_os("HOME") {
        prefixes.push((home.into(), "/home".to_owned()));
    }
    prefixes.push((cargo_home()?, "/cargo".to_owned()));
    prefixes.push((target_folder.to_owned(), "/target".to_owned()));
    if let Some(library) = &toolchain.library {
        prefixes.push((library.clone(), "/rust/library".to_owned()));
    }
    let mut registries = BTreeSet::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let (Some(name), Some(manifest)) = (package["name"].as_str(), package["manifest_path"].as_str()) else {
            continue;
        };
        let Some(folder) = Path::new(manifest).parent() else { continue };
        if package["source"].is_null() {
            prefixes.push((folder.to_owned(), format!("/{name}")));
        } else if let Some(registry) = folder.parent() {
            // Its name shows which registry this machine uses; the crate's own folder names crate and version.
            registries.insert(registry.to_owned());
        }
    }
    prefixes.extend(registries.into_iter().map(|registry| (registry, "/crates".to_owned())));
    let mut flags = OsString::new();
    for (from, to) in prefixes {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    Ok(flags)
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    set.or_else(home).context("cargo's folder is unknown: set HOME or CARGO_HOME")
}

pub(super) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
