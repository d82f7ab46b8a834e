//! `statehouse command list | status | abort | settle`: commands of clients, above all those in flight between
//! partitions.
//!
//! In: a machine, an id. Out: tables or JSON. Any node can be asked. Exit code of `list`: 0 nothing waits because of a
//! refusal or of a partition without a leader, 1 something does; of `status`: 0 the command is over, 1 it is not. It
//! does not know how an order is carried out.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use statehouse_node::api::OrderPage;

use crate::client::ClientArgs;
use crate::module::block_on;
use crate::output::{print, print_json, table};

/// Show what became of clients' commands, and end those that are in flight between partitions
#[derive(Debug, Subcommand)]
pub enum CommandCommand {
    /// Show the commands in flight, oldest first, and what each one waits for; exit code 1 if one is stuck
    ///
    /// A command is stuck if a partition refuses its step or has no leader.
    List {
        /// The name of the machine
        machine: String,
        #[command(flatten)]
        of: CommandTargetArgs,
    },
    /// Show the state of one command; exit code 1 while it is not over
    Status(CommandNamedArgs),
    /// Abort a command in flight: its completed steps are undone
    ///
    /// The order is refused once the command's confirm was decided, and while a participating partition has no
    /// majority.
    Abort(OrderArgs),
    /// Settle a command in flight whose confirm or undo a partition keeps refusing
    ///
    /// The partition carries out the last resort that the module declares, in place of the refused confirm or undo.
    Settle(OrderArgs),
}

#[derive(Debug, Args)]
pub struct CommandNamedArgs {
    /// The name of the machine
    machine: String,
    /// The id that the client chose for the command
    id: String,
    /// The home entity of the command; needed only if several commands have the id
    #[arg(long)]
    home: Option<String>,
    #[command(flatten)]
    of: CommandTargetArgs,
}

#[derive(Debug, Args)]
pub struct OrderArgs {
    #[command(flatten)]
    named: CommandNamedArgs,
    /// The reason, which is recorded for ever for those who read the history
    #[arg(long)]
    why: String,
}

#[derive(Debug, Args)]
pub struct CommandTargetArgs {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asked: ClientArgs,
}

pub fn run(command: &CommandCommand) -> anyhow::Result<ExitCode> {
    match command {
        CommandCommand::List { machine, of } => list(machine, of),
        CommandCommand::Status(args) => status(args),
        CommandCommand::Abort(args) => order(args, "abort"),
        CommandCommand::Settle(args) => order(args, "settle"),
    }
}

fn list(machine: &str, of: &CommandTargetArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/{machine}/commands?state=in_flight");
    let page = of.send(Method::GET, &path, None)?;
    let commands = page["items"].as_array().context(OTHER_VERSION)?;
    let is_stuck = |waits: &Value| waits["reason"] != "asked";
    let is_any_stuck =
        commands.iter().any(|command| command["waits_for"].as_array().into_iter().flatten().any(is_stuck));
    if of.json {
        print_json(&page)?;
    } else {
        let mut shown = table(&["id", "command", "started", "waits for", "orders"]);
        for command in commands {
            let orders: Vec<&str> =
                command["orders"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            shown.add_row([
                text(&command["id"]),
                text(&command["command"]),
                text(&command["started"]),
                waits_text(command),
                orders.join(", "),
            ]);
        }
        print(&format!("{shown}\n{} in flight\n", commands.len()))?;
    }
    Ok(if is_any_stuck { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn status(args: &CommandNamedArgs) -> anyhow::Result<ExitCode> {
    let page = args.of.send(Method::GET, &args.path(""), None)?;
    if args.of.json {
        print_json(&page)?;
    } else {
        let mut shown = table(&["command", &args.id]);
        for name in ["state", "outcome", "command", "started", "time", "position"] {
            if !page[name].is_null() {
                shown.add_row([name.to_owned(), text(&page[name])]);
            }
        }
        if page["state"] == "in_flight" {
            shown.add_row(["waits for".to_owned(), waits_text(&page)]);
        }
        for phase in page["phases"].as_array().into_iter().flatten() {
            let detail = phase["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
            shown.add_row([text(&phase["time"]), format!("{}{detail}", text(&phase["name"]))]);
        }
        print(&format!("{shown}\n"))?;
    }
    let is_over = page["state"] == "recorded" || page["state"] == "not_executed";
    Ok(if is_over { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn order(args: &OrderArgs, order: &str) -> anyhow::Result<ExitCode> {
    let OrderArgs { named, why } = args;
    let page = named.of.send(Method::POST, &named.path(&format!("/{order}")), Some(&json!({ "why": why })))?;
    if named.of.json {
        print_json(&page)?;
    } else {
        let page: OrderPage = serde_json::from_value(page).context(OTHER_VERSION)?;
        print(&format!(
            "the order is recorded in partition {}, entry {}\nnext: `statehouse command status {} {}` shows what \
             follows\n",
            page.partition, page.index, named.machine, named.id
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

const OTHER_VERSION: &str = "the node's answer is not that of this version; use the `statehouse` it runs";

impl CommandNamedArgs {
    fn path(&self, rest: &str) -> String {
        let home = self.home.as_ref().map(|home| format!("?home={}", encode(home))).unwrap_or_default();
        format!("/v1/{}/commands/{}{rest}{home}", self.machine, encode(&self.id))
    }
}

impl CommandTargetArgs {
    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let client = self.asked.client()?;
        block_on(client.send(method, path, body))
    }
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(String::new, str::to_owned)
}

fn waits_text(command: &Value) -> String {
    let of = |waits: &Value| {
        let (partition, what) = (&waits["partition"], text(&waits["what"]));
        let settled = if waits["settled"] == true { ", settled" } else { "" };
        match waits["reason"].as_str() {
            Some("refused") => {
                let (times, code) = (&waits["refused"], text(&waits["code"]));
                format!("partition {partition}: {what} refused {times} times ({code}){settled}")
            }
            Some("no_leader") => format!("partition {partition}: {what}, but nobody leads it"),
            _ => format!("partition {partition}: {what}{settled}"),
        }
    };
    command["waits_for"].as_array().into_iter().flatten().map(of).collect::<Vec<_>>().join("\n")
}
