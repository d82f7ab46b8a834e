//! `statehouse audit replay`: recorded history under a candidate module.
//!
//! In: a data folder and a module. Out: a page for people, a report in JSON or HTML, a certificate. Exit codes: 0 the same, 1 only approved
//! differences, 2 others, 3 inconclusive. It knows nothing of how anything is decided.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::page::{explained_page, report_page};
use super::{From, open, parse_moment};
use crate::api::parse_time;
use crate::audit::Source;
use crate::audit::certificate::Certificate;
use crate::audit::replay::explain::explain;
use crate::audit::replay::history::time_of;
use crate::audit::replay::{Class, Filter, FolderHistory, Meter, Mode, Report, Request, Verdict, html, run as replay};
use crate::cli::output::{bar, print, print_json};
use crate::ids::{CommandId, Micros, PartitionId, Position};
use crate::key::NodeKey;
use crate::machine::logic::Logic;
use crate::router::answer::Moment;

/// Exit code of a replay that says nothing about the candidate.
const INCONCLUSIVE: u8 = 3;

/// Decide recorded history again under another module; exit code 0 same, 1 only approved differences, 2 others, 3 inconclusive
#[derive(Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    source: From,
    #[arg(long, default_value = "wallet")]
    machine: String,
    /// The module: a .wasm file, a release (`wallet-1.0.1`, or `1.0.1`), or the id of a module in the data folder
    #[arg(long)]
    candidate: String,
    /// Folder of the released modules
    #[arg(long, default_value = "modules/releases")]
    releases: PathBuf,
    /// `isolated`: each decision on what was recorded before it; `cumulative`: with the candidate's own consequences
    #[arg(long, default_value = "isolated", value_parser = parse_mode)]
    mode: Mode,
    /// Decide from this time or position on; what is before it is only applied
    #[arg(long)]
    from: Option<String>,
    /// Decide up to this time or position
    #[arg(long)]
    to: Option<String>,
    /// Only this partition
    #[arg(long)]
    partition: Option<u32>,
    /// Report only some differences: account=, id=, code=, command=, after=, before=
    #[arg(long = "where", value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// How many partitions at once; as many as there are cores without it
    #[arg(long)]
    jobs: Option<usize>,
    /// Write the report, as JSON or as one HTML page by the name's ending
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// Approve this many differences of a class: `accepted_to_rejected=12`
    #[arg(long, value_name = "CLASS=COUNT")]
    approve: Vec<String>,
    /// Write a certificate, signed with the node's key
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Sign with this key instead of the data folder's `node.key`
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The position of one command, for --explain
    #[arg(long, requires = "explain")]
    at: Option<String>,
    /// Print the life of one command under both modules
    #[arg(long, requires = "at")]
    explain: bool,
}

pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    match carry_out(args) {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            eprintln!("inconclusive: {error:#}");
            Ok(ExitCode::from(INCONCLUSIVE))
        }
    }
}

fn carry_out(args: &ReplayArgs) -> anyhow::Result<u8> {
    let source = open(&args.source.data)?;
    let history = FolderHistory::new(&source, &args.machine)?;
    let approved = parse_approved(&args.approve)?;
    let request = Request {
        candidate: find_candidate(&source, args)?,
        mode: args.mode,
        from: args.from.as_deref().map(|text| parse_place(&history, text)).transpose()?,
        to: args.to.as_deref().map(|text| parse_place(&history, text)).transpose()?,
        partition: args.partition.map(PartitionId),
        filter: parse_filter(&args.filter)?,
        jobs: args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
    };
    if let Some(at) = &args.at {
        let position: Position =
            at.parse().map_err(|_| anyhow::anyhow!("`{at}` is no position, like 0.42.0~1a2b3c4d"))?;
        let explained = explain(&history, &request, position)?;
        if args.source.json {
            print_json(&explained)?;
        } else {
            print(&explained_page(&explained))?;
        }
        return Ok(0);
    }
    let decided = Arc::new(AtomicU64::new(0));
    let progress = bar("decisions", decided.clone());
    let begun = Instant::now();
    let meter = Meter {
        on_begin: &|bytes| progress.set_length(bytes),
        on_done: &|bytes, decisions| {
            decided.fetch_add(decisions, Ordering::Relaxed);
            progress.inc(bytes);
        },
    };
    let report = replay(&history, &request, &meter);
    progress.finish_and_clear();
    let report = report?;
    let verdict = Verdict::of(&report, &approved);
    if args.source.json {
        print_json(&report)?;
    } else {
        print(&report_page(&report, verdict, begun.elapsed()))?;
    }
    for path in &args.report {
        write_report(path, &report, verdict)?;
    }
    if let Some(path) = &args.certificate {
        write_certificate(args, path, &report)?;
    }
    Ok(verdict.exit_code())
}

fn write_report(path: &Path, report: &Report, verdict: Verdict) -> anyhow::Result<()> {
    let text = match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => serde_json::to_string_pretty(report)? + "\n",
        Some("html" | "htm") => html::page(report, verdict),
        _ => bail!("{}: name the report FILE.json or FILE.html", path.display()),
    };
    std::fs::write(path, text).with_context(|| format!("{}", path.display()))
}

fn write_certificate(args: &ReplayArgs, path: &Path, report: &Report) -> anyhow::Result<()> {
    let key = match &args.key_file {
        Some(file) => NodeKey::read(file)?,
        None => NodeKey::of_folder(&args.source.data).context("sign with another key by --key-file")?,
    };
    let certificate = Certificate::sign(report, &key)?;
    std::fs::write(path, certificate.to_json()).with_context(|| format!("{}", path.display()))?;
    if !args.source.json {
        print(&format!("certificate {} signed by {}\n", certificate.digest().short(), certificate.key()))?;
    }
    Ok(())
}

/// A file, a release, or a module of the data folder.
fn find_candidate(source: &Source, args: &ReplayArgs) -> anyhow::Result<Arc<dyn Logic>> {
    let name = &args.candidate;
    let file = Path::new(name);
    if file.is_file() {
        let wasm = std::fs::read(file).with_context(|| format!("{}", file.display()))?;
        return Ok(source.compile(&wasm)?);
    }
    for release in [format!("{name}.wasm"), format!("{}-{name}.wasm", args.machine)] {
        let path = args.releases.join(release);
        if path.is_file() {
            let wasm = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
            return Ok(source.compile(&wasm)?);
        }
    }
    if let Ok(id) = name.parse() {
        return source.load(id).map_err(anyhow::Error::msg);
    }
    bail!(
        "there is no candidate `{name}`: name a .wasm file, a release in {} (its file without `.wasm`), or the id of a module in the data \
         folder",
        args.releases.display()
    )
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    match text {
        "isolated" => Ok(Mode::Isolated),
        "cumulative" => Ok(Mode::Cumulative),
        _ => Err("it is `isolated` or `cumulative`".to_owned()),
    }
}

/// All entries up to a time are a consistent cut, so a position stands for the time of its entry.
fn parse_place(history: &FolderHistory<'_>, text: &str) -> anyhow::Result<Micros> {
    match parse_moment(text)? {
        Moment::Time(time) => Ok(time),
        Moment::Position(position) => Ok(time_of(history, position)?),
    }
}

fn parse_approved(words: &[String]) -> anyhow::Result<BTreeMap<Class, u64>> {
    let mut approved = BTreeMap::new();
    for word in words {
        let parsed = word.split_once('=').and_then(|(class, count)| Some((Class::find(class)?, count.parse().ok()?)));
        let Some((class, count)) = parsed else {
            let names: Vec<&str> = Class::ALL.into_iter().map(Class::name).collect();
            bail!("`{word}` is not CLASS=COUNT; the classes are {}", names.join(", "));
        };
        ensure!(class != Class::Same && class != Class::HostDrift, "`{class}` is nothing that can be approved");
        approved.insert(class, count);
    }
    Ok(approved)
}

fn parse_filter(words: &[String]) -> anyhow::Result<Filter> {
    let mut filter = Filter::default();
    for word in words {
        let (key, value) = word.split_once('=').with_context(|| format!("`{word}` is not KEY=VALUE"))?;
        let time = || parse_time(value).with_context(|| format!("`{value}` is no time, like 2026-11-21T10:00:00Z"));
        match key {
            "account" | "entity" => filter.entity = Some(value.to_owned()),
            "id" => {
                let id: CommandId = value.parse().map_err(|_| anyhow::anyhow!("`{value}` is no id of a command"))?;
                filter.id = Some(id);
            }
            "code" => filter.code = Some(value.to_owned()),
            "command" => filter.command = Some(value.to_owned()),
            "after" => filter.after = Some(time()?),
            "before" => filter.before = Some(time()?),
            _ => bail!("`{key}` cannot be asked for; there are: {}", Filter::KEYS),
        }
    }
    Ok(filter)
}
