//! Data are for the account that a host runs as: nobody else can read a file of its folder or of an export.
//!
//! It knows the modes of files, but not their content.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use statehouse_tests::host::{Host, Start, argument, cli};
use tempfile::tempdir;

use crate::archived::until_archived;
use crate::replay::make_history;

/// A folder and everything below it, with their modes. Links are not followed, and are left out.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut all = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next).cloned() {
        next += 1;
        if path.is_dir() {
            let entries = unless_gone(fs::read_dir(&path)).into_iter().flatten();
            all.extend(entries.map(|entry| entry.expect("an entry").path()).filter(|path| !path.is_symlink()));
        }
    }
    let mode = |path: &PathBuf| Some(unless_gone(fs::metadata(path))?.permissions().mode() & 0o777);
    all.into_iter().filter_map(|path| Some((mode(&path)?, path))).map(|(mode, path)| (path, mode)).collect()
}

/// A running host replaces and removes files of its own.
fn unless_gone<T>(found: std::io::Result<T>) -> Option<T> {
    match found {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        found => Some(found.expect("it can be looked at")),
    }
}

#[track_caller]
fn check_private(folder: &Path, at_least: usize) {
    let modes = modes(folder);
    assert!(at_least <= modes.len(), "there is something to look at: {modes:?}");
    let open: Vec<_> = modes.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "others can get at {open:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_reads_a_data_folder_or_an_export() {
    let around = tempdir().expect("a temporary folder");
    let (data, export) = (around.path().join("data"), around.path().join("export"));
    fs::create_dir(&data).expect("a new folder");
    fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("it is ours");
    let archive = data.join("archive");
    let arguments = ["--partitions", "2", "--archive", argument(&archive), "--archive-every", "1"];
    let start = Start { arguments: arguments.map(str::to_owned).to_vec(), has_views: true, ..Start::on(&data) };
    let host = Host::start_with(&start).await.expect("the host starts");
    make_history(&mut host.client()).await;
    until_archived(&host, 2).await;
    let taken = cli(["snapshot", "take", "--url", &format!("http://{}", host.address())]);
    assert_eq!(taken.code, Some(0), "{taken:?}");
    check_private(&data, 40);
    assert!(host.terminate().await.success());
    let exported = cli(["audit", "log", "--data", argument(&data), "--export", argument(&export)]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    check_private(&export, 8);

    // The folder is now as an earlier release left it, with a link to what is not the host's.
    let elsewhere = around.path().join("elsewhere");
    fs::write(&elsewhere, "of others").expect("a new file");
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o644)).expect("it is ours");
    symlink(&elsewhere, data.join("modules/link")).expect("a new link");
    // A key that others could read keeps a node from starting, so it is left as it is.
    for (path, mode) in
        modes(&data).into_iter().filter(|(path, _)| path.extension().is_none_or(|extension| extension != "key"))
    {
        fs::set_permissions(&path, Permissions::from_mode(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6))
            .expect("it is ours");
    }
    let host = Host::start_with(&start).await.expect("the host starts");
    check_private(&data, 40);
    assert!(host.output().contains("other users could read the data folder"), "{}", host.output());
    assert_eq!(modes(&elsewhere)[0].1, 0o644, "a link is not followed");
    assert!(host.terminate().await.success());
    let host = Host::start_with(&start).await.expect("the host starts");
    assert!(!host.output().contains("other users"), "said once: {}", host.output());
    assert!(host.terminate().await.success());
}
