//! `module test`: plays text scenarios against any version of a module, as its author does natively, and shows where
//! its answers differ.
//!
//! In: a module and scenario files, see `guest-sdk/testkit`. Out: the first difference of each file, or with `--update`
//! the file with what the module answers. It needs no source and no node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use statehouse_node::limits;
use statehouse_testkit::{Wasm, play, play_view};

use super::build::load;
use super::named::Releases;
use crate::output::print;

/// Play scenarios against a module; exit code 1 if the module answers one differently
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The module: a .wasm file, or a release as module@version
    module: String,
    /// Text files with inputs and their expected outcomes, like those in modules/wallet/tests/scenarios
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<PathBuf>,
    /// For a view: the module that decides the scenarios' commands, a .wasm file or a release as module@version
    #[arg(long, value_name = "MODULE")]
    of: Option<String>,
    /// Write the module's answers into the files, instead of comparing them
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    releases: Releases,
}

pub(super) fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let named = args.releases.read(&args.module)?;
    let module = load(&named.wasm, &named.file)?;
    let of = match (&args.of, module.source()) {
        (None, None) => None,
        (Some(of), Some(_)) => {
            let of = args.releases.read(of)?;
            load(&of.wasm, &of.file)?;
            Some(of.wasm)
        }
        (None, Some(machine)) => {
            bail!(
                "{} is a view of {machine}; name a module of it that decides: --of {machine}@VERSION, or a .wasm file",
                args.module
            )
        }
        (Some(_), None) => bail!("{} is not a view, so it decides on its own: leave out --of", args.module),
    };
    let mut code = ExitCode::SUCCESS;
    for file in &args.scenarios {
        let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let played = play_all(&named.wasm, of.as_deref(), &text)
            .with_context(|| format!("{} cannot be played", file.display()))?;
        match first_difference(&text, &played) {
            None => print(&format!("{}: {} inputs, answered as expected\n", file.display(), inputs(&text)))?,
            Some(_) if args.update => {
                fs::write(file, &played).with_context(|| format!("{} cannot be written", file.display()))?;
                print(&format!(
                    "{}: {} inputs, the expected outcomes were updated; read the difference\n",
                    file.display(),
                    inputs(&text)
                ))?;
            }
            Some(difference) => {
                print(&difference.text(file))?;
                code = ExitCode::from(1);
            }
        }
    }
    Ok(code)
}

/// A test gives a module the same resources as a host does.
const _: () = {
    assert!(statehouse_testkit::FUEL == limits::GUEST_FUEL_MAX);
    assert!(statehouse_testkit::MEMORY_BYTES_MAX == limits::GUEST_MEMORY_BYTES_MAX);
    assert!(statehouse_testkit::TABLE_ELEMENTS_MAX == limits::GUEST_TABLE_ELEMENTS_MAX as usize);
    assert!(statehouse_testkit::OUTPUT_BYTES_MAX == limits::GUEST_OUTPUT_BYTES_MAX);
};

/// `of` is the module that decides; if it is given, `wasm` is played as a view.
fn play_all(wasm: &[u8], of: Option<&[u8]>, text: &str) -> anyhow::Result<String> {
    let open = |wasm| Wasm::new(wasm).map_err(|error| anyhow!("{error}; `statehouse module check` says more"));
    let wasm = open(wasm)?;
    Ok(match of {
        None => play(wasm, text)?,
        Some(of) => play_view(open(of)?, wasm, text)?,
    })
}

fn inputs(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("> ")).count()
}

/// The first place where an answer differs.
#[derive(Debug, PartialEq, Eq)]
struct AnswerDifference<'a> {
    /// Line of the expected text, counted from 1.
    line: usize,
    input: &'a str,
    expected: Option<&'a str>,
    found: Option<&'a str>,
}

fn first_difference<'a>(expected: &'a str, found: &'a str) -> Option<AnswerDifference<'a>> {
    let (mut expected, mut found) = (expected.lines(), found.lines());
    let mut input = "the beginning";
    for line in 1.. {
        let pair = (expected.next(), found.next());
        match pair {
            (None, None) => break,
            (Some(same), Some(other)) if same == other => {
                if same.starts_with("> ") {
                    input = same;
                }
            }
            (expected, found) => return Some(AnswerDifference { line, input, expected, found }),
        }
    }
    None
}

impl AnswerDifference<'_> {
    fn text(&self, file: &Path) -> String {
        // If the module says less or more than expected, the other side is already at the next input.
        let side = |sign: char, line: Option<&str>| match line {
            Some(line) if !line.starts_with("> ") && !line.is_empty() => format!("{sign} {line}\n"),
            _ => format!("{sign} nothing more\n"),
        };
        format!(
            "{}:{}: answered differently\n{}\n{}{}",
            file.display(),
            self.line,
            self.input,
            side('-', self.expected),
            side('+', self.found)
        )
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const LIFECYCLE: &str = include_str!("../../../../modules/wallet/tests/scenarios/lifecycle.txt");
    const TRANSFERS: &str = include_str!("../../../../modules/wallet/tests/scenarios/transfers.txt");

    fn check(wasm: &[u8], scenario: &str, expected: Expect) {
        let played = play_all(wasm, None, scenario).expect("it plays");
        let text = first_difference(scenario, &played).map(|difference| difference.text(Path::new("a.txt")));
        expected.assert_eq(&text.unwrap_or_default());
    }

    #[test]
    fn a_release_answers_as_expected_or_is_shown_where_not() {
        let refactored = include_bytes!("../../../../modules/releases/wallet-1.1.0.wasm");
        check(refactored, LIFECYCLE, expect![[""]]);
        let first = include_bytes!("../../../../modules/releases/wallet-1.0.0.wasm");
        check(first, LIFECYCLE, expect![[""]]);
        let bug = include_bytes!("../../../../modules/releases/wallet-1.2.0-bug.wasm");
        check(
            bug,
            TRANSFERS,
            expect![[r#"
            a.txt:43: answered differently
            > {"command": "balance_transfer", "body": {"from_account": "alice", "to_account": "bob", "amount": "66.42", "currency": "USD", "transaction_id": "00000000-0000-4000-8000-000000000008"}}
            - 200 {"Status":"success","balances":{"bob":{"USD":"100.00"},"alice":{"USD":"0.00"}},"Transaction_id":"00000000-0000-4000-8000-000000000008"}
            + rejected 409 insufficient_funds: the payer alice holds 66.42 USD, 66.42 USD are needed: send less, or add money and send it under a new id {"Status":"rejected","Transaction_id":"00000000-0000-4000-8000-000000000008"}
        "#]],
        );
    }

    #[test]
    fn a_view_is_played_over_what_a_module_of_its_machine_decides() {
        const SCENARIO: &str = include_str!("../../../../modules/double_charges/tests/scenarios/double_charges.txt");
        let view = include_bytes!("../../../../modules/releases/double_charges-1.0.0.wasm");
        let wallet = include_bytes!("../../../../modules/releases/wallet-1.1.0.wasm");
        assert_eq!(play_all(view, Some(wallet), SCENARIO).expect("it plays"), SCENARIO);
        assert!(play_all(view, None, SCENARIO).is_err());
    }

    #[test]
    fn what_is_missing_or_too_much_is_a_difference() {
        let text = |expected, found| {
            first_difference(expected, found).map(|difference| difference.text(Path::new("a.txt"))).unwrap_or_default()
        };
        let two = "> {}\n200 {}\n  event {}\n\n> {}\n200 {}\n";
        let one = "> {}\n200 {}\n\n> {}\n200 {}\n";
        assert_eq!(text(two, two), "");
        assert_eq!(text(two, one), "a.txt:3: answered differently\n> {}\n-   event {}\n+ nothing more\n");
        assert_eq!(text(one, two), "a.txt:3: answered differently\n> {}\n- nothing more\n+   event {}\n");
        assert_eq!(text("> {}\n200 {}\n", "> {}\n"), "a.txt:2: answered differently\n> {}\n- 200 {}\n+ nothing more\n");
    }

    #[test]
    fn what_is_no_module_or_no_scenario_is_refused_with_words() {
        let wallet = include_bytes!("../../../../modules/releases/wallet-1.1.0.wasm");
        let error = |wasm: &[u8], text| play_all(wasm, None, text).expect_err("it cannot be played").to_string();
        assert!(error(b"no wasm", "").contains("statehouse module check"));
        assert!(error(wallet, "> {\"what\": 1}\n").contains("is no input of a scenario"));
        assert!(error(wallet, "> nonsense\n").contains("> nonsense"));
    }
}
