//! The page about the command line, made from the tree of commands with which clap parses.
//!
//! In: commands, arguments, their help. Out: Markdown, one heading a command. The common options of the commands that
//! ask a node are listed once. It knows no command by name.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory};
use expect_test::expect_file;

use super::{MADE, wrap};
use crate::Arguments;

/// Options with which a command asks a node, in `client.rs` and `trust.rs`.
const OF_A_NODE: [&str; 6] = ["url", "token_file", "token", "ca", "client_certificate", "client_key"];

const OPENING: &str = "# Command line

`statehouse COMMAND --help` prints the same in a terminal.

Exit codes: 0 all is well; 1 something is wrong with what was asked about; 2 the command could not
be carried out. Commands that have further codes say so.

## Options for a node

Commands that ask a node have these options. The page lists them here once.
";

#[test]
fn the_page_is_what_clap_parses() {
    let mut root = Arguments::command();
    root.build();
    expect_file!["../../../book/src/reference/cli.md"].assert_eq(&render(&root));
}

fn render(root: &Command) -> String {
    let mut text = format!("{MADE}\n\n{OPENING}\n");
    let list = find(root, &["cluster", "status"]);
    for argument in list.get_arguments().filter(|argument| is_of_a_node(argument)) {
        text += &item(argument);
    }
    for command in root.get_subcommands().filter(|command| is_shown(command)) {
        section(&mut text, command, &format!("{} {}", root.get_name(), command.get_name()));
    }
    text
}

fn find<'c>(root: &'c Command, path: &[&str]) -> &'c Command {
    path.iter().fold(root, |command, name| command.find_subcommand(name).expect("there is such a command"))
}

fn is_shown(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn is_of_a_node(argument: &Arg) -> bool {
    OF_A_NODE.contains(&argument.get_id().as_str())
}

fn section(text: &mut String, command: &Command, name: &str) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let has_commands = command.get_subcommands().any(is_shown);
    write!(text, "\n## `{name}`\n").expect("a text takes everything");
    for paragraph in about.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        write!(text, "\n{}\n", wrap(&sentence(paragraph), "", "")).expect("a text takes everything");
    }
    if !has_commands {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).trim();
        write!(text, "\n```text\n{usage}\n```\n").expect("a text takes everything");
        arguments(text, command);
    }
    for inner in command.get_subcommands().filter(|inner| is_shown(inner)) {
        section(text, inner, &format!("{name} {}", inner.get_name()));
    }
}

fn arguments(text: &mut String, command: &Command) {
    let is_listed =
        |argument: &&Arg| !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str());
    let (of_node, own): (Vec<_>, Vec<_>) =
        command.get_arguments().filter(is_listed).partition(|argument| is_of_a_node(argument));
    // A command that has only some of them, or whose `--url` means something else, lists those that it has.
    let is_usual = of_node.len() == OF_A_NODE.len() && of_node.iter().all(|one| !is_own_meaning(one));
    let own: Vec<&Arg> = own.into_iter().chain(of_node.iter().copied().filter(|_| !is_usual)).collect();
    if !own.is_empty() {
        text.push('\n');
    }
    own.iter().for_each(|argument| *text += &item(argument));
    if is_usual {
        text.push_str("\nThe command also has [the options for a node](#options-for-a-node).\n");
    }
}

fn is_own_meaning(argument: &Arg) -> bool {
    argument.get_id() == "url" && !help_of(argument).contains("STATEHOUSE_URL")
}

fn item(argument: &Arg) -> String {
    let value = argument.get_value_names().map(|names| names.iter().map(|name| format!("<{name}>")).collect());
    let value: Vec<String> = value.unwrap_or_default();
    let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let name = match argument.get_long() {
        Some(long) if takes_value => format!("`--{long} {}`", value.join(" ")),
        Some(long) => format!("`--{long}`"),
        None => format!("`{}`", value.join(" ")),
    };
    let mut words = sentence(&help_of(argument));
    if let Some(variable) = argument.get_env() {
        words += &format!(" Or the variable `{}`.", variable.to_string_lossy());
    }
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() && takes_value {
        words += &format!(" Default: `{}`.", defaults.join(" "));
    }
    if argument.is_required_set() {
        words += " Required.";
    }
    format!("{}\n", wrap(&format!("{name}: {}", words.trim()), "- ", "  "))
}

fn help_of(argument: &Arg) -> String {
    argument.get_help().or(argument.get_long_help()).map(ToString::to_string).unwrap_or_default()
}

/// Help has no full stop at its end, but a page has.
fn sentence(text: &str) -> String {
    // Text that looks like a tag would not be shown.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('<', "\\<");
    match text.chars().last() {
        None => text,
        Some('.' | ':' | '!' | '?' | ']') => text,
        Some(_) => text + ".",
    }
}
