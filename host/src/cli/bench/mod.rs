//! `statehouse bench`: what this machine does, beside fixed figures of other systems on a comparable machine.
//!
//! Numbers are printed, never asserted. It does not know how the parts that it measures work.

pub mod guest;
mod archive;
mod http;
mod events;
mod served;
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
    /// Id check, decide and apply in the guest, on one core
    Guest(guest::GuestArgs),
    /// Append and sync, by entries per append; or how long a large log takes to open
    Log {
        /// GiB of a log that is written, sealed and opened, instead of measuring appends
        #[arg(long)]
        open: Option<u64>,
        /// Folder to write in; a temporary one without it
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// The id index at growing sizes
    Ids {
        /// Numbers of ids
        #[arg(long, value_delimiter = ',', default_value = "1000000,10000000")]
        sizes: Vec<u64>,
        /// Folder to write in; a temporary one without it
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Transfers over HTTP against a node of its own, one per request and in batches
    Http(http::HttpArgs),
    /// Events delivered to 1, 100 and 1,000 readers of a node's event stream
    Events(events::EventsArgs),
    /// By how much views lag under full load, and how long statements take
    Views(views::ViewsArgs),
    /// How fast journals come into an archive, and back out of it
    Archive(archive::ArchiveArgs),
    /// Three processes: transfers over HTTP, idle CPU, a killed leader, a rolling restart
    Cluster(cluster::ClusterArgs),
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
enum Folder {
    Named(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
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
