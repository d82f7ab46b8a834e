//! `module check`: runs the host's own validator over files, and lists every fault.
//!
//! Exit code 0: all are modules; 1: at least one is not. It builds and writes nothing.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use statehouse_node::config::RESERVED_NAMES;

use super::build::load;
use crate::output::{complain, print};

/// Check modules with the validator that the host uses; exit code 1 if one is refused
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// A .wasm file
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for file in &args.files {
        let read = fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
        match read.and_then(|wasm| load(&wasm, file)) {
            Ok(module) if RESERVED_NAMES.contains(&module.describe().name.as_str()) => {
                let name = &module.describe().name;
                eprintln!(
                    "{}: `{name}` is reserved for the host, so no machine can have this name: choose another",
                    file.display()
                );
                code = ExitCode::from(1);
            }
            Ok(module) => {
                let described = module.describe();
                let (file, name, version, id) = (file.display(), &described.name, &described.version, module.id());
                print(&format!("{file}: good: {name} {version}, {id}\n"))?;
            }
            Err(error) => {
                complain(&format!("{error:#}"));
                code = ExitCode::from(1);
            }
        }
    }
    Ok(code)
}
