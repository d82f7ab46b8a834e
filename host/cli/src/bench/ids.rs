//! `bench ids`: the id index at growing sizes, with random and with time-ordered ids.
//!
//! In: numbers of ids, and a folder. Out: a table. It does not know what an id stands for.

use std::path::PathBuf;
use std::process::ExitCode;

use statehouse_node::store::bench::{IdKind, ids};

use crate::bench::BenchFolder;
use crate::output::{print, progress, table};

pub fn run(sizes: &[u64], dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let folder = BenchFolder::new(dir)?;
    let mut rows = table(&[
        "ids",
        "uuid",
        "new ids/s",
        "new ids/s, index full",
        "known ids/s",
        "batch ms max",
        "runs",
        "memory MB",
        "disk MB",
    ]);
    let bar = progress("ids indexed");
    for size in sizes {
        for kind in [IdKind::Random, IdKind::TimeOrdered] {
            for figures in ids(folder.path(), kind, &[*size])? {
                bar.inc(figures.ids);
                rows.add_row([
                    figures.ids.to_string(),
                    format!("{:?}", figures.kind),
                    format!("{:.0}", figures.filled_per_second),
                    format!("{:.0}", figures.full_per_second),
                    format!("{:.0}", figures.known_per_second),
                    format!("{:.1}", figures.batch_ms_max),
                    figures.runs.to_string(),
                    format!("{:.0}", figures.memory_bytes as f64 / 1e6),
                    format!("{:.0}", figures.disk_bytes as f64 / 1e6),
                ]);
            }
        }
    }
    bar.finish_and_clear();
    print(&format!("{rows}\neach id is looked up and recorded, in batches of 8,192\n"))?;
    Ok(ExitCode::SUCCESS)
}
