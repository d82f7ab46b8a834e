//! `statehouse snapshot`: take, list, verify, restore.
//!
//! In: a node to ask, or a folder to read. Out: tables, or JSON for programs; exit code 1 if a snapshot is not what it
//! should be. It does not know how a snapshot is made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use statehouse_audit::audit::Source;
use statehouse_audit::audit::replay::history::FolderHistory;
use statehouse_audit::audit::snapshots::{SnapshotsReport, make, read_whole, verify};
use statehouse_audit::audit::transit::ConsistentCut;
use statehouse_journal::canonical::{ListedFile, SnapshotFile, list_files};
use statehouse_journal::disk::RealDisk;
use statehouse_journal::segments::write_module;
use statehouse_kernel::ids::{JournalIndex, ModuleId, NodeId, PartitionId};
use statehouse_kernel::machine::journal::Moment;
use statehouse_node::api::{SnapshotContent, SnapshotPage, print_time};
use statehouse_node::config::is_host_and_port;
use statehouse_node::system::restore::{RestoreOptions, Restored, RestoredPartition, restore};

use crate::audit::{open_at, parse_moment};
use crate::client::ClientArgs;
use crate::module::block_on;
use crate::output::{print, print_json, progress, table};
use crate::shipped;

#[derive(Debug, Subcommand)]
pub enum SnapshotArgs {
    /// Take a canonical snapshot of each partition of a machine
    ///
    /// The node at --url takes them of its present state. With --data, this command makes them from a journal, of any
    /// moment, without a node.
    Take(TakeArgs),
    /// List the canonical snapshots of a machine
    ///
    /// A node also lists those that are only in its archive. A node that lacks the snapshot of a midnight fetches it
    /// from the archive or from another node automatically.
    List(SnapshotListArgs),
    /// Check every byte of canonical snapshots, and with --data compare them with the replayed journal
    ///
    /// Exit code 1 means that a snapshot is damaged or differs from the journal.
    Verify(SnapshotVerifyArgs),
    /// Restore a lost cluster from an archive or export, as one node; add the others with `cluster add`
    ///
    /// The command checks and applies every entry, and prints up to which position each partition is restored. What
    /// came after these positions is lost.
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A folder that `audit log --export` wrote, or an archive (its folder, or s3://bucket/prefix). It must have the
    /// journals and modules of all machines, `system` included
    #[arg(long)]
    from: PathBuf,
    /// The data folder to create; it must not exist, or be empty
    #[arg(long)]
    data: PathBuf,
    /// The id of the node, from 1; no node of the cluster may ever have had it
    #[arg(long)]
    node: u64,
    /// The host:port where other nodes will reach the node; without it, the node stays a cluster of its own
    #[arg(long)]
    advertise: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct TakeArgs {
    /// The name of the machine; `system` is a machine, too
    #[arg(long, default_value = "wallet")]
    machine: String,
    /// The data folder of a running or stopped node, or a folder that `audit log --export` wrote
    #[arg(long, requires = "into", conflicts_with = "url")]
    data: Option<PathBuf>,
    /// With --data: the folder that the files are written to
    #[arg(long, requires = "data")]
    into: Option<PathBuf>,
    /// With --data: the moment, an RFC 3339 time or a position; the default is the end of each journal
    #[arg(long, requires = "data")]
    at: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asked: ClientArgs,
}

#[derive(Debug, Args)]
pub struct SnapshotListArgs {
    /// The name of the machine; `system` is a machine, too
    #[arg(long, default_value = "wallet")]
    machine: String,
    /// List those in this data folder or export, without a node
    #[arg(long, conflicts_with = "url")]
    data: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asked: ClientArgs,
}

#[derive(Debug, Args)]
pub struct SnapshotVerifyArgs {
    /// The snapshot files; the default with --data is all snapshots in that folder
    files: Vec<PathBuf>,
    /// The journal to compare with: the data folder of a running or stopped node, or a folder that `audit log --export`
    /// wrote
    #[arg(long)]
    data: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: SnapshotArgs) -> anyhow::Result<ExitCode> {
    match args {
        SnapshotArgs::Take(args) => take(&args),
        SnapshotArgs::List(args) => list(&args),
        SnapshotArgs::Verify(args) => run_verify(&args),
        SnapshotArgs::Restore(args) => run_restore(&args),
    }
}

fn take(args: &TakeArgs) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let taken = match (&args.data, &args.into) {
        (Some(data), Some(into)) => {
            let source = open_at(data)?;
            source.machine(&args.machine)?;
            let at = args.at.as_deref().map(parse_moment).transpose()?;
            let mut made = Vec::new();
            // A position belongs to one partition.
            let of = |partition: &PartitionId| !matches!(at, Some(Moment::Position(at)) if at.partition != *partition);
            for partition in source.partitions(&args.machine)?.into_iter().filter(of) {
                let opened = source.partition(&args.machine, partition)?;
                made.push(SnapshotPage::of(make(&source, &opened, at, into)?));
            }
            made
        }
        _ => pages(block_on(ask(&args.asked, Method::POST, &args.machine))?)?,
    };
    let seconds = begun.elapsed().as_secs_f64();
    if args.json {
        print_json(&taken)?;
    } else {
        let contents = || taken.iter().filter_map(|page| page.content.as_ref());
        let (bytes, rows) =
            (contents().map(|content| content.bytes).sum::<u64>(), contents().map(|content| content.rows).sum::<u64>());
        print(&format!("{}{rows} rows, {bytes} bytes in {seconds:.3} s\n", table_of(&taken)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &SnapshotListArgs) -> anyhow::Result<ExitCode> {
    let listed = match &args.data {
        Some(data) => {
            let source = open_at(data)?;
            source.machine(&args.machine)?;
            files_of(&source, &args.machine)?.into_iter().map(SnapshotPage::of).collect()
        }
        None => pages(block_on(ask(&args.asked, Method::GET, &args.machine))?)?,
    };
    if args.json {
        print_json(&listed)?;
    } else if listed.is_empty() {
        print(&format!(
            "{}: no canonical snapshot yet; one is made each midnight UTC, and by `statehouse snapshot take`\n",
            args.machine
        ))?;
    } else {
        print(&table_of(&listed))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The snapshots in a folder whose manifest is valid.
fn files_of(source: &Source, machine: &str) -> anyhow::Result<Vec<ListedFile>> {
    let mut found = Vec::new();
    for partition in source.partitions(machine)? {
        let opened = source.partition(machine, partition)?;
        for file in list_files(&RealDisk, &source.snapshot_folder(&opened))? {
            found.push(SnapshotFile::open(&RealDisk, &file)?.listed().clone());
        }
    }
    Ok(found)
}

async fn ask(asked: &ClientArgs, method: Method, machine: &str) -> anyhow::Result<Value> {
    asked.client()?.send(method, &format!("/v1/machines/{machine}/snapshots"), None).await
}

fn pages(answer: Value) -> anyhow::Result<Vec<SnapshotPage>> {
    serde_json::from_value(answer)
        .context("the node's answer is not that of this version; use the `statehouse` it runs")
}

fn table_of(pages: &[SnapshotPage]) -> String {
    let mut rows = table(&["partition", "position", "time", "00:00 UTC of", "rows", "bytes", "state digest", "file"]);
    for page in pages {
        let days = match page.days.as_slice() {
            [] => String::new(),
            [day] => day.clone(),
            [first, .., last] => format!("{first} to {last}"),
        };
        let of = |say: fn(&SnapshotContent) -> String| page.content.as_ref().map(say).unwrap_or_default();
        rows.add_row([
            format!("{}/{}", page.machine, page.partition),
            page.content.as_ref().map_or_else(|| "only in the archive".to_owned(), |content| content.position.clone()),
            of(|content| content.time.clone()),
            days,
            of(|content| content.rows.to_string()),
            of(|content| content.bytes.to_string()),
            of(|content| content.state_digest.chars().take(16).collect()),
            page.file.clone(),
        ]);
    }
    format!("{rows}\n")
}

fn run_verify(args: &SnapshotVerifyArgs) -> anyhow::Result<ExitCode> {
    let Some(data) = &args.data else { return verify_files(args) };
    let source = open_at(data)?;
    let bar = progress("entries replayed");
    let checked = verify(&source, &args.files, &|done| bar.inc(done));
    bar.finish_and_clear();
    let checked = checked?;
    let is_clean = checked.iter().all(|partition| partition.faults.is_empty());
    if args.json {
        print_json(&json!({"is_clean": is_clean, "partitions": checked}))?;
    } else {
        print(&checked_text(&checked, is_clean))?;
    }
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Checks files alone: their hashes, without anything to compare them with.
fn verify_files(args: &SnapshotVerifyArgs) -> anyhow::Result<ExitCode> {
    ensure!(!args.files.is_empty(), "name snapshots, or a folder that has some with --data");
    let mut pages = Vec::new();
    let mut text = String::new();
    for file in &args.files {
        match read_whole(file) {
            Ok(listed) => pages.push(SnapshotPage::of(listed)),
            Err(error) => text.push_str(&format!("FAULT {error}\n")),
        }
    }
    let is_clean = pages.len() == args.files.len();
    if args.json {
        print_json(&json!({"is_clean": is_clean, "whole": pages, "faults": text.lines().collect::<Vec<_>>()}))?;
    } else {
        let verdict = if is_clean {
            "every byte is as it was written; --data also compares the snapshots with the journal\n"
        } else {
            "NOT verified: see the faults above; every replica has the same files, and `snapshot take --data` makes \
             them again\n"
        };
        print(&format!("{}{text}{verdict}", table_of(&pages)))?;
    }
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn checked_text(checked: &[SnapshotsReport], is_clean: bool) -> String {
    let mut rows = table(&["partition", "verified", "after the journal's end"]);
    for partition in checked {
        let stream = format!("{}/{}", partition.machine, partition.partition);
        rows.add_row([stream, partition.verified.to_string(), partition.ahead.to_string()]);
    }
    let mut text = format!("{rows}\n");
    for partition in checked {
        for fault in &partition.faults {
            let stream = format!("{}/{}", partition.machine, partition.partition);
            let file = fault.segment.as_deref().map(|file| format!(" in {file}")).unwrap_or_default();
            let offset = fault.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
            text.push_str(&format!("FAULT {stream}{file}{offset}: {}\n", fault.detail));
        }
    }
    text.push_str(if is_clean {
        "verified: every byte is as it was written, and the rows are those of the journal\n"
    } else {
        "NOT verified: see the faults above; every replica has the same files, and `snapshot take --data` makes them \
         again\n"
    });
    text
}

fn run_restore(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    ensure!(0 < args.node, "--node is a number from 1");
    if let Some(address) = &args.advertise {
        ensure!(is_host_and_port(address), "--advertise {address} is not host:port");
    }
    let source = open_at(&args.from)?;
    let mut cuts = BTreeMap::new();
    for machine in source.machines()? {
        let cut = ConsistentCut::find(&FolderHistory::new(&source, &machine)?)?;
        cuts.insert(machine, cut.time());
    }
    let bar = progress("entries restored");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let restored = runtime.block_on(restore(RestoreOptions {
        from: source.path(),
        manifest: source.manifest(),
        data: &args.data,
        node: NodeId(args.node),
        advertise: args.advertise.clone(),
        cuts,
        on_entry: &|done| bar.inc(done),
    }));
    bar.finish_and_clear();
    let restored = restored?;
    keep_views(&args.data)?;
    if args.json {
        let partition = |it: &RestoredPartition| {
            json!({
                "machine": it.machine, "partition": it.partition, "position": it.position.to_string(),
                "time": print_time(it.time), "left_out": it.left_out, "snapshots": it.snapshots,
            })
        };
        print_json(&json!({
            "cluster": restored.cluster, "node": args.node, "removed": restored.removed, "unknown": restored.unknown,
            "partitions": restored.partitions.iter().map(partition).collect::<Vec<_>>(),
        }))?;
    } else {
        print(&restored_text(&restored, args))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts the views that are part of this program into a restored folder: an export has no modules of views, nor has an
/// archive by an older version, and no other node is there yet that could be asked for them.
fn keep_views(data: &Path) -> anyhow::Result<()> {
    for view in shipped::all() {
        let wasm = shipped::read(&view)?;
        write_module(data, ModuleId::of(&wasm), &wasm)?;
    }
    Ok(())
}

fn restored_text(restored: &Restored, args: &RestoreArgs) -> String {
    let mut rows = table(&["partition", "restored up to", "time", "left out", "midnights as archived"]);
    for it in &restored.partitions {
        rows.add_row([
            format!("{}/{}", it.machine, it.partition),
            it.position.to_string(),
            print_time(it.time),
            it.left_out.to_string(),
            it.snapshots.to_string(),
        ]);
    }
    let removed: Vec<String> = restored.removed.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{rows}\ncluster {} is now node {} in {}; what came after these positions is not in the archive and is \
         lost\n",
        restored.cluster,
        args.node,
        args.data.display()
    );
    let empty = restored.partitions.iter().filter(|it| it.position.index == JournalIndex(0));
    for it in empty {
        text.push_str(&format!("nothing of {}/{} is in the archive: it begins empty\n", it.machine, it.partition));
    }
    if restored.partitions.iter().any(|it| 0 < it.left_out) {
        text.push_str(
            "entries that are left out have causes that are not in the archive, or came after such entries: they \
             stay in the archive, so export the new history into another folder\n",
        );
    }
    for machine in &restored.unknown {
        text.push_str(&format!("machine `{machine}` is left out: `system` in the archive does not know it yet\n"));
    }
    text.push_str(&format!(
        "removed for good, so these must not run any more: node {}\nstart the new node with `statehouse serve`, \
         [node] id = {}, data = \"{}\"{}\n",
        removed.join(", node "),
        args.node,
        args.data.display(),
        args.advertise.as_deref().map_or_else(String::new, |address| format!(", [peer] advertise = \"{address}\""))
    ));
    text
}
