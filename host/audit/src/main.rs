//! The program `statehouse-audit`: the library's command line, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    statehouse_audit::cli::main()
}
