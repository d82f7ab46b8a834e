//! Unpacks Debian's rustc with the source of its standard library into the cache, without installing anything.
//!
//! ```text
//! <cache>/wasm-toolchain-<version>/rustc      a script that runs the compiler with its own libraries
//!                                  usr/…      the packages' files that are needed
//! ```
//!
//! Apt is asked which packages and which versions to use. It knows nothing of cargo.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::spinner;
use super::toolchain::output;

const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";
const SOURCE: &str = "rust-web-src";
const FOLDER: &str = "wasm-toolchain-";

const WRAPPER: &str = r#"#!/bin/sh
root=${0%/*}
export LD_LIBRARY_PATH="$root/usr/lib/@triplet@${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$root/usr/bin/rustc" --sysroot "$root/usr" "$@"
"#;

/// The unpacked compiler.
pub(super) struct UnpackedCompiler {
    pub(super) rustc: PathBuf,
    /// Source of the standard library.
    pub(super) library: PathBuf,
}

/// The compiler that was unpacked earlier; of several, the one whose version sorts last.
pub(super) fn find_unpacked(cache: &Path) -> anyhow::Result<Option<UnpackedCompiler>> {
    let entries = match fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", cache.display())),
    };
    let mut roots: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    roots.retain(|root| {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(FOLDER) && root.join("rustc").is_file()
    });
    roots.sort();
    roots.pop().map(UnpackedCompiler::at).transpose()
}

/// Fetches and unpacks the newest release that apt knows.
pub(super) fn unpack(cache: &Path) -> anyhow::Result<UnpackedCompiler> {
    let version = match find_field(COMPILER, "Version") {
        Ok(version) => version,
        Err(_) => {
            let _spinner = spinner("fetching apt's package lists");
            output(Command::new("apt-get").args(["update", "-q"]))?;
            find_field(COMPILER, "Version")?
        }
    };
    let root = cache.join(format!("{FOLDER}{version}"));
    unpack_version(&version, cache, &root)?;
    UnpackedCompiler::at(root)
}

impl UnpackedCompiler {
    fn at(root: PathBuf) -> anyhow::Result<Self> {
        let sources =
            fs::read_dir(root.join("usr/src")).with_context(|| format!("{} is incomplete", root.display()))?;
        let mut libraries = sources.filter_map(|entry| Some(entry.ok()?.path().join("library")));
        let library = libraries.find(|library| library.is_dir()).with_context(|| {
            format!("{} has no source of the standard library; delete the folder and try again", root.display())
        })?;
        Ok(Self { rustc: root.join("rustc"), library })
    }
}

fn unpack_version(version: &str, cache: &Path, root: &Path) -> anyhow::Result<()> {
    let _spinner = spinner(format!("fetching Debian's rustc {version} (140 MB)"));
    fs::create_dir_all(cache).with_context(|| format!("{} cannot be made", cache.display()))?;
    let work = tempfile::Builder::new().prefix(".wasm-toolchain-").tempdir_in(cache)?;
    let (packages, files) = (work.path().join("packages"), work.path().join("files"));
    fs::create_dir(&packages)?;
    let shared_library = dependency(&format!("{LIBRARY}={version}"), "libstd-rust-web-")?;
    let llvm = dependency(&format!("{shared_library}={version}"), "libllvm")?;
    let mut fetch = Command::new("apt-get");
    fetch.current_dir(&packages).args(["download", "-q"]);
    fetch.args([COMPILER, LIBRARY, SOURCE, &shared_library].map(|package| format!("{package}={version}"))).arg(llvm);
    output(&mut fetch)?;
    for package in fs::read_dir(&packages)? {
        output(Command::new("dpkg").arg("-x").arg(package?.path()).arg(&files))?;
    }
    drop_unneeded(&files)?;
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let wrapper = files.join("rustc");
    fs::write(&wrapper, WRAPPER.replace("@triplet@", &triplet))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    output(Command::new(&wrapper).arg("-V")).context("the unpacked compiler does not run")?;
    match fs::rename(&files, root) {
        // Another process was faster; its result is as good.
        Err(_) if root.join("rustc").is_file() => Ok(()),
        renamed => renamed.with_context(|| format!("{} cannot be made", root.display())),
    }
}

/// Only the standard library of the source is used.
fn drop_unneeded(files: &Path) -> anyhow::Result<()> {
    let mut unneeded = vec![files.join("usr/share"), files.join("usr/libexec")];
    for source in fs::read_dir(files.join("usr/src")).context("the packages hold no source")? {
        let source = source?.path();
        unneeded.extend(["compiler", "src", "debian"].map(|name| source.join(name)));
    }
    for folder in unneeded {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The dependency of `package` whose name starts with `prefix`.
fn dependency(package: &str, prefix: &str) -> anyhow::Result<String> {
    let depends = find_field(package, "Depends")?;
    let mut names = depends.split([',', '|']).filter_map(|one| one.split_whitespace().next());
    let name = names.find(|name| name.starts_with(prefix));
    Ok(name.with_context(|| format!("package {package} depends on no {prefix}…"))?.to_owned())
}

/// A field of the newest version of a package that apt knows.
fn find_field(package: &str, field: &str) -> anyhow::Result<String> {
    let shown = output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    let value = field_of(&shown, field);
    ensure!(value.is_some(), "apt knows no package {package}");
    Ok(value.unwrap_or_default().to_owned())
}

fn field_of<'a>(stanza: &'a str, field: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
}
