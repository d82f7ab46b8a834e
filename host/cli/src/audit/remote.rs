//! `audit replay --url`: a node replays its own history, while this command shows the progress and fetches the results.
//!
//! In: a node's URL and a candidate that is staged there. Out: the same page, files and exit codes as for a local
//! replay. If this command ends early, the node continues. It does not know how anything is decided.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Method;
use serde_json::{Map, Value};
use statehouse_audit::audit::replay::words::parse_approved;
use statehouse_audit::audit::replay::{ReplayVerdict, Report};
use statehouse_audit::cli::audit::{CandidateSource, ReplayArgs, find_source, give};
use statehouse_kernel::ids::ModuleId;
use statehouse_node::api::ReplayPage;

use crate::client::{AccessArgs, Client};
use crate::module::ModuleNameArgs;
use crate::output::{bar, complain, print};

/// The time between two looks at the progress.
const PAUSE: Duration = Duration::from_millis(300);

pub fn carry_out(args: &ReplayArgs<AccessArgs>, url: &str) -> anyhow::Result<u8> {
    let client = Client::new(url, &args.access)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(args, &client))
}

async fn ask(args: &ReplayArgs<AccessArgs>, client: &Client) -> anyhow::Result<u8> {
    let approved = parse_approved(&args.approve)?;
    let path = format!("/v1/machines/{}/replays", args.machine);
    let started = client.send(Method::POST, &path, Some(&wanted(args, client).await?)).await?;
    let started: ReplayPage = serde_json::from_value(started).context("the node is of another version")?;
    let path = format!("{path}/{}", started.id);
    complain(&format!("the node replays as {path}; it continues without this command, and DELETE {path} stops it"));
    let done = wait(client, &path).await?;
    if done.state != "done" {
        bail!("the replay is {}: {}", done.state, done.problem.unwrap_or_default());
    }
    let report: Report = serde_json::from_str(&client.get_text(&format!("{path}/report")).await?)?;
    let verdict = ReplayVerdict::of(&report, &approved);
    give(args, &report, verdict, Duration::from_secs(done.progress.seconds))?;
    if let Some(file) = &args.certificate {
        if let Some(problem) = done.certificate_problem {
            bail!("{problem}");
        }
        let text = client.get_text(&format!("{path}/certificate")).await?;
        std::fs::write(file, text).with_context(|| format!("{}", file.display()))?;
        if !args.source.json {
            print(&format!("the certificate is in {}\n", file.display()))?;
        }
    }
    Ok(verdict.exit_code())
}

/// The body of the request.
async fn wanted(args: &ReplayArgs<AccessArgs>, client: &Client) -> anyhow::Result<Value> {
    let candidate = match find_source(args) {
        Ok(CandidateSource::Wasm(wasm)) => ModuleId::of(&wasm).to_string(),
        Ok(CandidateSource::Id(id)) => id.to_string(),
        // The node knows it by this version, or by an id that begins with this text.
        Err(_) => {
            let name = args.candidate.clone().unwrap_or_default();
            let staged = client.get(&format!("/v1/machines/{}/modules", args.machine)).await?;
            ModuleNameArgs::named(name)
                .find(&serde_json::from_value(staged).context("the node is of another version")?)?
        }
    };
    let mut body = Map::new();
    body.insert("candidate".to_owned(), candidate.into());
    body.insert("mode".to_owned(), args.mode.name().into());
    for (name, text) in [("from", &args.from), ("to", &args.to)] {
        if let Some(text) = text {
            body.insert(name.to_owned(), text.as_str().into());
        }
    }
    if let Some(partition) = args.partition {
        body.insert("partition".to_owned(), partition.into());
    }
    body.insert("where".to_owned(), args.filter.clone().into());
    body.insert("approve".to_owned(), args.approve.clone().into());
    Ok(body.into())
}

/// Shows the progress until the replay is over.
async fn wait(client: &Client, path: &str) -> anyhow::Result<ReplayPage> {
    let decided = Arc::new(AtomicU64::new(0));
    let progress = bar("decisions", decided.clone());
    loop {
        let page: ReplayPage =
            serde_json::from_value(client.get(path).await?).context("the node is of another version")?;
        if !matches!(page.state.as_str(), "queued" | "running") {
            progress.finish_and_clear();
            return Ok(page);
        }
        decided.store(page.progress.decisions, Ordering::Relaxed);
        progress.set_length(page.progress.bytes);
        progress.set_position(page.progress.bytes_done);
        tokio::time::sleep(PAUSE).await;
    }
}
