//! `module release` and `module verify-releases`: the released modules in a folder, and the manifest that names them.
//!
//! `manifest.toml` holds one `[[release]]` per file with `module version schema file id size compiler`. Once the
//! sources here or those of the SDK have changed, it also holds `commit`: the commit whose tree gives the bytes. A
//! release is never changed; its own source may be kept beside it in the folder `<module>-<version>`. It does not know
//! which release is active anywhere.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use statehouse_kernel::ids::ModuleId;

use super::build::{BuiltModule, build};
use crate::output::print;

const MANIFEST: &str = "manifest.toml";

/// Build a module and add it to the folder of released modules
#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The folder with the module's Cargo.toml
    folder: PathBuf,
    /// The folder of the released modules
    #[arg(long, default_value = "modules/releases")]
    releases: PathBuf,
}

/// Check the bytes of the released modules, and build the current ones again from source
///
/// The command prints a line for each release. Exit code 1 means that a file is damaged, or that a build has other
/// bytes.
#[derive(Debug, Args)]
pub(super) struct ReleaseVerifyArgs {
    /// The folder of the released modules
    #[arg(long, default_value = "modules/releases")]
    releases: PathBuf,
    /// The folder with the modules' sources
    #[arg(long, default_value = "modules")]
    modules: PathBuf,
    /// Also build those releases whose source is kept in the releases folder or in an earlier commit
    #[arg(long)]
    rebuild: bool,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseManifest {
    #[serde(default, rename = "release")]
    releases: Vec<Release>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    module: String,
    version: String,
    schema: u32,
    /// Name of the file beside the manifest.
    pub(super) file: String,
    pub(super) id: ModuleId,
    size: u64,
    /// The output of `rustc -V`.
    compiler: String,
    /// The commit of this repository from whose tree it is built; without one, the present tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

/// The result of checking a release.
#[derive(Debug, PartialEq, Eq)]
enum ReleaseVerdict {
    /// The file differs from the manifest.
    Damaged {
        found: Option<ModuleId>,
    },
    /// Its source is kept, but a rebuild was not asked for.
    NotRebuilt {
        place: String,
    },
    /// This clone does not contain the commit.
    NoCommit {
        commit: String,
    },
    /// The source now has another version, so this one cannot be rebuilt.
    SourceMovedOn {
        version: String,
    },
    Same,
    /// Another compiler makes other bytes: not a fault.
    OtherCompiler {
        compiler: String,
    },
    Differs {
        rebuilt: ModuleId,
    },
}

pub(super) fn run(args: &ReleaseArgs) -> anyhow::Result<ExitCode> {
    let mut manifest = ReleaseManifest::read(&args.releases)?;
    let built = build(&args.folder)?;
    let release = Release::of(&built);
    if manifest.add(release.clone())? {
        fs::create_dir_all(&args.releases).with_context(|| format!("{} cannot be made", args.releases.display()))?;
        let file = args.releases.join(&release.file);
        fs::write(&file, built.module.wasm()).with_context(|| format!("{} cannot be written", file.display()))?;
        manifest.write(&args.releases)?;
        print(&format!(
            "released {} {}: {}, {} bytes\nnext: commit {} and {MANIFEST}\n",
            release.module, release.version, release.id, release.size, release.file
        ))?;
    } else {
        print(&format!("{} {} is released already, with these very bytes\n", release.module, release.version))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn verify(args: &ReleaseVerifyArgs) -> anyhow::Result<ExitCode> {
    let manifest = ReleaseManifest::read(&args.releases)?;
    ensure!(
        !manifest.releases.is_empty(),
        "{} names no release; make one with `statehouse module release`",
        args.releases.join(MANIFEST).display()
    );
    let mut code = ExitCode::SUCCESS;
    let mut rebuilt: Vec<(PathBuf, Release)> = Vec::new();
    let mut trees = Trees::new()?;
    for release in &manifest.releases {
        let found = read_id(&args.releases.join(&release.file))?;
        let kept = args.releases.join(release.folder());
        let verdict = match &release.commit {
            _ if found != Some(release.id) => ReleaseVerdict::Damaged { found },
            Some(commit) if !args.rebuild => ReleaseVerdict::NotRebuilt { place: format!("commit {}", short(commit)) },
            None if !args.rebuild && kept.is_dir() => ReleaseVerdict::NotRebuilt { place: release.folder() },
            commit => {
                let own = if kept.is_dir() { kept } else { args.modules.join(&release.module) };
                let tree = commit.as_ref().map(|commit| trees.of(commit)).transpose()?;
                match (commit, tree) {
                    (Some(commit), Some(None)) => ReleaseVerdict::NoCommit { commit: commit.clone() },
                    (_, tree) => {
                        let source = tree.flatten().map_or(own.clone(), |tree| tree.join(&own));
                        if !rebuilt.iter().any(|(built, _)| *built == source) {
                            rebuilt.push((source.clone(), Release::of(&build(&source)?)));
                        }
                        let (_, built) =
                            rebuilt.iter().find(|(built, _)| *built == source).context("it was just built")?;
                        judge(release, found, built)
                    }
                }
            }
        };
        print(&format!("{} {}: {}\n", release.module, release.version, verdict.text()))?;
        if matches!(verdict, ReleaseVerdict::Damaged { .. } | ReleaseVerdict::Differs { .. }) {
            code = ExitCode::from(1);
        }
    }
    Ok(code)
}

/// Trees of earlier commits, each unpacked once into a folder that is deleted with this value.
struct Trees {
    folder: tempfile::TempDir,
    known: BTreeMap<String, Option<PathBuf>>,
}

impl Trees {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder cannot be made")?;
        Ok(Self { folder, known: BTreeMap::new() })
    }

    /// The tree of a commit; `None` if this clone does not have it.
    fn of(&mut self, commit: &str) -> anyhow::Result<Option<PathBuf>> {
        if let Some(known) = self.known.get(commit) {
            return Ok(known.clone());
        }
        ensure!(
            commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{MANIFEST} names `{commit}`, which is no commit: give all 40 digits"
        );
        let tree = self.folder.path().join(commit);
        fs::create_dir(&tree).with_context(|| format!("{} cannot be made", tree.display()))?;
        let packed = self.folder.path().join(format!("{commit}.tar"));
        let git =
            Command::new("git").args(["archive", "--output"]).arg(&packed).arg(commit).stdin(Stdio::null()).output();
        let is_there = git.context("git cannot be run; it has the sources of earlier releases")?.status.success();
        if is_there {
            let tar = Command::new("tar").arg("-xf").arg(&packed).arg("-C").arg(&tree).stdin(Stdio::null()).output();
            ensure!(
                tar.context("tar cannot be run")?.status.success(),
                "the tree of commit {commit} cannot be unpacked"
            );
        }
        let found = is_there.then_some(tree);
        self.known.insert(commit.to_owned(), found.clone());
        Ok(found)
    }
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

fn judge(release: &Release, found: Option<ModuleId>, rebuilt: &Release) -> ReleaseVerdict {
    if found != Some(release.id) {
        return ReleaseVerdict::Damaged { found };
    }
    if rebuilt.version != release.version {
        return ReleaseVerdict::SourceMovedOn { version: rebuilt.version.clone() };
    }
    if rebuilt.id == release.id {
        return ReleaseVerdict::Same;
    }
    if rebuilt.compiler != release.compiler {
        return ReleaseVerdict::OtherCompiler { compiler: rebuilt.compiler.clone() };
    }
    ReleaseVerdict::Differs { rebuilt: rebuilt.id }
}

impl ReleaseVerdict {
    fn text(&self) -> String {
        match self {
            Self::Damaged { found: None } => "MISSING: the file is gone; restore it from version control".to_owned(),
            Self::Damaged { found: Some(found) } => {
                format!("DAMAGED: the file is {}; restore it from version control", found.short())
            }
            Self::NotRebuilt { place } => format!("file good; --rebuild compiles its source in {place}"),
            Self::NoCommit { commit } => {
                format!(
                    "file good; commit {} is not in this clone, so not rebuilt: fetch the whole history",
                    short(commit)
                )
            }
            Self::SourceMovedOn { version } => format!("file good; the source is now {version}, so not rebuilt"),
            Self::Same => "file good; the source gives the same bytes".to_owned(),
            Self::OtherCompiler { compiler } => {
                format!(
                    "file good; {compiler} gives other bytes than the compiler of the release, which is not an error"
                )
            }
            Self::Differs { rebuilt } => format!(
                "DIFFERS: the same compiler makes {} of the source; raise the version in Cargo.toml and release it",
                rebuilt.short()
            ),
        }
    }
}

impl Release {
    /// The folder beside the manifest in which the source of this version may be kept.
    fn folder(&self) -> String {
        format!("{}-{}", self.module, self.version)
    }

    fn of(built: &BuiltModule) -> Self {
        let described = built.module.describe();
        Self {
            module: described.name.clone(),
            version: described.version.clone(),
            schema: described.schema,
            file: format!("{}-{}.wasm", described.name, described.version),
            id: built.module.id(),
            size: built.module.wasm().len() as u64,
            compiler: built.compiler.clone(),
            commit: None,
        }
    }
}

impl ReleaseManifest {
    pub(super) fn find(&self, module: &str, version: &str) -> Option<&Release> {
        self.releases.iter().find(|release| release.module == module && release.version == version)
    }

    /// Every release as `module@version`.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.releases.iter().map(|release| format!("{}@{}", release.module, release.version))
    }

    /// Reads the manifest; a folder without one has no releases.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(MANIFEST);
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{} is no manifest", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(MANIFEST);
        let text = format!(
            "# Written by `statehouse module release`. A release is never changed.\n\n{}",
            toml::to_string(self)?
        );
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Adds a release, in order of module and age; returns `false` if it is there already.
    fn add(&mut self, release: Release) -> anyhow::Result<bool> {
        let same = |other: &&Release| other.module == release.module && other.version == release.version;
        if let Some(other) = self.releases.iter().find(same) {
            if other.id == release.id {
                return Ok(false);
            }
            bail!(
                "{} {} is released as {} and never changes; raise the version in Cargo.toml and release that",
                release.module,
                release.version,
                other.id.short()
            );
        }
        let at = self.releases.partition_point(|other| other.module <= release.module);
        self.releases.insert(at, release);
        Ok(true)
    }
}

fn read_id(file: &Path) -> anyhow::Result<Option<ModuleId>> {
    match fs::read(file) {
        Ok(wasm) => Ok(Some(ModuleId::of(&wasm))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(module: &str, version: &str, bytes: &[u8]) -> Release {
        Release {
            module: module.to_owned(),
            version: version.to_owned(),
            schema: 1,
            file: format!("{module}-{version}.wasm"),
            id: ModuleId::of(bytes),
            size: bytes.len() as u64,
            compiler: "rustc 1.95.0".to_owned(),
            commit: None,
        }
    }

    #[test]
    fn a_release_is_added_once_and_never_changed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut manifest = ReleaseManifest::read(folder.path()).expect("an empty folder");
        for (module, version) in [("wallet", "1.0.0"), ("counter", "1.0.0"), ("counter", "0.9.0")] {
            assert!(manifest.add(release(module, version, b"a")).expect("new"));
        }
        assert!(!manifest.add(release("wallet", "1.0.0", b"a")).expect("the same"));
        assert!(manifest.add(release("wallet", "1.0.0", b"b")).is_err());
        manifest.write(folder.path()).expect("written");
        let again = ReleaseManifest::read(folder.path()).expect("read");
        assert_eq!(again.releases, manifest.releases);
        let names: Vec<_> = again.releases.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(names, ["counter-1.0.0.wasm", "counter-0.9.0.wasm", "wallet-1.0.0.wasm"]);
    }

    #[test]
    fn a_rebuild_is_judged_by_file_version_bytes_and_compiler() {
        let recorded = release("wallet", "1.0.0", b"a");
        let other_bytes = release("wallet", "1.0.0", b"b");
        let other_compiler = Release { compiler: "rustc 1.96.0".to_owned(), ..other_bytes.clone() };
        let later = release("wallet", "1.1.0", b"c");
        let good = Some(recorded.id);
        assert_eq!(judge(&recorded, good, &recorded), ReleaseVerdict::Same);
        assert_eq!(judge(&recorded, None, &recorded), ReleaseVerdict::Damaged { found: None });
        assert_eq!(judge(&recorded, Some(later.id), &recorded), ReleaseVerdict::Damaged { found: Some(later.id) });
        assert_eq!(judge(&recorded, good, &later), ReleaseVerdict::SourceMovedOn { version: "1.1.0".to_owned() });
        assert_eq!(judge(&recorded, good, &other_bytes), ReleaseVerdict::Differs { rebuilt: other_bytes.id });
        let compiler = other_compiler.compiler.clone();
        assert_eq!(judge(&recorded, good, &other_compiler), ReleaseVerdict::OtherCompiler { compiler });
    }
}
