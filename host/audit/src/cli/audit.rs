//! `statehouse audit` and `statehouse-audit`: verify, balance, history, log, replay, certificate.
//!
//! In: a data folder, with or without a running node, a folder of journal segments, or an archive. Out: tables, or JSON
//! for programs. Exit code 1: something is not as recorded; 3: only clients did what they should not; `replay` has
//! codes of its own. What is not in a folder of this machine is reached through [`Reach`]. It knows nothing of how
//! anything is recomputed.

mod log;
mod replay;
mod page;
mod certificate;

pub use replay::{CandidateSource, ReplayArgs, find_source, give};

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use statehouse_abi::value::Value;
use tempfile::TempDir;

use crate::audit::balance::entity_at;
use crate::audit::verify::{VerifyReport, verify};
use crate::audit::{AuditError, Source};
use crate::cli::output::{print, print_json, progress, table, to_json};
use crate::ids::Micros;
use crate::machine::journal::Moment;
use crate::rfc3339::{parse_time, print_time};
use crate::segments::{Mirror, OWNER};

/// The exit code of a verification whose only findings are about clients.
const FINDINGS: u8 = 3;

#[derive(Subcommand)]
pub enum AuditArgs<A: Args> {
    /// Recompute everything from the journal and compare it with the record; exit code 1 if something differs
    ///
    /// The command checks frames, hashes, digests, ids, invariants, canonical snapshots, and money in transit. It
    /// prints one row for each partition, and each fault. Exit code 3 means that everything is as recorded, but a
    /// client used one id for several commands.
    Verify(VerifyArgs),
    /// Print the balance of an account at a moment, recomputed from the first entry
    Balance(BalanceArgs),
    /// Print every command that concerned an account, in order
    History(log::HistoryArgs),
    /// Print the journal as text, or export it as files that are the same from every replica
    Log(log::LogArgs),
    Replay(Box<ReplayArgs<A>>),
    #[command(subcommand)]
    Certificate(certificate::CertificateArgs),
}

#[derive(Args)]
pub struct SourceArgs {
    /// What to read: the data folder of a running or stopped node, a copy of it, a folder that `audit log --export`
    /// wrote, or an archive (its folder, or s3://bucket/prefix)
    #[arg(long, default_value = "./statehouse-data/node-1")]
    data: PathBuf,
    /// A folder that keeps what is fetched from an s3:// archive for the next time; without it nothing is kept
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    from: SourceArgs,
    /// Check only this machine; the default is all machines
    #[arg(long)]
    machine: Option<String>,
}

#[derive(Args)]
pub struct BalanceArgs {
    #[command(flatten)]
    from: SourceArgs,
    /// The name of the machine
    #[arg(long, default_value = "wallet")]
    machine: String,
    /// The name of the account
    #[arg(long)]
    account: String,
    /// Print only this currency; the default is all currencies
    #[arg(long)]
    currency: Option<String>,
    /// The moment: an RFC 3339 time, or a position; the default is the end of the journal. A position includes its own
    /// command, so the balance at the position of an answer is the balance in that answer
    #[arg(long)]
    at: Option<String>,
}

/// What a program can reach beyond the folders of its machine.
pub trait Reach {
    /// What lets a command in at a node.
    type Access: Args;

    /// Fetches the files of the archive at a URL that `folder` lacks, and tells `on_bytes` of each.
    ///
    /// # Errors
    /// There is no such archive, or this program cannot reach it.
    fn fetch(&self, url: &str, folder: &Path, on_bytes: &dyn Fn(u64)) -> anyhow::Result<Mirror>;

    /// Lets the node at a URL replay its own history, and gives the results as [`replay::give`] does. Returns the exit
    /// code.
    ///
    /// # Errors
    /// The node does not carry it out, or this program cannot reach it.
    fn replay(&self, args: &ReplayArgs<Self::Access>, url: &str) -> anyhow::Result<u8>;
}

/// Carries out a command. Returns the exit code.
///
/// # Errors
/// It cannot be carried out: exit code 2.
pub fn run<R: Reach>(args: AuditArgs<R::Access>, reach: &R) -> anyhow::Result<ExitCode> {
    match args {
        AuditArgs::Verify(args) => run_verify(&args, reach),
        AuditArgs::Balance(args) => run_balance(&args, reach),
        AuditArgs::History(args) => log::run_history(&args, reach),
        AuditArgs::Log(args) => log::run(&args, reach),
        AuditArgs::Replay(args) => replay::run(&args, reach),
        AuditArgs::Certificate(args) => certificate::run(&args),
    }
}

/// A source, and the temporary folder into which it was fetched, if it is not kept elsewhere.
pub struct OpenSource {
    source: Source,
    _fetched: Option<TempDir>,
}

impl Deref for OpenSource {
    type Target = Source;

    fn deref(&self) -> &Source {
        &self.source
    }
}

fn open(from: &SourceArgs, reach: &impl Reach) -> anyhow::Result<OpenSource> {
    open_at(&from.data, from.cache.as_deref(), reach)
}

/// Opens a folder, or an archive by its folder or URL.
///
/// # Errors
/// There is nothing at `path` that an audit reads, or the archive cannot be reached.
pub fn open_at(path: &Path, cache: Option<&Path>, reach: &impl Reach) -> anyhow::Result<OpenSource> {
    if let Some(url) = path.to_str().filter(|text| text.contains("://")) {
        return fetch(url, cache, reach);
    }
    if path.join(OWNER).is_file() {
        let mirror = Mirror::of_folder(path)?;
        return Ok(OpenSource { source: Source::of_archive(mirror)?, _fetched: None });
    }
    let source = Source::open(path).map_err(|error| match error {
        AuditError::NoNode { .. } => {
            anyhow::anyhow!("{error}; name the folder that the node was started with by --data")
        }
        error => error.into(),
    });
    Ok(OpenSource { source: source?, _fetched: None })
}

fn fetch(url: &str, cache: Option<&Path>, reach: &impl Reach) -> anyhow::Result<OpenSource> {
    let temporary = if cache.is_none() { Some(tempfile::tempdir()?) } else { None };
    let folder = cache.or(temporary.as_ref().map(TempDir::path)).expect("there is one of both");
    let bar = progress("bytes fetched");
    let mirror = reach.fetch(url, folder, &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    Ok(OpenSource { source: Source::of_archive(mirror)?, _fetched: temporary })
}

fn run_verify(args: &VerifyArgs, reach: &impl Reach) -> anyhow::Result<ExitCode> {
    let source = open(&args.from, reach)?;
    if let Some(machine) = &args.machine {
        source.machine(machine)?;
    }
    let bar = progress("entries verified");
    let report = verify(&source, args.machine.as_deref(), &|done| bar.inc(done))?;
    bar.finish_and_clear();
    if args.from.json {
        print_json(&report)?;
    } else {
        print(&report_text(&report))?;
    }
    Ok(match (report.is_clean, report.finding_count) {
        (false, _) => ExitCode::from(1),
        (true, 0) => ExitCode::SUCCESS,
        (true, _) => ExitCode::from(FINDINGS),
    })
}

fn report_text(report: &VerifyReport) -> String {
    let mut rows =
        table(&["partition", "entries", "commands", "events", "rejected", "rows", "position", "state digest"]);
    for partition in &report.partitions {
        rows.add_row([
            format!("{}/{}", partition.machine, partition.partition),
            partition.entries.to_string(),
            partition.commands.to_string(),
            partition.events.to_string(),
            partition.rejections.to_string(),
            partition.rows.to_string(),
            partition.position.clone(),
            partition.state_digest.chars().take(16).collect(),
        ]);
    }
    let mut text = format!("{rows}\n");
    for partition in &report.partitions {
        for fault in &partition.faults {
            let segment = fault.segment.as_deref().map(|segment| format!(" in {segment}")).unwrap_or_default();
            let offset = fault.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
            let index = fault.journal_index.map(|index| format!(" at entry {index}")).unwrap_or_default();
            let stream = format!("{}/{}", partition.machine, partition.partition);
            text.push_str(&format!("FAULT {stream} {}{index}{segment}{offset}: {}\n", fault.kind, fault.detail));
        }
    }
    let snapshots: u64 = report.partitions.iter().map(|partition| partition.snapshots).sum();
    if 0 < snapshots {
        text.push_str(&format!("{snapshots} canonical snapshots agree with the journal\n"));
    }
    let ahead: u64 = report.partitions.iter().map(|partition| partition.snapshots_ahead).sum();
    if 0 < ahead {
        text.push_str(&format!(
            "{ahead} canonical snapshots are of entries that are not in this folder; their own hashes are right\n"
        ));
    }
    for machine in &report.in_transit {
        let sums: Vec<String> = machine.in_transit.iter().map(|(unit, sum)| format!("{sum} {unit}")).collect();
        let sums = if sums.is_empty() { "nothing".to_owned() } else { sums.join(", ") };
        let cut = machine.cut.map(|time| format!(" at {}", print_time(Micros(time)))).unwrap_or_default();
        let (name, count) = (&machine.machine, machine.in_flight);
        text.push_str(&format!("{name}: {sums} in transit between partitions{cut}, with {count} commands in flight\n"));
        machine.faults.iter().for_each(|fault| text.push_str(&format!("FAULT {name} transit: {fault}\n")));
    }
    for finding in &report.findings {
        text.push_str(&format!("FINDING {} {}: {}\n", finding.machine, finding.kind, finding.detail));
    }
    if 0 < report.finding_count {
        text.push_str(&format!(
            "{} findings about clients, {} of them listed: nothing is damaged; tell those clients to use a new id \
             for each command\n",
            report.finding_count,
            report.findings.len()
        ));
    }
    text.push_str(if report.is_clean {
        "verified: frames, chain, digests, ids, invariants and transit are as recorded\n"
    } else {
        "NOT verified: see the faults above; keep the folder as it is and restore a replica or a backup\n"
    });
    text
}

fn run_balance(args: &BalanceArgs, reach: &impl Reach) -> anyhow::Result<ExitCode> {
    let source = open(&args.from, reach)?;
    let moment = args.at.as_deref().map(parse_moment).transpose()?;
    let bar = progress("replaying");
    let found = entity_at(&source, &args.machine, &args.account, moment)?;
    bar.finish_and_clear();
    let position = found.position.to_string();
    let time = print_time(found.journal.time);
    let balances = found.value.find("balances").cloned().unwrap_or(Value::Null);
    let balance = match &args.currency {
        Some(currency) => balances.find(currency).cloned(),
        None => Some(balances),
    };
    if args.from.json {
        let balances = balance.as_ref().map(to_json).transpose()?;
        print_json(&json!({
            "account": args.account, "currency": args.currency, "balance": balances,
            "position": position, "time": time, "head": found.journal.head,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = table(&["account", "currency", "balance", "position", "time"]);
    let pairs: Vec<(String, Value)> = match (balance, &args.currency) {
        (Some(Value::Map(pairs)), _) => pairs,
        (Some(value), Some(currency)) => vec![(currency.clone(), value)],
        (None, Some(currency)) => anyhow::bail!("{} holds no {currency} at {position}", args.account),
        _ => Vec::new(),
    };
    for (currency, value) in pairs {
        let value = value.as_text().map_or_else(|| format!("{value:?}"), str::to_owned);
        rows.add_row([args.account.clone(), currency, value, position.clone(), time.clone()]);
    }
    print(&format!("{rows}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub fn parse_moment(text: &str) -> anyhow::Result<Moment> {
    if let Ok(position) = text.parse() {
        return Ok(Moment::Position(position));
    }
    let time = parse_time(text).with_context(|| {
        format!("`{text}` is neither a position (0.42.0~1a2b3c4d) nor a time (2026-11-21T10:00:00Z)")
    })?;
    Ok(Moment::Time(time))
}
