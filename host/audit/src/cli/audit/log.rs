//! `statehouse audit log` and `audit history`: the journal as text, all of it or what was done to one account; and
//! `--export`.
//!
//! In: a folder. Out: one line a command, with its events or its rejection, as text or as one JSON object a line; or
//! journal segments. It does not know how anything is read.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;
use statehouse_abi::value::Value;

use super::{Reach, SourceArgs, open};
use crate::audit::export::{ExportReport, export};
use crate::audit::list::{Line, LineContent, LinePart, ModuleLabel, list};
use crate::audit::{AuditError, Source};
use crate::cli::output::{print, print_json, print_json_text, progress, table, to_json};
use crate::ids::{NodeId, PartitionId};
use crate::machine::slots::partition_of;
use crate::rfc3339::print_time;
use crate::segments::Boundary;

#[derive(Args)]
pub struct LogArgs {
    #[command(flatten)]
    from: SourceArgs,
    /// The name of the machine; the default is `wallet`, or all machines with --export
    #[arg(long)]
    machine: Option<String>,
    /// Print only this partition; the default is all, ordered by time, then partition, then index, so that no entry
    /// stands before its cause
    #[arg(long)]
    partition: Option<u32>,
    /// Stop after this number of lines
    #[arg(long)]
    limit: Option<usize>,
    /// Write all partitions and the modules that decided them to this folder, as files that are the same from every
    /// replica. Every `audit` command reads the folder with --data. A second export adds to the folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["partition", "limit"])]
    export: Option<PathBuf>,
}

#[derive(Args)]
pub struct HistoryArgs {
    #[command(flatten)]
    from: SourceArgs,
    /// The name of the machine
    #[arg(long, default_value = "wallet")]
    machine: String,
    /// The name of the account
    #[arg(long)]
    account: String,
    /// Stop after this number of lines
    #[arg(long)]
    limit: Option<usize>,
}

pub fn run(args: &LogArgs, reach: &impl Reach) -> anyhow::Result<ExitCode> {
    let source = open(&args.from, reach)?;
    if let Some(folder) = &args.export {
        return run_export(&source, args, folder);
    }
    let machine = args.machine.as_deref().unwrap_or("wallet");
    source.machine(machine)?;
    let known = source.partitions(machine)?;
    let partitions = match args.partition {
        None => known,
        Some(one) if known.contains(&PartitionId(one)) => vec![PartitionId(one)],
        Some(partition) => return Err(AuditError::NoPartition { machine: machine.to_owned(), partition }.into()),
    };
    print_lines(&source, machine, &partitions, None, args.limit, args.from.json)
}

pub fn run_history(args: &HistoryArgs, reach: &impl Reach) -> anyhow::Result<ExitCode> {
    let source = open(&args.from, reach)?;
    source.machine(&args.machine)?;
    let count = u32::try_from(source.partitions(&args.machine)?.len())?;
    let partition = partition_of(args.account.as_bytes(), count);
    print_lines(&source, &args.machine, &[partition], Some(&args.account), args.limit, args.from.json)
}

fn print_lines(
    source: &Source,
    machine: &str,
    partitions: &[PartitionId],
    entity: Option<&str>,
    limit: Option<usize>,
    is_json: bool,
) -> anyhow::Result<ExitCode> {
    let opened = partitions.iter().map(|partition| source.partition(machine, *partition));
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    let limit = limit.unwrap_or(usize::MAX);
    let mut left = limit;
    let mut result = Ok(());
    list(source, &opened, entity, |line| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        result = if is_json {
            line_json(&line).and_then(|text| Ok(print_json_text(&text)?))
        } else {
            print(&line_text(&line)).map_err(anyhow::Error::from)
        };
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    result?;
    if let Some(entity) = entity.filter(|_| left == limit && 0 < limit) {
        bail!("no recorded command has changed `{entity}`: is the name right?");
    }
    Ok(ExitCode::SUCCESS)
}

fn run_export(source: &Source, args: &LogArgs, folder: &Path) -> anyhow::Result<ExitCode> {
    let machines = match &args.machine {
        Some(machine) => {
            source.machine(machine)?;
            vec![machine.clone()]
        }
        None => source.machines()?,
    };
    let bar = progress("entries written");
    let report = export(source, &machines, folder, Boundary::default(), &|done| bar.inc(done));
    bar.finish_and_clear();
    let report = report?;
    if args.from.json {
        print_json(&report)?;
    } else {
        print(&export_text(&report, folder))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn export_text(report: &ExportReport, folder: &Path) -> String {
    let mut rows = table(&["partition", "files", "bytes", "entries", "head"]);
    for facts in &report.manifest.partitions {
        let last = facts.files.last();
        rows.add_row([
            format!("{}/{}", facts.machine, facts.partition),
            facts.files.len().to_string(),
            facts.files.iter().map(|file| file.bytes).sum::<u64>().to_string(),
            last.map_or_else(|| "0".to_owned(), |file| file.last.to_string()),
            last.map_or_else(String::new, |file| file.head.to_string().chars().take(16).collect()),
        ]);
    }
    let (modules, snapshots) = (report.manifest.modules.len(), report.snapshots_copied);
    let mut text = format!("{rows}\n{modules} modules, {snapshots} new canonical snapshots\n");
    if 0 < report.entries_left_out {
        let count = report.entries_left_out;
        text.push_str(&format!(
            "{count} entries are not known to be committed yet and are left out: export again later\n"
        ));
    }
    text.push_str(&format!("check it with `statehouse audit verify --data {}`\n", folder.display()));
    text
}

fn line_text(line: &Line) -> String {
    let head = format!("{}  {}", line.position, print_time(line.time));
    match &line.what {
        LineContent::Tick => format!("{head}  tick\n"),
        LineContent::Activation { module, schema, replaced } => {
            let words = match replaced {
                Some(replaced) => format!("{} replaces {}", label_text(module), label_text(replaced)),
                None => format!("{} is the first", label_text(module)),
            };
            format!("{head}  activate module {} schema {schema}: {words}\n", module.id)
        }
        LineContent::Heard { id, step, outcome, position } => {
            let place = position.as_ref().map_or_else(String::new, |position| format!(" at {position}"));
            format!("{head}  {step} of {id}: {outcome}{place}\n")
        }
        LineContent::Ordered { id, order, by, vouched, why } => {
            format!("{head}  {order} of {id} ordered by {}: {why}\n", says(by, *vouched))
        }
        LineContent::Command { id, part, name, caller, vouched, body, events, rejection, .. } => {
            let json = |value: &Value| to_json(value).map_or_else(|error| error.to_string(), |json| json.to_string());
            let part = match part {
                LinePart::Whole => String::new(),
                LinePart::Start => "start of ".to_owned(),
                LinePart::Call { step, home } => format!("{step}, for partition {home}, of "),
                LinePart::End => "end of ".to_owned(),
            };
            let by = says(caller, *vouched);
            let mut text = format!("{head}  {part}{name} {id} by {by} {}\n", json(body));
            events.iter().for_each(|event| text.push_str(&format!("    event    {}\n", json(event))));
            if let Some(rejection) = rejection {
                text.push_str(&format!("    rejected {}: {}\n", rejection.code, rejection.detail));
            }
            text
        }
    }
}

/// The version and the first digits of the id: `audit replay` finds the module by either.
fn label_text(ModuleLabel { id, version }: &ModuleLabel) -> String {
    let id = id.short();
    version.as_ref().map_or_else(|| format!("module {id}"), |version| format!("version {version} ({id})"))
}

/// Who asked, and which node has told the leader so.
fn says(caller: &str, vouched: Option<NodeId>) -> String {
    vouched.map_or_else(|| caller.to_owned(), |node| format!("{caller} (says node {node})"))
}

/// `whole`, `start` or `end`; for a call its step and the partition that asks.
fn part_json(part: &LinePart) -> serde_json::Value {
    match part {
        LinePart::Whole => json!("whole"),
        LinePart::Start => json!("start"),
        LinePart::Call { step, home } => json!({"call": step, "home": home}),
        LinePart::End => json!("end"),
    }
}

/// One JSON object per line.
fn line_json(line: &Line) -> anyhow::Result<String> {
    let what = match &line.what {
        LineContent::Tick => json!({"kind": "tick"}),
        LineContent::Activation { module, schema, replaced } => json!({
            "kind": "activate", "module": module.id.to_string(), "schema": schema, "version": module.version,
            "replaced": replaced.as_ref().map(|before| before.id.to_string()),
            "replaced_version": replaced.as_ref().map(|before| &before.version),
        }),
        LineContent::Heard { id, step, outcome, position } => json!({
            "kind": "heard", "id": id.to_string(), "step": step, "outcome": outcome, "at": position,
        }),
        LineContent::Ordered { id, order, by, vouched, why } => json!({
            "kind": "order", "id": id.to_string(), "order": order, "by": by, "vouched_by": vouched, "why": why,
        }),
        LineContent::Command { id, part, name, caller, vouched, request_id, body, events, rejection } => json!({
            "kind": "command", "id": id.to_string(), "part": part_json(part), "command": name,
            "caller": caller, "vouched_by": vouched, "request_id": request_id,
            "body": to_json(body)?, "events": events.iter().map(to_json).collect::<Result<Vec<_>, _>>()?,
            "rejection": rejection.as_ref().map(|found| json!({"code": found.code, "detail": found.detail})),
        }),
    };
    let mut object = json!({"position": line.position, "time": print_time(line.time)});
    if let (Some(object), serde_json::Value::Object(what)) = (object.as_object_mut(), what) {
        object.extend(what);
    }
    Ok(format!("{object}\n"))
}
