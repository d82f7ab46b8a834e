//! A module as it is named on the command line: a `.wasm` file, or a release as `wallet@1.1.0`.
//!
//! In: that text and the folder of the released modules. Out: the bytes. A release whose file differs from the manifest
//! is refused. It compiles nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use statehouse_kernel::ids::ModuleId;

use super::release::ReleaseManifest;

/// Where releases are looked for.
#[derive(Debug, Args)]
pub(super) struct Releases {
    /// The folder of the released modules
    #[arg(long = "releases", value_name = "FOLDER", default_value = "modules/releases")]
    folder: PathBuf,
}

/// A module's bytes, and its file for messages.
pub(super) struct NamedModule {
    pub(super) file: PathBuf,
    pub(super) wasm: Vec<u8>,
}

impl Releases {
    pub(super) fn read(&self, name: &str) -> anyhow::Result<NamedModule> {
        let file = Path::new(name);
        match name.split_once('@') {
            Some((module, version)) if !file.exists() => self.read_release(module, version),
            _ => Ok(NamedModule { file: file.to_owned(), wasm: read(file)? }),
        }
    }

    fn read_release(&self, module: &str, version: &str) -> anyhow::Result<NamedModule> {
        let manifest = ReleaseManifest::read(&self.folder)?;
        let Some(release) = manifest.find(module, version) else {
            let known: Vec<String> = manifest.names().collect();
            bail!(
                "{} has no release {module}@{version}; it has: {}",
                self.folder.display(),
                if known.is_empty() { "none".to_owned() } else { known.join(" ") }
            );
        };
        let file = self.folder.join(&release.file);
        let wasm = read(&file)?;
        let found = ModuleId::of(&wasm);
        ensure!(
            found == release.id,
            "{} is {}, and the release {}: restore it from version control",
            file.display(),
            found.short(),
            release.id.short()
        );
        Ok(NamedModule { file, wasm })
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| {
        format!("{} cannot be read; name a .wasm file, or a release as module@version", file.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_releases_are_found_by_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules/releases");
        let releases = Releases { folder: folder.clone() };
        let by_release = releases.read("wallet@1.1.0").expect("a release");
        let file = folder.join("wallet-1.1.0.wasm");
        assert_eq!(by_release.wasm, releases.read(&file.to_string_lossy()).expect("a file").wasm);
        for (name, expected) in [
            ("wallet@9.9.9", "has no release wallet@9.9.9; it has: audit_trail@1.0.0 capacity@1.0.0 "),
            ("none.wasm", "cannot be read"),
        ] {
            let error = releases.read(name).err().expect("there is no such module").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_damaged_release_is_refused() {
        let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules/releases");
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::copy(good.join("manifest.toml"), folder.path().join("manifest.toml")).expect("copied");
        fs::write(folder.path().join("wallet-1.1.0.wasm"), b"something else").expect("written");
        let releases = Releases { folder: folder.path().to_owned() };
        let error = releases.read("wallet@1.1.0").err().expect("it is damaged").to_string();
        assert!(error.contains("restore it from version control"), "{error}");
    }
}
