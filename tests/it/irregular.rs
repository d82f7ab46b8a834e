//! A folder that somebody else has prepared. What is no regular file in it is refused with a message, and nothing waits
//! or fills the memory.
//!
//! It knows the shape of an export, but not the content of its files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use statehouse_tests::host::{CommandOutput, Host, argument, cli};
use statehouse_tests::wallet;
use tempfile::tempdir;

/// The first file of a folder with this ending.
fn file(folder: &Path, ending: &str) -> PathBuf {
    let entries = fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("an entry").path());
    entries.into_iter().find(|path| argument(path).ends_with(ending)).expect("there is one")
}

/// Puts something else in the place of a file, runs `ask`, and puts the file back. The command must be refused with
/// these words.
fn check_refused(place: &Path, put: impl Fn(&Path), ask: impl Fn() -> CommandOutput, words: &str) {
    let aside = place.with_extension("aside");
    fs::rename(place, &aside).expect("it is ours");
    put(place);
    let refused = ask();
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(refused.code != Some(0) && said.contains(words), "{}: {refused:?}", place.display());
    fs::remove_file(place).expect("it is ours");
    fs::rename(&aside, place).expect("it is ours");
}

fn zeros(place: &Path) {
    symlink("/dev/zero", place).expect("a new link");
}

fn pipe(place: &Path) {
    assert!(Command::new("mkfifo").arg(place).status().expect("it is on every system").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_regular_files_are_read_from_a_folder_of_somebody_else() {
    let around = tempdir().expect("a temporary folder");
    let (data, export, restored) =
        (around.path().join("data"), around.path().join("export"), around.path().join("restored"));
    let host = Host::start(&data).await;
    wallet::open(&mut host.client(), "alice").await;
    assert!(host.terminate().await.success());
    let exported = cli(["audit", "log", "--data", argument(&data), "--export", argument(&export)]);
    assert_eq!(exported.code, Some(0), "{exported:?}");

    let verify = || cli(["audit", "verify", "--data", argument(&export)]);
    let restore =
        || cli(["snapshot", "restore", "--from", argument(&export), "--data", argument(&restored), "--node", "4"]);
    let manifest = export.join("journal.json");
    let module = file(&export.join("modules"), ".wasm");
    let segment = file(&export.join("wallet/0"), ".journal");
    check_refused(&manifest, zeros, verify, "only regular files");
    check_refused(&manifest, pipe, verify, "only regular files");
    check_refused(&module, zeros, verify, "only regular files");
    check_refused(&module, pipe, restore, "only regular files");
    check_refused(
        &module,
        |place| fs::write(place, vec![0; (4 << 20) + 1]).expect("a new file"),
        restore,
        "more than the 4194304",
    );
    check_refused(&segment, pipe, verify, "only regular files");
    assert_eq!(verify().code, Some(0), "{:?}", verify());

    // The same holds in a data folder.
    let verify = || cli(["audit", "verify", "--data", argument(&data)]);
    check_refused(&data.join("node.json"), pipe, verify, "only regular files");
    check_refused(&file(&data.join("wallet/0/log"), ".log"), zeros, verify, "disk error at");
    assert_eq!(verify().code, Some(0), "{:?}", verify());
}
