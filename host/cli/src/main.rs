//! The program `statehouse`: the library's command line, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    statehouse::main()
}
