//! An archive. What a host has recorded is soon there, whatever happens to the host or to the connection, and can be
//! audited like the host's folder.
//!
//! It knows the flags and metrics of archiving and what an audit prints. The store is a folder, or a server that
//! speaks S3 and is reached through a proxy.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use statehouse_tests::hold::{PATIENCE, within};
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::http::Client;
use statehouse_tests::process::cli_in;
use statehouse_tests::proxy::{Link, Proxy};
use statehouse_tests::s3::{self, BUCKET, S3};
use statehouse_tests::wallet;
use tempfile::tempdir;

use crate::replay::make_history;

fn start_of(data: &Path, url: &str, environment: Vec<(String, String)>) -> Start {
    let arguments = ["--partitions", "2", "--archive", url, "--archive-every", "1"].map(str::to_owned).to_vec();
    Start { arguments, environment, ..Start::on(data) }
}

async fn metric(client: &mut Client, name: &str) -> Vec<f64> {
    let metrics = client.get("/metrics").await.expect("the host answers");
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let of_name = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    of_name.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
}

/// Waits until everything that is recorded now is in the archive, of `system` and of the wallet's partitions.
pub async fn until_archived(host: &Host, partitions: usize) {
    within(PATIENCE, "everything is archived", async || {
        let lags = metric(&mut host.client(), "statehouse_archive_lag_entries{").await;
        (lags.len() == partitions + 1 && lags.iter().all(|lag| *lag == 0.0)).then_some(())
    })
    .await;
}

fn json(finished: &CommandOutput) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {finished:?}"))
}

/// Each partition with its number of entries and its digest.
fn verified(finished: &CommandOutput) -> Vec<(String, u64, u64, String)> {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report = json(finished);
    let of = |partition: &Value| {
        let digest = partition["state_digest"].as_str().expect("a digest").to_owned();
        let count = |name: &str| partition[name].as_u64().expect("a number");
        (partition["machine"].as_str().expect("a name").to_owned(), count("partition"), count("entries"), digest)
    };
    report["partitions"].as_array().expect("a list").iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_goes_on_archiving_and_the_archive_says_what_its_folder_says() {
    let (data, kept) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let archive = kept.path().join("archive");
    let start = start_of(data.path(), argument(&archive), Vec::new());
    for round in 0..3 {
        let host = Host::start_with(&start).await.expect("the host starts");
        let mut client = host.client();
        if round == 0 {
            make_history(&mut client).await;
        }
        wallet::deposit(&mut client, "account-1", 5).await;
        if round == 1 {
            until_archived(&host, 2).await;
            let report = cli(["audit", "verify", "--data", argument(&archive), "--json"]);
            verified(&report);
        }
        host.kill();
    }
    let host = Host::start_with(&start).await.expect("the host starts");
    until_archived(&host, 2).await;
    let url = format!("http://{}", host.address());
    let taken = cli(["snapshot", "take", "--url", &url]);
    assert_eq!(taken.code, Some(0), "{taken:?}");
    within(PATIENCE, "the snapshots are archived", async || (snapshots(&archive) == 2).then_some(())).await;
    assert!(host.terminate().await.success());
    let audit =
        |command: &[&str], data: &Path| cli([&["audit"], command, &["--data", argument(data), "--json"]].concat());
    let (archived, recorded) = (audit(&["verify"], &archive), audit(&["verify"], data.path()));
    for (archived, recorded) in verified(&archived).iter().zip(verified(&recorded)) {
        // The host records its last moments after it has archived for the last time.
        assert!(archived.0 == recorded.0 && archived.1 == recorded.1 && archived.2 <= recorded.2, "{archived:?}");
    }
    let balance = |data: &Path| json(&audit(&["balance", "--account", "account-1"], data));
    assert_eq!(balance(&archive)["balance"], balance(data.path())["balance"]);
    let candidate = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules/releases/wallet-1.1.0.wasm");
    let replayed = audit(&["replay", "--candidate", argument(&candidate)], &archive);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    tampered(&archive);
}

/// The number of canonical snapshots of the wallet's partitions in an archive.
fn snapshots(archive: &Path) -> usize {
    let of = |partition: &str| {
        let listed = std::fs::read_dir(archive.join("wallet").join(partition)).expect("it is a folder");
        let names = listed.map(|file| file.expect("it can be listed").file_name().into_string().expect("a plain name"));
        names.filter(|name| name.ends_with(".snapshot")).count()
    };
    of("0") + of("1")
}

/// Changes a byte of one object, which the audit must find.
fn tampered(archive: &Path) {
    let partition = archive.join("wallet").join("0");
    let mut files =
        std::fs::read_dir(&partition).expect("it is a folder").map(|file| file.expect("it is listed").path());
    let path = files.find(|path| path.extension().is_some_and(|ending| ending == "journal")).expect("there is one");
    let mut bytes = std::fs::read(&path).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    let found = cli(["audit", "verify", "--data", argument(archive)]);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("FAULT wallet/0"), "{found:?}");
}

/// Restores a lost cluster from the store. It has all that is archived of the wallet, with the same digests.
fn check_restored(environment: &[(String, String)], url: &str, archived: &[(String, u64, u64, String)]) {
    let folder = tempdir().expect("a temporary folder");
    let data = folder.path().join("restored");
    let command = ["snapshot", "restore", "--from", url, "--data", argument(&data), "--node", "9", "--json"];
    let restored = cli_in(environment, command);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let left_out = |partition: &Value| partition["left_out"].as_u64().expect("a number");
    let report = json(&restored);
    assert_eq!(report["partitions"].as_array().expect("a list").iter().map(left_out).sum::<u64>(), 0, "{report:#}");
    let found = verified(&cli(["audit", "verify", "--data", argument(&data), "--json"]));
    let of_wallet = |all: &[(String, u64, u64, String)]| -> Vec<_> {
        all.iter().filter(|partition| partition.0 == "wallet").cloned().collect()
    };
    assert_eq!(of_wallet(&found), of_wallet(archived));
    let other = folder.path().join("other");
    let nobody = format!("s3://{BUCKET}/nobody");
    let refused =
        cli_in(environment, ["snapshot", "restore", "--from", &nobody, "--data", argument(&other), "--node", "9"]);
    assert!(
        refused.code == Some(2) && refused.stderr.contains("it is empty, or it is not an archive") && !other.exists(),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn history_reaches_an_object_store_through_a_bad_line_and_is_audited_there() {
    let store = S3::start().await;
    let way = Proxy::start(store.address()).await;
    let data = tempdir().expect("a temporary folder");
    let url = format!("s3://{BUCKET}/some/place");
    let host = Host::start_with(&start_of(data.path(), &url, s3::environment(way.address()))).await;
    let host = host.expect("the host starts");
    let mut client = host.client();
    make_history(&mut client).await;
    until_archived(&host, 2).await;
    for link in [Link::Cut, Link::RepliesLost, Link::Delay(Duration::from_millis(300))] {
        way.set(link);
        // Nobody who moves money notices.
        wallet::deposit(&mut client, "account-1", 5).await;
        if link == Link::Cut {
            within(PATIENCE, "the failure is counted", async || {
                let failures = metric(&mut host.client(), "statehouse_archive_failures_total").await;
                failures.iter().any(|count| 0.0 < *count).then_some(())
            })
            .await;
        }
        way.set(if matches!(link, Link::Delay(_)) { link } else { Link::Pass });
        until_archived(&host, 2).await;
    }
    assert!(host.terminate().await.success());
    let environment = s3::environment(store.address());
    let verify = |data: &str| cli_in(&environment, ["audit", "verify", "--data", data, "--json"]);
    let (archived, recorded) = (verify(&url), verify(argument(data.path())));
    let (archived, recorded) = (verified(&archived), verified(&recorded));
    assert_eq!(archived.len(), recorded.len());
    assert!(archived.iter().zip(&recorded).all(|(archived, recorded)| archived.2 <= recorded.2), "{archived:?}");
    check_restored(&environment, &url, &archived);
    let nothing = verify(&format!("s3://{BUCKET}/elsewhere"));
    assert!(nothing.code == Some(2) && nothing.stderr.contains("has no owner file"), "{nothing:?}");
}
