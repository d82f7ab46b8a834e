//! `statehouse view list | status | create | rebuild | drop`: read models of a machine, on every node.
//!
//! In: a node's URL, a token, and which view. Out: tables or JSON. Every node runs all views; the progress shown is
//! that of the node that is asked. Exit code of `list` and `status`: 0 all views run, 1 one has stopped. It does not
//! know how a view is built.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;
use statehouse_node::api::{BuildPage, ViewPage, ViewsPage};

use crate::client::ClientArgs;
use crate::module::{block_on, short};
use crate::output::{print, print_json, table};
use crate::shipped;

/// Create, show, rebuild and drop views: read models that follow a machine, on every node
#[derive(Debug, Subcommand)]
pub enum ViewCommand {
    /// Show a machine's views, and how far each one lags on the node at --url; exit code 1 if one is stopped
    List(ViewListArgs),
    /// Show one view: which build serves, its position in each partition, and what stops it; exit code 1 if it is
    /// stopped
    Status(ViewNamedArgs),
    /// Create a view on every node; if a view of that name exists, replace it with this version once that has caught up
    Create(ViewCreateArgs),
    /// Build a view again on every node; the present build serves until the new one has caught up
    Rebuild(ViewNamedArgs),
    /// Drop a view on every node, and delete its rows
    Drop(ViewNamedArgs),
}

#[derive(Debug, Args)]
pub struct ViewListArgs {
    #[command(flatten)]
    of: ViewTargetArgs,
}

#[derive(Debug, Args)]
pub struct ViewNamedArgs {
    /// The name of the view
    view: String,
    #[command(flatten)]
    of: ViewTargetArgs,
}

#[derive(Debug, Args)]
pub struct ViewCreateArgs {
    /// The view: the name of one that comes with this program (`statements`, `audit_trail`, `double_charges`), or a
    /// .wasm file
    view: String,
    #[command(flatten)]
    of: ViewTargetArgs,
}

#[derive(Debug, Args)]
pub struct ViewTargetArgs {
    /// The name of the machine
    #[arg(long, default_value = "wallet")]
    machine: String,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asked: ClientArgs,
}

pub fn run(command: &ViewCommand) -> anyhow::Result<ExitCode> {
    match command {
        ViewCommand::List(args) => list(&args.of, &block_on(args.of.send(Method::GET, "", None))?),
        ViewCommand::Status(args) => {
            let page = block_on(args.of.send(Method::GET, &format!("/{}", args.view), None))?;
            status(&args.of, page)
        }
        ViewCommand::Create(args) => {
            let source = shipped::find(&args.view)?;
            let wasm = shipped::read(&source).with_context(|| format!("reading {}", args.view))?;
            status(&args.of, block_on(args.of.send(Method::POST, "", Some(wasm)))?)
        }
        ViewCommand::Rebuild(args) => {
            let page = block_on(args.of.send(Method::POST, &format!("/{}/rebuild", args.view), None))?;
            status(&args.of, page)
        }
        ViewCommand::Drop(args) => {
            let page = block_on(args.of.send(Method::DELETE, &format!("/{}", args.view), None))?;
            list(&args.of, &page)
        }
    }
}

impl ViewTargetArgs {
    async fn send(&self, method: Method, rest: &str, wasm: Option<Vec<u8>>) -> anyhow::Result<Value> {
        let path = format!("/v1/machines/{}/views{rest}", self.machine);
        let body = wasm.map(|wasm| ("application/wasm", wasm.into()));
        self.asked.client()?.send_content(method, &path, body).await
    }
}

const OTHER_VERSION: &str = "the node's answer is not that of this version; use the `statehouse` it runs";

fn list(of: &ViewTargetArgs, page: &Value) -> anyhow::Result<ExitCode> {
    let page: ViewsPage = serde_json::from_value(page.clone()).context(OTHER_VERSION)?;
    if of.json {
        print_json(&page)?;
    } else {
        print(&render(&page))?;
    }
    Ok(code(&page.views))
}

fn status(of: &ViewTargetArgs, page: Value) -> anyhow::Result<ExitCode> {
    let page: ViewPage = serde_json::from_value(page).context(OTHER_VERSION)?;
    if of.json {
        print_json(&page)?;
    } else {
        print(&render_one(&page))?;
    }
    Ok(code(std::slice::from_ref(&page)))
}

fn code(views: &[ViewPage]) -> ExitCode {
    if views.iter().any(|view| view.state == "stopped") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn render(page: &ViewsPage) -> String {
    let mut views = table(&["view", "version", "module", "state", "lag", "bytes", "routes"]);
    for view in &page.views {
        let build = view.serving.as_ref().or(view.building.as_ref());
        let text = |of: fn(&BuildPage) -> String| build.map(of).unwrap_or_default();
        views.add_row([
            view.view.clone(),
            text(|build| build.version.clone()),
            text(|build| short(&build.module).to_owned()),
            view.state.clone(),
            text(|build| format!("{} entries, {:.3} s", build.lag_entries, build.lag_seconds)),
            text(|build| build.bytes.to_string()),
            view.routes.join("\n"),
        ]);
    }
    let problems = page.views.iter().filter_map(|view| Some(format!("{}: {}\n", view.view, view.problem.as_ref()?)));
    format!("views of {} on node {}\n{views}\n{}", page.machine, page.node, problems.collect::<String>())
}

fn render_one(view: &ViewPage) -> String {
    let mut text = format!("{}: {}, requested by {} at {}\n", view.view, view.state, view.by, view.time);
    for (what, build) in [("serves", &view.serving), ("is being built", &view.building)] {
        let Some(build) = build else { continue };
        let mut partitions = table(&["partition", "followed up to", "time", "newest entry"]);
        for followed in &build.partitions {
            let newest = followed.newest.map_or_else(|| "not open".to_owned(), |newest| newest.to_string());
            let partition = followed.partition.to_string();
            partitions.add_row([partition, followed.position.clone(), followed.time.clone(), newest]);
        }
        text.push_str(&format!(
            "build {} of {} ({}) {what}: it lags by {} entries and {:.3} s, {} bytes\n{partitions}\n",
            build.build,
            build.version,
            short(&build.module),
            build.lag_entries,
            build.lag_seconds,
            build.bytes
        ));
    }
    if let Some(problem) = &view.problem {
        text.push_str(&format!("it has stopped: {problem}\n"));
    }
    text
}
