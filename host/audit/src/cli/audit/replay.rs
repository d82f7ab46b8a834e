//! `statehouse audit replay`: recorded history under a candidate module.
//!
//! In: a data folder and a module. Out: a page for people, a report in JSON or HTML, a certificate. Exit codes: 0 the
//! same, 1 only approved differences, 2 other differences, 3 inconclusive. It does not know how anything is decided.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::page::{explanation_page, report_page};
use super::{Reach, SourceArgs, open};
use crate::audit::Source;
use crate::audit::certificate::Certificate;
use crate::audit::replay::explain::explain;
use crate::audit::replay::report::SCHEMA;
use crate::audit::replay::resume::{Keep, forget};
use crate::audit::replay::words::{parse_approved, parse_filter, parse_mode, parse_moment, place};
use crate::audit::replay::{FolderHistory, Meter, ReplayMode, ReplayVerdict, Report, Request, html, run_kept};
use crate::cli::output::{bar, complain, print, print_json};
use crate::ids::{Micros, ModuleId, PartitionId, Position};
use crate::key::NodeKey;
use crate::limits::REPLAY_SAVE_BYTES;
use crate::machine::logic::Logic;
use crate::registry::Stop;
use crate::rfc3339::parse_time;

/// The exit code of a replay that says nothing about the candidate.
const INCONCLUSIVE: u8 = 3;

/// Decide recorded history again with another module, and report what differs
///
/// Exit code 0: nothing differs. 1: only approved differences. 2: other differences. 3: the replay is inconclusive.
#[derive(Args)]
pub struct ReplayArgs<A: Args> {
    #[command(flatten)]
    pub source: SourceArgs,
    /// The name of the machine
    #[arg(long, default_value = "wallet")]
    pub machine: String,
    /// The module to try: a .wasm file, a release (`wallet-1.0.1`, or `1.0.1`), or the id of a module in the data
    /// folder
    #[arg(long, required_unless_present = "schema")]
    pub candidate: Option<String>,
    /// The folder of the released modules
    #[arg(long, default_value = "modules/releases")]
    releases: PathBuf,
    /// `isolated` makes each decision on the recorded state before it; `cumulative` makes it on the state that the
    /// candidate's own decisions lead to
    #[arg(long, default_value = "isolated", value_parser = parse_mode)]
    pub mode: ReplayMode,
    /// Decide from this RFC 3339 time or position on; what is before it is only applied
    #[arg(long)]
    pub from: Option<String>,
    /// Decide up to this RFC 3339 time or position; the default is the end of the journal
    #[arg(long)]
    pub to: Option<String>,
    /// Replay only this partition; the default is all
    #[arg(long)]
    pub partition: Option<u32>,
    /// Report only some differences: account=, id=, code=, command=, after= or before=; may be given several times
    #[arg(long = "where", value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// How many partitions to replay at the same time; the default is the number of cores
    #[arg(long)]
    jobs: Option<usize>,
    /// Write the report to this file, as JSON (FILE.json) or as one HTML page (FILE.html); may be given several times
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// Print the JSON Schema of the report, and do nothing else
    #[arg(long)]
    schema: bool,
    /// Approve this number of differences of a class, like `accepted_to_rejected=12`; repeat the option for each class
    #[arg(long, value_name = "CLASS=COUNT")]
    pub approve: Vec<String>,
    /// Write a certificate of the replay to this file, signed with the node's key
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Sign with this key instead of the data folder's `node.key`
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Save the progress of the replay in this folder, and continue from what was saved there before; the folder is
    /// removed when the replay is over
    #[arg(long, value_name = "FOLDER")]
    resume: Option<PathBuf>,
    /// Let a node replay its own history, through its REST API at http[s]://HOST:PORT. The candidate must be staged
    /// there
    #[arg(long, conflicts_with_all = ["data", "key_file", "jobs", "at", "explain", "resume"])]
    url: Option<String>,
    /// With --url
    #[command(flatten)]
    pub access: A,
    /// The position of the command for --explain
    #[arg(long, requires = "explain")]
    at: Option<String>,
    /// Print what both modules do with the one command at --at
    #[arg(long, requires = "at")]
    explain: bool,
}

pub fn run<R: Reach>(args: &ReplayArgs<R::Access>, reach: &R) -> anyhow::Result<ExitCode> {
    if args.schema {
        print(SCHEMA)?;
        return Ok(ExitCode::SUCCESS);
    }
    let carried_out = match &args.url {
        Some(url) => reach.replay(args, url),
        None => carry_out(args, reach),
    };
    match carried_out {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            complain(&format!("inconclusive: {error:#}"));
            Ok(ExitCode::from(INCONCLUSIVE))
        }
    }
}

fn carry_out<R: Reach>(args: &ReplayArgs<R::Access>, reach: &R) -> anyhow::Result<u8> {
    let source = open(&args.source, reach)?;
    // A replay may take hours, and a missing key is known now.
    let key = args.certificate.as_ref().map(|_| signing_key(args)).transpose()?;
    let history = FolderHistory::new(&source, &args.machine)?;
    let approved = parse_approved(&args.approve)?;
    let request = Request {
        candidate: find_candidate(&source, args)?,
        mode: args.mode,
        from: find_place(&history, args.from.as_deref())?,
        to: find_place(&history, args.to.as_deref())?,
        partition: args.partition.map(PartitionId),
        filter: parse_filter(&args.filter, parse_time)?,
        jobs: args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
    };
    if let Some(at) = &args.at {
        let position: Position =
            at.parse().map_err(|_| anyhow::anyhow!("`{at}` is not a position like 0.42.0~1a2b3c4d"))?;
        let explanation = explain(&history, &request, position)?;
        if args.source.json {
            print_json(&explanation)?;
        } else {
            print(&explanation_page(&explanation))?;
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
    let stop = Arc::new(Stop::default());
    if args.resume.is_some() {
        stop_on_signals(stop.clone())?;
    }
    let keep = Keep { folder: args.resume.clone(), bytes: REPLAY_SAVE_BYTES, stop };
    let report = run_kept(&history, &request, &meter, &keep);
    progress.finish_and_clear();
    let report = report?;
    let verdict = ReplayVerdict::of(&report, &approved);
    give(args, &report, verdict, begun.elapsed())?;
    if let (Some(path), Some(key)) = (&args.certificate, &key) {
        write_certificate(args, path, &report, key)?;
    }
    if let Some(folder) = &args.resume {
        forget(folder).with_context(|| format!("{}", folder.display()))?;
    }
    Ok(verdict.exit_code())
}

/// Prints the report, and writes it to the files that were asked for.
///
/// # Errors
/// A file cannot be written, or its name says no form.
pub fn give<A: Args>(
    args: &ReplayArgs<A>,
    report: &Report,
    verdict: ReplayVerdict,
    took: Duration,
) -> anyhow::Result<()> {
    if args.source.json {
        print_json(report)?;
    } else {
        print(&report_page(report, verdict, took))?;
    }
    args.report.iter().try_for_each(|path| write_report(path, report, verdict))
}

/// On the first signal the replay saves its progress; a second one ends it at once.
fn stop_on_signals(stop: Arc<Stop>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_none() {
            return;
        }
        stop.ask();
        eprintln!("saving the progress; send the signal again to stop at once");
        if signals.next().is_some() {
            std::process::exit(130);
        }
    });
    Ok(())
}

fn write_report(path: &Path, report: &Report, verdict: ReplayVerdict) -> anyhow::Result<()> {
    let text = match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => serde_json::to_string_pretty(report)? + "\n",
        Some("html" | "htm") => html::page(report, verdict),
        _ => bail!("{}: name the report FILE.json or FILE.html", path.display()),
    };
    std::fs::write(path, text).with_context(|| format!("{}", path.display()))
}

fn write_certificate<A: Args>(args: &ReplayArgs<A>, path: &Path, report: &Report, key: &NodeKey) -> anyhow::Result<()> {
    let certificate = Certificate::sign(report, key)?;
    std::fs::write(path, certificate.to_json()).with_context(|| format!("{}", path.display()))?;
    if !args.source.json {
        print(&format!("certificate {} signed by {}\n", certificate.digest().short(), certificate.key()))?;
    }
    Ok(())
}

/// The key that is named, or that of the node whose folder this is. An audit makes none: it writes nothing into what it
/// reads, and nobody would know the new key.
fn signing_key<A: Args>(args: &ReplayArgs<A>) -> anyhow::Result<NodeKey> {
    let data = &args.source.data;
    if let Some(file) = &args.key_file {
        return Ok(NodeKey::read(file)?);
    }
    NodeKey::kept_in(data).with_context(|| {
        format!(
            "{} has no key of a node to sign the certificate with: name a key by --key-file, or let a node replay its \
             own history by --url",
            data.display()
        )
    })
}

/// Finds a file, a release, or a module of the data folder.
fn find_candidate<A: Args>(source: &Source, args: &ReplayArgs<A>) -> anyhow::Result<Arc<dyn Logic>> {
    match find_source(args) {
        Ok(CandidateSource::Wasm(wasm)) => Ok(source.compile(&wasm)?),
        Ok(CandidateSource::Id(id)) => source.load(id).map_err(anyhow::Error::msg),
        Err(error) => find_in_folder(source, args)?.ok_or(error),
    }
}

/// Finds a module of the data folder by its version, or by the first digits of its id. Fails if there are several.
fn find_in_folder<A: Args>(source: &Source, args: &ReplayArgs<A>) -> anyhow::Result<Option<Arc<dyn Logic>>> {
    let name = args.candidate.as_deref().unwrap_or_default();
    let is_short_id = 4 <= name.len() && name.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut found: Vec<Arc<dyn Logic>> = Vec::new();
    for id in source.module_ids()? {
        let is_named = is_short_id && id.to_string().starts_with(&name.to_ascii_lowercase());
        let Ok(logic) = source.load(id) else { continue };
        let describe = logic.describe();
        if is_named || (describe.name == args.machine && describe.version == name) {
            found.push(logic);
        }
    }
    match &found[..] {
        [] => Ok(None),
        [logic] => Ok(Some(logic.clone())),
        several => {
            let ids: Vec<String> = several.iter().map(|logic| logic.id().to_string()).collect();
            bail!("`{name}` is the name of several modules in the data folder; name one by its id: {}", ids.join(", "))
        }
    }
}

/// What the name of a candidate refers to.
pub enum CandidateSource {
    /// The bytes of a file.
    Wasm(Vec<u8>),
    /// A module that the data folder or the node may have.
    Id(ModuleId),
}

/// Finds what the name of the candidate refers to, on this machine.
///
/// # Errors
/// There is no such file or release, and the name is not an id; or the file cannot be read.
pub fn find_source<A: Args>(args: &ReplayArgs<A>) -> anyhow::Result<CandidateSource> {
    let name = args.candidate.as_deref().unwrap_or_default();
    let releases = [format!("{name}.wasm"), format!("{}-{name}.wasm", args.machine)];
    let released = releases.iter().map(|release| args.releases.join(release));
    for path in std::iter::once(PathBuf::from(name)).chain(released) {
        if path.is_file() {
            return Ok(CandidateSource::Wasm(std::fs::read(&path).with_context(|| format!("{}", path.display()))?));
        }
    }
    if let Ok(id) = name.parse() {
        return Ok(CandidateSource::Id(id));
    }
    bail!(
        "there is no candidate `{name}`: name a .wasm file, a release in {} (its file without `.wasm`), or a module in \
         the data folder by its version or id",
        args.releases.display()
    )
}

fn find_place(history: &FolderHistory<'_>, text: Option<&str>) -> anyhow::Result<Option<Micros>> {
    let Some(text) = text else { return Ok(None) };
    Ok(Some(place(history, parse_moment(text, parse_time)?)?))
}
