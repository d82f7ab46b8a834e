//! Hostile modules on a host that serves: anything that a developer sends is refused or contained, and nobody else
//! notices.
//!
//! In: modules of `statehouse_tests::hostile`: a few in every run, all under `STATEHOUSE_CHAOS`, or the one that
//! `STATEHOUSE_HOSTILE` names. Out: each is checked, staged, replayed and prepared to an end, while transfers
//! continue. Memory and disk space are released. Times are printed and not judged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use statehouse_tests::cluster::release;
use statehouse_tests::hold::{eventually, hold, within};
use statehouse_tests::host::{CommandOutput, Host, Start, argument, cli};
use statehouse_tests::hostile::{HostileModule, corpus, counter_that_cannot_apply};
use statehouse_tests::http::{Answer, Client, Request};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const MODULES: &str = "/v1/machines/wallet/modules";
const REPLAYS: &str = "/v1/machines/wallet/replays";
/// Far above what anything here may take, even beside builds, so that only what has no end reaches it.
const PATIENCE: Duration = Duration::from_secs(600);
/// The most memory that a process may ever hold, and how much more it may hold at the end than at the beginning.
const MEMORY_BYTES_MAX: u64 = 1_500 << 20;
const MEMORY_BYTES_LEFT: u64 = 400 << 20;
/// The host keeps the bytes and the compiled code of what is recorded.
const DISK_BYTES_LEFT: u64 = 256 << 20;
/// The pause between two transfers: the host is to be watched, and not to be busy.
const PAUSE: Duration = Duration::from_millis(100);

fn is_chaos() -> bool {
    std::env::var_os("STATEHOUSE_CHAOS").is_some()
}

/// Transfers that are never refused, and how long each took.
struct Payments {
    is_over: Arc<AtomicBool>,
    paying: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Payments {
    fn start(mut client: Client, ledger: &Ledger) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (names, over) = (ledger.accounts.clone(), is_over.clone());
        let paying = tokio::spawn(async move {
            let mut took = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let (from, to) = (&names[took.len() % 2], &names[(took.len() + 1) % 2]);
                let begun = Instant::now();
                let answer = wallet::transfer(&mut client, Uuid::new_v4(), from, to, 1).await;
                let answer = answer.expect("the host answers, whatever else it does");
                assert_eq!(answer.status, 200, "a transfer is no business of a module on trial: {answer:?}");
                took.push(Instant::now() - begun);
                hold(PAUSE).await;
            }
            took
        });
        Self { is_over, paying }
    }

    async fn stop(self) -> Vec<Duration> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut took = self.paying.await.expect("no transfer was refused or lost");
        took.sort_unstable();
        took
    }
}

fn spread(took: &[Duration]) -> String {
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
    format!("{} transfers, p50 {:?}, p99 {:?}", took.len(), at(50), at(99))
}

/// Whether text leaves a terminal alone.
fn is_clean(text: &str) -> bool {
    text.chars()
        .all(|char| matches!(char, '\n' | '\t') || !(char.is_control() || ('\u{202a}'..='\u{202e}').contains(&char)))
}

async fn command(arguments: Vec<String>) -> CommandOutput {
    tokio::task::spawn_blocking(move || cli(arguments)).await.expect("the command can be run")
}

async fn post(client: &mut Client, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let headers = vec![("content-type", kind), ("statehouse-deadline", "30000")];
    client.send(Request { method: "POST", path, headers, body }).await.expect("the host answers")
}

async fn get(client: &mut Client, path: &str) -> Value {
    let answer = client.get(path).await.expect("the host answers");
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// Checks, stages, replays and prepares the module, each to an end. Says how many seconds each took, and with what
/// result.
async fn contain(client: &mut Client, url: &str, files: &Path, hostile: &HostileModule) -> String {
    let mut took = Vec::new();
    let mut begun = Instant::now();
    let mut lap = || {
        took.push(format!("{:.1}", (Instant::now() - begun).as_secs_f64()));
        begun = Instant::now();
        took.join(" ")
    };
    let file = files.join("hostile.wasm");
    std::fs::write(&file, &hostile.wasm).expect("the folder is ours");
    let checked = command(vec!["module".into(), "check".into(), argument(&file).into()]).await;
    assert!(matches!(checked.code, Some(0 | 1)), "{}: {checked:?}", hostile.name);
    assert!(is_clean(&checked.stdout) && is_clean(&checked.stderr), "{}: {checked:?}", hostile.name);
    lap();
    let staged = post(client, MODULES, "application/wasm", hostile.wasm.clone()).await;
    assert!(matches!(staged.status, 200 | 400..=499 | 504), "{}: {staged:?}", hostile.name);
    let (check, stage) = (checked.code.unwrap_or_default(), staged.status);
    let first = format!("{}: check {check}, stage {stage}", hostile.name);
    if stage != 200 {
        return format!("{} s; {first}", lap());
    }
    lap();
    let id = blake3::hash(&hostile.wasm).to_hex().to_string();
    let replay = replayed(client, &id).await;
    lap();
    let prepared = prepared(client, &id).await;
    let took = lap();
    let list = command(["module", "log", "--url", url].map(str::to_owned).to_vec()).await;
    assert!(list.code == Some(0) && is_clean(&list.stdout), "{}: {list:?}", hostile.name);
    format!("{took} s; {first}, replay {replay}, prepare {prepared}")
}

async fn replayed(client: &mut Client, id: &str) -> String {
    let body = json!({"candidate": id}).to_string().into_bytes();
    let started = post(client, REPLAYS, "application/json", body).await;
    assert_eq!(started.status, 202, "{started:?}");
    let path = started.header("location").expect("it says where").to_owned();
    let over = within(PATIENCE, "the replay ends by itself", async || {
        let page = get(client, &path).await;
        matches!(page["state"].as_str(), Some("done" | "failed")).then_some(page)
    });
    let over = over.await;
    let deleted = Request { method: "DELETE", path: &path, headers: Vec::new(), body: Vec::new() };
    assert_eq!(client.send(deleted).await.expect("the host answers").status, 200);
    let said = over["problem"].as_str().or(over["verdict"].as_str()).unwrap_or_default();
    format!("{} ({})", over["state"].as_str().unwrap_or_default(), said.chars().take(80).collect::<String>())
}

/// What the node recorded about whether it can run the module.
async fn prepared(client: &mut Client, id: &str) -> String {
    let asked = post(client, &format!("{MODULES}/{id}/prepare"), "application/json", b"{}".to_vec()).await;
    assert!([200, 409, 422, 503, 504].contains(&asked.status), "{asked:?}");
    let said = within(PATIENCE, "the node says whether it can run the module", async || {
        let page = get(client, MODULES).await;
        let module = page["modules"].as_array()?.iter().find(|module| module["id"] == id)?.clone();
        module["prepared"].as_array()?.first().cloned()
    });
    let problem = said.await["problem"].as_str().unwrap_or("good").to_owned();
    problem.chars().take(80).collect()
}

fn folder_bytes(folder: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(folder) else { return 0 };
    let size = |file: std::fs::DirEntry| match file.metadata() {
        Ok(facts) if facts.is_dir() => folder_bytes(&file.path()),
        Ok(facts) => facts.len(),
        Err(_) => 0,
    };
    files.filter_map(Result::ok).map(size).sum()
}

/// The bytes that a node stores of modules and of what was done with them.
fn kept_bytes(data: &Path) -> u64 {
    ["modules", "artefacts", "replays"].iter().map(|name| folder_bytes(&data.join(name))).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_developer_hands_in_is_refused_or_contained() {
    let (data, files) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let url = format!("http://{}", host.address());
    let ledger = Ledger::open(&mut client, 2, 1_000_000).await;
    let usual = Payments::start(host.client(), &ledger);
    hold(Duration::from_secs(1)).await;
    let usual = usual.stop().await;

    let (memory, disk) = (host.memory_bytes(), kept_bytes(data.path()));
    let payments = Payments::start(host.client(), &ledger);
    let named = std::env::var("STATEHOUSE_HOSTILE").ok();
    let is_chosen = |hostile: &HostileModule| match &named {
        Some(name) => hostile.name == name,
        None => hostile.is_usual || is_chaos(),
    };
    let chosen = corpus().into_iter().filter(is_chosen);
    for hostile in chosen {
        println!("{}", contain(&mut client, &url, files.path(), &hostile).await);
    }
    let took = payments.stop().await;
    println!("usually: {}; beside hostile modules: {}", spread(&usual), spread(&took));
    let (memory_left, disk_left) = (host.memory_bytes().saturating_sub(memory), kept_bytes(data.path()) - disk);
    println!(
        "memory +{} MiB, at most {} MiB, disk +{} MiB",
        memory_left >> 20,
        host.memory_bytes_peak() >> 20,
        disk_left >> 20
    );
    assert!(memory_left < MEMORY_BYTES_LEFT && host.memory_bytes_peak() < MEMORY_BYTES_MAX);
    assert!(disk_left < DISK_BYTES_LEFT);
    assert!(is_clean(&host.output()), "the log steers no terminal");
    delete_in_the_middle(&mut client).await;
    stop_in_the_middle(host, data.path()).await;
    check_audit(data.path());
}

/// A deleted replay gives its place to the next one, whatever its module does.
async fn delete_in_the_middle(client: &mut Client) {
    let hostile = corpus().into_iter().find(|one| one.name == "plan loops").expect("it is in the corpus").wasm;
    let honest = std::fs::read(release("wallet-1.1.0.wasm")).expect("it is released");
    let mut ids = Vec::new();
    for wasm in [hostile, honest] {
        ids.push(blake3::hash(&wasm).to_hex().to_string());
        assert_eq!(post(client, MODULES, "application/wasm", wasm).await.status, 200);
    }
    let body = json!({"candidate": ids[0]}).to_string().into_bytes();
    let started = post(client, REPLAYS, "application/json", body).await;
    let path = started.header("location").expect("it says where").to_owned();
    let running =
        eventually("the replay begins", async || (get(client, &path).await["state"] != "queued").then_some(()));
    running.await;
    let deleted = Request { method: "DELETE", path: &path, headers: Vec::new(), body: Vec::new() };
    assert_eq!(client.send(deleted).await.expect("the host answers").status, 200);
    let next = replayed(client, &ids[1]).await;
    assert!(next.starts_with("done"), "{next}");
}

/// SIGTERM ends the node whatever it is replaying and preparing, and the next start refuses what is hopeless.
async fn stop_in_the_middle(host: Host, data: &Path) {
    let mut client = host.client();
    let hostile = |name: &str| corpus().into_iter().find(|one| one.name == name).expect("it is in the corpus").wasm;
    let (plan, apply) = (hostile("plan loops"), hostile("apply loops"));
    for wasm in [&plan, &apply] {
        assert_eq!(post(&mut client, MODULES, "application/wasm", wasm.clone()).await.status, 200);
    }
    let [plan, apply] = [plan, apply].map(|wasm| blake3::hash(&wasm).to_hex().to_string());
    let body = json!({"candidate": plan}).to_string().into_bytes();
    assert_eq!(post(&mut client, REPLAYS, "application/json", body).await.status, 202);
    // Nobody waits for the answer.
    let mut impatient = Client::impatient(host.address(), Duration::from_millis(300));
    let path = format!("{MODULES}/{apply}/prepare");
    let headers = vec![("content-type", "application/json")];
    drop(impatient.send(Request { method: "POST", path: &path, headers, body: b"{}".to_vec() }).await);
    let begun = Instant::now();
    let status = host.terminate().await;
    println!("ended {:?} after SIGTERM", Instant::now() - begun);
    assert!(status.success(), "{status}");

    let host = Host::start(data).await;
    let mut client = host.client();
    let said = prepared_again(&mut client, &apply).await;
    assert!(said.contains("loop") || said.contains("budget") || said.contains("apply"), "{said}");
    assert!(host.terminate().await.success());
}

async fn prepared_again(client: &mut Client, id: &str) -> String {
    let said = within(PATIENCE, "the wish of before is refused", async || {
        let page = get(client, MODULES).await;
        let module = page["modules"].as_array()?.iter().find(|module| module["id"] == id)?.clone();
        module["prepared"].as_array()?.first()?["problem"].as_str().map(str::to_owned)
    });
    said.await
}

/// Here the module decides: each command gets its outcome, neighbours continue, and every replay of the log agrees.
#[tokio::test(flavor = "multi_thread")]
async fn a_module_whose_apply_always_fails_harms_only_its_commands() {
    let (data, files) = (tempdir().expect("a temporary folder"), tempdir().expect("a temporary folder"));
    let file = files.path().join("broken.wasm");
    std::fs::write(&file, counter_that_cannot_apply()).expect("the folder is ours");
    let mut start = Start::on(data.path());
    start.arguments = vec!["--machine".to_owned(), format!("counter={}", argument(&file))];
    let host = Host::start_with(&start).await.expect("the host starts");
    let mut client = host.client();
    let path = |name: &str| format!("/v1/counter/counters/{name}/add");
    let add = || json!({"by": 1, "request_id": Uuid::new_v4().to_string()});
    for name in ["a", "b", "c"] {
        // Until the node knows that it is its whole cluster, there could be other nodes, which would halt.
        let answered = eventually("the command has an outcome", async || {
            let answer = client.post(&path(name), &add()).await.expect("the host answers");
            (answer.status != 503).then_some(answer)
        });
        let answer = answered.await;
        assert_eq!((answer.status, answer.text("code").as_str()), (422, "module_trap"), "{answer:?}");
    }
    wallet::open(&mut client, "a").await;
    host.kill();
    let host = Host::start_with(&start).await.expect("the host starts again, and applies its log");
    let mut client = host.client();
    let answer = client.post(&path("d"), &add()).await.expect("the host answers");
    assert_eq!(answer.status, 422, "{answer:?}");
    let ready = eventually("it is ready", async || {
        client.get("/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(())
    });
    ready.await;
    assert!(host.terminate().await.success());
    check_audit(data.path());
    let replayed = cli([
        "audit",
        "replay",
        "--data",
        argument(data.path()),
        "--machine",
        "counter",
        "--candidate",
        argument(&file),
    ]);
    // A module that never decided is not asked again, and nothing is called host drift.
    let is_told = replayed.stdout.contains("4 rejections were the host's own");
    assert!(replayed.code == Some(3) && is_told, "nothing was decided then, nor is it now: {replayed:?}");
}
