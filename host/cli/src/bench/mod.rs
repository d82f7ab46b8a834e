//! `statehouse bench`: what this machine does, beside fixed figures of other systems on a comparable machine.
//!
//! Numbers are printed, never asserted. It does not know how the parts that it measures work.

pub mod guest;
mod archive;
mod http;
mod events;
mod bench_node;
mod views;
mod cluster;
mod load;
mod wallet;
mod spread;
mod ids;
mod log;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

/// The released wallet.
pub const WALLET: &[u8] = include_bytes!("../../../../modules/releases/wallet-1.0.1.wasm");

#[derive(Subcommand)]
pub enum BenchArgs {
    /// Measure the id check, and deciding and applying in the guest, on one core
    Guest(guest::GuestArgs),
    /// Measure appending to the log with sync, by entries per append; or how long a large log takes to open
    Log {
        /// Write, seal and open a log of this many GiB, instead of measuring appends
        #[arg(long)]
        open: Option<u64>,
        /// The folder to write in; the default is a temporary one
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Measure the id index at growing sizes
    Ids {
        /// The numbers of ids to measure with, separated by commas
        #[arg(long, value_delimiter = ',', default_value = "1000000,10000000")]
        sizes: Vec<u64>,
        /// The folder to write in; the default is a temporary one
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Measure transfers over HTTP against a node of its own, one per request and in batches
    Http(http::HttpArgs),
    /// Measure how fast events are delivered to many readers of a node's event stream
    Events(events::EventsArgs),
    /// Measure how far views lag under full load, and how long queries for statements take
    Views(views::ViewsArgs),
    /// Measure how fast journals are written to an archive, and read back from it
    Archive(archive::ArchiveArgs),
    /// Measure a cluster of three processes: transfers over HTTP, killed leaders, a rolling restart, idle CPU
    Cluster(cluster::BenchClusterArgs),
}

pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    match args {
        BenchArgs::Guest(args) => guest::run(&args),
        BenchArgs::Log { dir, open: None } => log::run(dir),
        BenchArgs::Log { dir, open: Some(gib) } => log::open(dir, gib),
        BenchArgs::Ids { sizes, dir } => ids::run(&sizes, dir),
        BenchArgs::Http(args) => http::run(args),
        BenchArgs::Events(args) => events::run(args),
        BenchArgs::Views(args) => views::run(args),
        BenchArgs::Archive(args) => archive::run(args),
        BenchArgs::Cluster(args) => cluster::run(args),
    }
}

/// The folder that was named, or a temporary one that is deleted with the value.
enum BenchFolder {
    Named(PathBuf),
    Temporary(tempfile::TempDir),
}

impl BenchFolder {
    fn new(named: Option<PathBuf>) -> anyhow::Result<Self> {
        Ok(match named {
            Some(path) => {
                std::fs::create_dir_all(&path)?;
                Self::Named(path)
            }
            None => Self::Temporary(tempfile::tempdir_in(".")?),
        })
    }

    fn path(&self) -> &std::path::Path {
        match self {
            Self::Named(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}
