//! `statehouse module shadow start | status | stop`: on one node, a module also decides what the active one decides,
//! and changes nothing.
//!
//! In: a node's URL, a token, and which module. Out: what the shadow has found so far. Exit code of `status`: 0 no
//! difference, 2 some. It does not know how a difference is found.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use statehouse_node::api::ShadowPage;

use super::lifecycle::{MachineTargetArgs, ModuleNameArgs, block_on, short};
use crate::output::{print, print_json, table};

/// Let a prepared module decide live commands beside the active module, on one node, without any effect
#[derive(Debug, Subcommand)]
pub enum ShadowCommand {
    /// Start a shadow run of the module; a shadow run of another module of this machine ends
    Start(StartArgs),
    /// Show what the shadow run has found so far; exit code 2 if any decision differs
    Status(AskArgs),
    /// Stop the shadow run of the module
    Stop(AskArgs),
}

#[derive(Debug, Args)]
pub struct StartArgs {
    /// The id of the node that runs it; the default is the node that leads the fewest partitions
    #[arg(long)]
    node: Option<u64>,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Args)]
pub struct AskArgs {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: ModuleNameArgs,
    #[command(flatten)]
    of: MachineTargetArgs,
}

/// The exit code if something differs.
const DIFFERS: u8 = 2;

pub fn run(command: &ShadowCommand) -> anyhow::Result<ExitCode> {
    match command {
        ShadowCommand::Start(args) => {
            let body = args.node.map_or(json!({}), |node| json!({ "node": node }));
            block_on(args.ask.send(Method::POST, Some(body))).map(|_| ExitCode::SUCCESS)
        }
        ShadowCommand::Stop(args) => block_on(args.send(Method::DELETE, None)).map(|_| ExitCode::SUCCESS),
        ShadowCommand::Status(args) => {
            let page = block_on(args.send(Method::GET, None))?;
            let has_some = |found: &Value| found["differences"].as_object().is_some_and(|some| !some.is_empty());
            let differs = page.found.as_ref().is_some_and(has_some);
            Ok(if differs { ExitCode::from(DIFFERS) } else { ExitCode::SUCCESS })
        }
    }
}

impl AskArgs {
    async fn send(&self, method: Method, body: Option<Value>) -> anyhow::Result<ShadowPage> {
        let id = self.which.find(&self.of.page().await?)?;
        let answer = self.of.client()?.send(method, &self.of.path(&format!("/{id}/shadow")), body.as_ref()).await?;
        let page: ShadowPage = serde_json::from_value(answer)
            .context("the node's answer is not that of this version; use the `statehouse` it runs")?;
        if self.json {
            print_json(&page)?;
        } else {
            print(&render(&page))?;
        }
        Ok(page)
    }
}

fn render(page: &ShadowPage) -> String {
    let (Some(module), Some(node), Some(since)) = (&page.module, page.node, &page.since) else {
        return format!("{}: no shadow run\n", page.machine);
    };
    let mut text = format!("{}: node {node} runs a shadow of {} since {since}\n", page.machine, short(module));
    if let Some(problem) = &page.problem {
        text.push_str(&format!("nothing to show yet: {problem}\n"));
    }
    let Some(found) = &page.found else { return text };
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut partitions = table(&["partition", "up to", "entries behind", "decisions", "begun", ""]);
    for partition in found["partitions"].as_array().into_iter().flatten() {
        let cells = ["partition", "position", "lag_entries", "decisions", "begun", "problem"];
        partitions
            .add_row(cells.map(|name| if partition[name].is_null() { String::new() } else { word(&partition[name]) }));
    }
    text.push_str(&format!("{partitions}\n{} decisions\n", found["decisions"]));
    match found["differences"].as_object().filter(|classes| !classes.is_empty()) {
        None => text.push_str("no difference\n"),
        Some(classes) => classes.iter().for_each(|(class, count)| text.push_str(&format!("{class}: {count}\n"))),
    }
    for first in found["first"].as_array().into_iter().flatten() {
        let [class, command, id, position, recorded, candidate] =
            ["class", "command", "id", "position", "recorded_outcome", "candidate_outcome"]
                .map(|name| word(&first[name]));
        text.push_str(&format!(
            "first {class}: {command} {id} at {position}: recorded {recorded}, candidate {candidate}\n"
        ));
    }
    text
}
