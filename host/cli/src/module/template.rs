//! `module new`: writes the module `counter`, or the view `double_charges`, under another name, ready to build and to
//! test.
//!
//! Inside a checkout of statehouse the new module uses the SDK there; elsewhere it gets a copy of the SDK in `sdk/`. It
//! does not know what the templates do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::dev::WALLET;
use crate::output::print;

include!(concat!(env!("OUT_DIR"), "/embedded_sources.rs"));

/// Where all templates lie in the checkout.
const TEMPLATES: &str = "modules/";
const SDK_MEMBERS: [&str; 5] =
    ["guest-sdk", "guest-sdk/abi", "guest-sdk/macros", "guest-sdk/projection", "guest-sdk/testkit"];
/// The wallet that decides the commands of a view's scenarios.
const WALLET_FILE: &str = "wallet-1.0.1.wasm";
/// The contract refuses longer names.
const NAME_CHARS_MAX: usize = 32;

/// Create the source of a new module: a copy of the template `counter`, or of the view `double_charges`
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The name of the machine or view, and of the folder to create: a–z, then a–z, 0–9, _ and -
    name: String,
    /// Create a view of the wallet instead of the module of a machine
    #[arg(long)]
    view: bool,
}

#[derive(Clone, Copy)]
enum Template {
    Counter,
    DoubleCharges,
}

pub(super) fn run(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    write(if args.view { Template::DoubleCharges } else { Template::Counter }, &args.name, &here)?;
    print(&format!("wrote {0}/\nnext: edit {0}/src/lib.rs, then `statehouse module build {0}`\n", args.name))?;
    Ok(ExitCode::SUCCESS)
}

fn write(template: Template, name: &str, parent: &Path) -> anyhow::Result<()> {
    let good =
        |at: usize, char: char| char.is_ascii_lowercase() || 0 < at && (char.is_ascii_digit() || "_-".contains(char));
    if name.is_empty() || NAME_CHARS_MAX < name.len() || !name.chars().enumerate().all(|(at, char)| good(at, char)) {
        bail!("`{name}` is no name for a module: use 1 to {NAME_CHARS_MAX} of a–z, 0–9, _ and -, a letter first");
    }
    let folder = parent.join(name);
    ensure!(!folder.exists(), "{} is there already; choose another name or remove it", folder.display());
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    let own = SOURCES.iter().filter_map(|(path, text)| Some((path.strip_prefix(template.folder())?, text)));
    for (path, text) in own.filter(|(path, _)| *path != "Cargo.toml") {
        files.push((path.into(), template.rename(text, name).into_bytes()));
    }
    if let Template::DoubleCharges = template {
        files.push((Path::new("tests").join(WALLET_FILE), WALLET.to_vec()));
    }
    let sdk = match find_checkout(parent) {
        Some(up) => up,
        None => {
            files.extend(sdk_files()?);
            PathBuf::from("sdk")
        }
    };
    files.push(("Cargo.toml".into(), template.manifest(name, &sdk).into_bytes()));
    for (path, bytes) in files {
        let path = folder.join(path);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
        written.with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

/// The relative path from a folder in `parent` to the checkout that contains `parent`.
fn find_checkout(parent: &Path) -> Option<PathBuf> {
    let up = parent.ancestors().position(|folder| folder.join("guest-sdk/abi/Cargo.toml").is_file())?;
    Some(std::iter::repeat_n("..", up + 1).collect())
}

impl Template {
    /// The template's folder in the checkout.
    fn folder(self) -> &'static str {
        match self {
            Self::Counter => "modules/counter/",
            Self::DoubleCharges => "modules/double_charges/",
        }
    }

    /// Replaces the template's own names. The names of what it counts, or looks for, stay: the author changes those.
    fn rename(self, text: &str, name: &str) -> String {
        let krate = name.replace('-', "_");
        let camel: String = krate.split('_').map(capitalised).collect();
        let quoted = |old: &str, new: &str| {
            (format!("NAME: &'static str = \"{old}\""), format!("NAME: &'static str = \"{new}\""))
        };
        let pairs = match self {
            Self::Counter => vec![
                quoted("counter", name),
                ("CounterModule".to_owned(), format!("{camel}Module")),
                ("use counter::".to_owned(), format!("use {krate}::")),
                ("\"counter.wasm\"".to_owned(), format!("\"{krate}.wasm\"")),
            ],
            Self::DoubleCharges => vec![
                quoted("double_charges", name),
                ("use double_charges::DoubleCharges".to_owned(), format!("use {krate}::{camel}View")),
                ("struct DoubleCharges;".to_owned(), format!("struct {camel}View;")),
                ("for DoubleCharges ".to_owned(), format!("for {camel}View ")),
                ("export!(DoubleCharges)".to_owned(), format!("export!({camel}View)")),
                ("::<DoubleCharges>".to_owned(), format!("::<{camel}View>")),
                // Two views of a machine cannot have the same route.
                ("\"audit/double_charges\"".to_owned(), format!("\"audit/{krate}\"")),
                ("The view `double_charges`".to_owned(), format!("The view `{name}`")),
                (format!("\"../../releases/{WALLET_FILE}\""), format!("\"{WALLET_FILE}\"")),
            ],
        };
        pairs.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
    }

    /// A manifest that stands alone: it belongs to no surrounding workspace.
    fn manifest(self, name: &str, sdk: &Path) -> String {
        let sdk = sdk.display();
        let (dependencies, dev_dependencies) = match self {
            Self::Counter => (
                String::new(),
                "proptest = { version = \"1\", default-features = false, features = [\"std\", \"bit-set\"] }\n",
            ),
            Self::DoubleCharges => {
                let projection = format!("statehouse-projection = {{ path = \"{sdk}/guest-sdk/projection\" }}\n");
                (
                    format!(
                        "borsh = {{ version = \"1\", default-features = false, features = [\"derive\"] }}\n{projection}"
                    ),
                    "",
                )
            }
        };
        format!(
            r#"[package]
name = "{name}"
version = "0.1.0"
edition = "2024"
publish = false

[lib]
crate-type = ["cdylib", "rlib"]

[dependencies]
{dependencies}statehouse-guest = {{ path = "{sdk}/guest-sdk" }}

[dev-dependencies]
{dev_dependencies}statehouse-testkit = {{ path = "{sdk}/guest-sdk/testkit" }}

[workspace]
exclude = ["sdk"]
"#
        )
    }
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// The SDK below `sdk/`, as a workspace of its own.
fn sdk_files() -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for (path, text) in SOURCES.iter().filter(|(path, _)| !path.starts_with(TEMPLATES)) {
        let text = if *path == "Cargo.toml" { sdk_manifest(text)? } else { (*text).to_owned() };
        files.push((Path::new("sdk").join(path), text.into_bytes()));
    }
    Ok(files)
}

/// The checkout's own manifest, with only the SDK as members.
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
            assert!(write(Template::Counter, name, folder.path()).is_err(), "{name}");
        }
        assert!(write(Template::Counter, "fee-book", folder.path()).is_ok());
        let lib = folder.path().join("fee-book/src/lib.rs");
        fs::write(&lib, "mine").expect("the module is there");
        assert!(write(Template::Counter, "fee-book", folder.path()).is_err());
        assert_eq!(fs::read_to_string(&lib).expect("the module is there"), "mine");
    }

    #[test]
    fn a_module_outside_of_a_checkout_brings_the_sdk() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(Template::Counter, "fee-book", folder.path()).expect("written");
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
        write(Template::Counter, "fees", &modules).expect("written");
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
        assert_eq!(Template::Counter.rename(text, "fee-book"), renamed);
    }

    #[test]
    fn a_view_has_the_wallet_beside_it_and_a_route_of_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(Template::DoubleCharges, "large-payments", folder.path()).expect("written");
        let view = folder.path().join("large-payments");
        assert_eq!(fs::read(view.join("tests").join(WALLET_FILE)).expect("there"), WALLET);
        let read = |file: &str| fs::read_to_string(view.join(file)).expect("there");
        let lib = read("src/lib.rs");
        for text in
            ["NAME: &'static str = \"large-payments\"", "path = \"audit/large_payments\"", "export!(LargePaymentsView)"]
        {
            assert!(lib.contains(text), "{text}");
        }
        let test = read("tests/scenarios.rs");
        assert!(
            test.contains("use large_payments::LargePaymentsView;")
                && test.contains("include_bytes!(\"wallet-1.0.1.wasm\")")
        );
        assert!(read("Cargo.toml").contains("sdk/guest-sdk/projection"));
        assert!(!view.join("sdk/modules").exists());
    }
}
