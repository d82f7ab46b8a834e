//! The page about metrics is compared with the metrics that the code sets.
//!
//! In: every file of the host except tests. Out: names and kinds, as on the page (a row of the table). It does not know
//! when a metric is set.

use std::path::Path;

use super::{assert_same, host, page};

const KINDS: [&str; 3] = ["counter", "gauge", "histogram"];

#[test]
fn the_page_has_every_metric() {
    let mut of_code = Vec::new();
    for package in ["cli", "node"] {
        collect(&host().join(package).join("src"), &mut of_code);
    }
    of_code.sort();
    of_code.dedup();
    let text = page("metrics.md");
    let of_page: Vec<_> = text.lines().filter_map(row).collect();
    assert_same("metrics", of_code, of_page);
}

/// Name and kind.
fn row(line: &str) -> Option<(String, String)> {
    let cells: Vec<&str> = line.strip_prefix("| `statehouse_")?.split('|').map(str::trim).collect();
    let [name, kind, ..] = cells.as_slice() else { return None };
    Some((format!("statehouse_{}", name.trim_end_matches('`')), (*kind).to_owned()))
}

fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("the host's source is there") {
        let path = entry.expect("a folder of the source can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" && name != "reference" {
            collect(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = std::fs::read_to_string(&path).expect("source is UTF-8");
            for kind in KINDS {
                let call = format!("metrics::{kind}!(");
                let names = text.split(&call).skip(1);
                let names = names.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
                found.extend(names.map(|name| (name.to_owned(), kind.to_owned())));
            }
        }
    }
}
