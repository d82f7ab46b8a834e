//! A cluster that is lost comes back from exported files, with everything in them, the same chain and the same ids;
//! and other nodes join it.
//!
//! It knows `snapshot restore`, `serve`, and that a node's number is never given twice.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use statehouse_tests::artefacts;
use statehouse_tests::cluster::release;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::http::Client;
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::ports::free_address;
use statehouse_tests::process::{Process, binary};
use statehouse_tests::wallet;
use statehouse_tests::workload::{TransferOutcome, Workload};
use tempfile::tempdir;

use crate::archived::until_archived;
use crate::views::{live, other_statements};

const ACCOUNTS: usize = 8;
const OPENING: i128 = 100_000;
const CLIENTS: usize = 6;
const PARTITIONS: usize = 3;

fn json(finished: &CommandOutput) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {finished:?}"))
}

fn export(data: &Path, folder: &Path) {
    let exported = cli(["audit", "log", "--data", argument(data), "--export", argument(folder), "--json"]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
}

fn restore(from: &Path, data: &Path, node: &str, advertise: Option<SocketAddr>) -> CommandOutput {
    let advertise = advertise.map(|address| address.to_string());
    let mut arguments =
        vec!["snapshot", "restore", "--from", argument(from), "--data", argument(data), "--node", node, "--json"];
    arguments.extend(advertise.iter().flat_map(|address| ["--advertise", address.as_str()]));
    cli(arguments)
}

/// A node with a configuration of its own, and with peers if it has an address for them.
async fn serve(folder: &Path, id: u64, data: &Path, peer: Option<SocketAddr>) -> Process {
    let config = folder.join(format!("node-{id}.toml"));
    let module = release("wallet-1.0.1.wasm");
    let peer = peer.map_or_else(String::new, |peer| format!("[peer]\nlisten = \"{peer}\"\nplaintext = true\n"));
    let text = format!(
        "[node]\nid = {id}\ndata = {:?}\n[http]\nlisten = \"{}\"\n[auth]\nopen = true\n\
         {peer}[machines.wallet]\nmodule = {:?}\npartitions = {PARTITIONS}\n",
        argument(data),
        free_address(),
        argument(&module)
    );
    fs::write(&config, text).expect("the folder is ours");
    artefacts::lend(data);
    let mut command = Command::new(binary());
    command.args(["serve", "--stop-with-stdin", "--config", argument(&config)]);
    Process::start("a restored node", command).await.unwrap_or_else(|refused| panic!("it starts: {refused:?}"))
}

async fn ready(client: &mut Client) {
    eventually("the node is ready", async || {
        client.get("/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}

/// Waits until nothing is under way between partitions, and checks that nothing was lost on the way.
async fn settled(client: &mut Client, ledger: &Ledger) {
    eventually("what was under way is over", async || {
        let listed = client.get("/v1/wallet/commands?state=in_flight").await.ok().filter(|page| page.status == 200)?;
        listed.json()["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    let mut sum = wallet::balance(client, wallet::BANK).await;
    for account in &ledger.accounts {
        sum += wallet::balance(client, account).await;
    }
    assert_eq!(sum, 0, "the books balance");
}

struct LostFolder {
    folder: tempfile::TempDir,
    /// Exported while clients were at work; `whole` was exported after the end.
    early: PathBuf,
    whole: PathBuf,
    data: PathBuf,
    ledger: Ledger,
    attempts: Vec<(statehouse_tests::workload::Transfer, TransferOutcome)>,
}

/// A host that was killed under load.
async fn lose() -> LostFolder {
    let folder = tempdir().expect("a temporary folder");
    let [data, early, whole] = ["data", "early", "whole"].map(|name| folder.path().join(name));
    let arguments = vec!["--partitions".to_owned(), PARTITIONS.to_string()];
    let start = Start { arguments, ..Start::on(&data) };
    let host = Host::start_with(&start).await.expect("the host starts");
    let ledger = Ledger::open(&mut host.client(), ACCOUNTS, OPENING).await;
    let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, 1);
    eventually("some transfers are done", async || (200 < workload.done_count()).then_some(())).await;
    export(&data, &early);
    let more = workload.done_count() + 200;
    eventually("more transfers are done", async || (more < workload.done_count()).then_some(())).await;
    host.kill();
    // When a process was killed, the last entries in its folder are not known to be committed: a start settles that.
    let host = Host::start_with(&start).await.expect("the host starts again");
    workload.moved_to(host.address());
    let attempts = workload.stop().await;
    assert!(host.terminate().await.success());
    export(&data, &whole);
    LostFolder { folder, early, whole, data, ledger, attempts }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cluster_comes_back_with_all_that_was_archived_and_others_join_it() {
    let lost = lose().await;
    let data = lost.folder.path().join("restored");
    let peers = [free_address(), free_address()];
    let restored = restore(&lost.whole, &data, "2", Some(peers[0]));
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let report = json(&restored);
    assert_eq!(report["removed"], serde_json::json!([1]), "{report:#}");
    for partition in report["partitions"].as_array().expect("a list") {
        assert_eq!(partition["left_out"], 0, "{report:#}");
    }
    check_audit(&data);
    check_alike(&lost.data, &data);

    let first = serve(lost.folder.path(), 2, &data, Some(peers[0])).await;
    let mut client = Client::to(first.address());
    ready(&mut client).await;
    lost.ledger.check(&mut client, &lost.attempts).await;
    let (done, _) =
        lost.attempts.iter().find(|(_, told)| *told == TransferOutcome::Done).expect("some are done").clone();
    let [from, to] = [done.from, done.to].map(|at| lost.ledger.accounts[at].as_str());
    let again = wallet::transfer(&mut client, done.id, from, to, done.amount).await.expect("an answer");
    assert!(again.status == 200 && again.is_replayed(), "{again:?}");

    let second = serve(lost.folder.path(), 3, &lost.folder.path().join("joined"), Some(peers[1])).await;
    let url = format!("http://{}", first.address());
    let added = cli(["cluster", "add", "--node", &format!("3={}", peers[1]), "--url", &url]);
    assert_eq!(added.code, Some(0), "{added:?}");
    let mut other = Client::to(second.address());
    ready(&mut other).await;
    eventually("both nodes vote everywhere", async || {
        let view = client.get("/v1/cluster").await.ok()?.json();
        let machines = view["machines"].as_array()?.clone();
        let partitions =
            machines.iter().flat_map(|machine| machine["partitions"].as_array().cloned().unwrap_or_default());
        partitions.into_iter().all(|it| it["voters"] == serde_json::json!([2, 3])).then_some(())
    })
    .await;
    lost.ledger.check(&mut other, &lost.attempts).await;
    wallet::deposit(&mut other, &lost.ledger.accounts[0], 5).await;
    second.kill();
    first.kill();
    check_audit(&data);
}

/// Checks that both have the same journals of the wallet with the same rows.
fn check_alike(before: &Path, after: &Path) {
    let of = |data: &Path| {
        let verified = json(&cli(["audit", "verify", "--data", argument(data), "--json"]));
        let partitions = verified["partitions"].as_array().expect("a list").clone();
        let facts = |it: &Value| ["partition", "head", "state_digest", "position"].map(|name| it[name].clone());
        partitions.iter().filter(|it| it["machine"] == "wallet").map(facts).collect::<Vec<_>>()
    };
    assert_eq!(of(before), of(after));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_ends_in_the_middle_is_restored_to_a_consistent_moment() {
    let lost = lose().await;
    let data = lost.folder.path().join("restored");
    let used = restore(&lost.early, &data, "1", None);
    assert!(used.code == Some(2) && used.stderr.contains("node 1 was one of the cluster"), "{used:?}");
    assert!(!data.exists(), "nothing has the name before it is whole");
    let restored = restore(&lost.early, &data, "7", None);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    check_audit(&data);
    let again = restore(&lost.early, &data, "8", None);
    assert!(again.code == Some(2) && again.stderr.contains("is not empty"), "{again:?}");
    let node = serve(lost.folder.path(), 7, &data, None).await;
    let mut client = Client::to(node.address());
    ready(&mut client).await;
    settled(&mut client, &lost.ledger).await;
    wallet::deposit(&mut client, &lost.ledger.accounts[0], 5).await;
    assert!(node.terminate().await.success());
    check_audit(&data);

    let other = lost.folder.path().join("other");
    let none = restore(&lost.data, &other, "7", None);
    assert!(none.code == Some(2) && none.stderr.contains("journal.json"), "{none:?}");
    let file = fs::read_dir(lost.early.join("wallet/2")).expect("it is there").flatten().map(|file| file.path());
    let segment = file.filter(|path| path.extension().is_some_and(|it| it == "journal")).min().expect("a segment");
    let mut bytes = fs::read(&segment).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).expect("the folder is ours");
    let damaged = restore(&lost.early, &other, "7", None);
    assert!(damaged.code == Some(2) && damaged.stderr.contains("wallet/2"), "{damaged:?}");
    assert!(!other.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_which_nothing_was_archived_begins_anew() {
    let folder = tempdir().expect("a temporary folder");
    let [data, archive, restored] = ["data", "archive", "restored"].map(|name| folder.path().join(name));
    let arguments =
        ["--partitions", "3", "--archive", argument(&archive), "--archive-every", "1"].map(str::to_owned).to_vec();
    let start = Start { arguments, has_views: true, ..Start::on(&data) };
    let host = Host::start_with(&start).await.expect("the host starts");
    let ledger = Ledger::open(&mut host.client(), 8 * PARTITIONS, OPENING).await;
    until_archived(&host, PARTITIONS).await;
    assert!(host.terminate().await.success());
    // This is as if the partition's leader had never reached the archive since the machine was created.
    fs::remove_dir_all(archive.join("wallet/2")).expect("it was archived");
    let told = restore(&archive, &restored, "7", None);
    assert_eq!(told.code, Some(0), "{told:?}");
    let partitions = json(&told)["partitions"].as_array().expect("a list").clone();
    let of = |partition: u64| {
        let found = partitions.iter().find(|it| it["machine"] == "wallet" && it["partition"] == partition);
        found.and_then(|it| it["position"].as_str()).expect("it is restored").to_owned()
    };
    assert!(of(2).starts_with("2.0.0~") && !of(0).starts_with("0.0.0~"), "{partitions:?}");
    let node = serve(folder.path(), 7, &restored, None).await;
    let mut client = Client::to(node.address());
    ready(&mut client).await;
    let mut kept = 0;
    for account in &ledger.accounts {
        let answer = client.get(&format!("/v1/wallet/accounts/{account}")).await.expect("the node answers");
        kept += usize::from(answer.status == 200);
        // Where an account is gone, it can be opened again: every partition decides commands.
        if answer.status != 200 {
            wallet::open(&mut client, account).await;
        }
    }
    eventually("a view that was there is there again", async || {
        let path = format!("/v1/wallet/accounts/{}/statement", ledger.accounts[0]);
        client.get(&path).await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    assert!(0 < kept && kept < ledger.accounts.len(), "{kept} accounts were in the other partitions");
    assert!(node.terminate().await.success());
    check_audit(&restored);
}

/// An archive used to have only the modules that decided, so a view that came from a file waited after a restore.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_was_created_from_a_file_is_restored_with_the_archive() {
    let folder = tempdir().expect("a temporary folder");
    let [data, archive, restored] = ["data", "archive", "restored"].map(|name| folder.path().join(name));
    let arguments =
        ["--partitions", "3", "--archive", argument(&archive), "--archive-every", "1"].map(str::to_owned).to_vec();
    let host = Host::start_with(&Start { arguments, ..Start::on(&data) }).await.expect("the host starts");
    let (file, id) = other_statements(folder.path());
    let created = cli(["view", "create", argument(&file), "--url", &format!("http://{}", host.address())]);
    assert_eq!(created.code, Some(0), "{created:?}");
    wallet::open(&mut host.client(), "alice").await;
    until_archived(&host, PARTITIONS).await;
    eventually("the module of the view is archived", async || {
        archive.join(format!("modules/{id}.wasm")).is_file().then_some(())
    })
    .await;
    assert!(host.terminate().await.success());

    let told = restore(&archive, &restored, "7", None);
    assert_eq!(told.code, Some(0), "{told:?}");
    let node = serve(folder.path(), 7, &restored, None).await;
    let page = live(&mut Client::to(node.address()), "statements").await;
    assert_eq!(page["serving"]["module"], id.to_string(), "{page}");
    assert!(node.terminate().await.success());
    check_audit(&restored);
}
