//! `module new`: writes the module `counter` under another name, ready to build and to test.
//!
//! Inside a checkout of statehouse the new module uses the SDK there; elsewhere it gets a copy of the SDK in `sdk/`.
//! It knows nothing of what the template does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;

include!(concat!(env!("OUT_DIR"), "/embedded_sources.rs"));

/// The template, in the checkout.
const TEMPLATE: &str = "modules/counter/";
const SDK_MEMBERS: [&str; 5] =
    ["guest-sdk", "guest-sdk/abi", "guest-sdk/macros", "guest-sdk/projection", "guest-sdk/testkit"];
/// Names longer than that are refused by the contract.
const NAME_CHARS_MAX: usize = 32;

/// Write a new module: a copy of the template `counter`
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Name of the machine and of the folder to make: a–z, then a–z, 0–9, _ and -
    name: String,
}

pub(super) fn run(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    write(&args.name, &here)?;
    println!("wrote {0}/\nnext: edit {0}/src/lib.rs, then `statehouse module build {0}`", args.name);
    Ok(ExitCode::SUCCESS)
}

fn write(name: &str, parent: &Path) -> anyhow::Result<()> {
    let good =
        |at: usize, char: char| char.is_ascii_lowercase() || 0 < at && (char.is_ascii_digit() || "_-".contains(char));
    if name.is_empty() || NAME_CHARS_MAX < name.len() || !name.chars().enumerate().all(|(at, char)| good(at, char)) {
        bail!("`{name}` is no name for a module: use 1 to {NAME_CHARS_MAX} of a–z, 0–9, _ and -, a letter first");
    }
    let folder = parent.join(name);
    ensure!(!folder.exists(), "{} is there already; choose another name or remove it", folder.display());
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for (path, text) in SOURCES.iter().filter_map(|(path, text)| Some((path.strip_prefix(TEMPLATE)?, text))) {
        if path != "Cargo.toml" {
            files.push((path.into(), rename(text, name)));
        }
    }
    let sdk = match find_checkout(parent) {
        Some(up) => up,
        None => {
            files.extend(sdk_files()?);
            PathBuf::from("sdk")
        }
    };
    files.push(("Cargo.toml".into(), manifest(name, &sdk)));
    for (path, text) in files {
        let path = folder.join(path);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

/// The way from a folder in `parent` to the checkout that `parent` lies in.
fn find_checkout(parent: &Path) -> Option<PathBuf> {
    let up = parent.ancestors().position(|folder| folder.join("guest-sdk/abi/Cargo.toml").is_file())?;
    Some(std::iter::repeat_n("..", up + 1).collect())
}

/// The template's own names, replaced. What it counts keeps its name: that is for the author to change.
fn rename(text: &str, name: &str) -> String {
    let krate = name.replace('-', "_");
    let camel: String = krate.split('_').map(capitalised).collect();
    text.replace("NAME: &'static str = \"counter\"", &format!("NAME: &'static str = \"{name}\""))
        .replace("CounterModule", &format!("{camel}Module"))
        .replace("use counter::", &format!("use {krate}::"))
        .replace("\"counter.wasm\"", &format!("\"{krate}.wasm\""))
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// A manifest that stands alone: it belongs to no workspace around it.
fn manifest(name: &str, sdk: &Path) -> String {
    let sdk = sdk.display();
    format!(
        r#"[package]
name = "{name}"
version = "0.1.0"
edition = "2024"
publish = false

[lib]
crate-type = ["cdylib", "rlib"]

[dependencies]
statehouse-guest = {{ path = "{sdk}/guest-sdk" }}

[dev-dependencies]
proptest = {{ version = "1", default-features = false, features = ["std", "bit-set"] }}
statehouse-testkit = {{ path = "{sdk}/guest-sdk/testkit" }}

[workspace]
exclude = ["sdk"]
"#
    )
}

/// The SDK below `sdk/`, as a workspace of its own.
fn sdk_files() -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for (path, text) in SOURCES.iter().filter(|(path, _)| !path.starts_with(TEMPLATE)) {
        let text = if *path == "Cargo.toml" { sdk_manifest(text)? } else { (*text).to_owned() };
        files.push((Path::new("sdk").join(path), text));
    }
    Ok(files)
}

/// The checkout's own manifest with the SDK as its only members.
fn sdk_manifest(text: &str) -> anyhow::Result<String> {
    let mut manifest: toml::Table = toml::from_str(text).context("the embedded Cargo.toml is damaged")?;
    let workspace = manifest.get_mut("workspace").and_then(toml::Value::as_table_mut);
    let workspace = workspace.context("the embedded Cargo.toml has no workspace")?;
    workspace.insert("members".to_owned(), SDK_MEMBERS.map(toml::Value::from).to_vec().into());
    Ok(toml::to_string(&manifest)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["", "Upper", "1st", "-x", "a b", "../up", "ä", &"x".repeat(33)] {
            assert!(write(name, folder.path()).is_err(), "{name}");
        }
        assert!(write("fee-book", folder.path()).is_ok());
        let lib = folder.path().join("fee-book/src/lib.rs");
        fs::write(&lib, "mine").expect("the module is there");
        assert!(write("fee-book", folder.path()).is_err());
        assert_eq!(fs::read_to_string(&lib).expect("the module is there"), "mine");
    }

    #[test]
    fn a_module_outside_of_a_checkout_brings_the_sdk() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write("fee-book", folder.path()).expect("written");
        let module = folder.path().join("fee-book");
        let manifest: toml::Table =
            fs::read_to_string(module.join("Cargo.toml")).expect("there").parse().expect("TOML");
        assert_eq!(manifest["dependencies"]["statehouse-guest"]["path"].as_str(), Some("sdk/guest-sdk"));
        for member in SDK_MEMBERS {
            assert!(module.join("sdk").join(member).join("src/lib.rs").is_file(), "{member}");
        }
    }

    #[test]
    fn a_module_inside_of_a_checkout_uses_its_sdk() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let modules = folder.path().join("my/modules");
        fs::create_dir_all(folder.path().join("guest-sdk/abi")).expect("made");
        fs::create_dir_all(&modules).expect("made");
        fs::write(folder.path().join("guest-sdk/abi/Cargo.toml"), "").expect("made");
        write("fees", &modules).expect("written");
        assert!(modules.join("fees").join("../../../guest-sdk/abi/Cargo.toml").is_file());
        let manifest = fs::read_to_string(modules.join("fees/Cargo.toml")).expect("there");
        assert!(manifest.contains("path = \"../../../guest-sdk\""), "{manifest}");
        assert!(!modules.join("fees/sdk").exists());
    }

    #[test]
    fn every_name_of_the_template_is_replaced() {
        let text = "use counter::CounterModule; \"counter.wasm\" const NAME: &'static str = \"counter\"; counters";
        let renamed =
            "use fee_book::FeeBookModule; \"fee_book.wasm\" const NAME: &'static str = \"fee-book\"; counters";
        assert_eq!(rename(text, "fee-book"), renamed);
    }
}
