//! Modules of strangers on a real host. Compiling and describing one costs only what a child process was given, and
//! nothing of a refused module stays.
//!
//! In: modules that are made here, each of which is too much in its own way. Out: what the host answers, what it
//! keeps, and that it serves meanwhile.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use statehouse_tests::cluster::release;
use statehouse_tests::hold::eventually;
use statehouse_tests::host::{CommandOutput, Host, argument, cli};
use statehouse_tests::http::{Answer, Client, Request};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::process::binary;
use tempfile::tempdir;

const MODULES: &str = "/v1/machines/wallet/modules";
/// How much more memory a host may have after refused modules than before: what allocators keep, which is far less
/// than one of the modules would take.
const GROWTH_BYTES_MAX: u64 = 150 << 20;

/// A module that describes itself with these bytes, and has `more` in it.
fn module(description: &[u8], more: &str) -> Vec<u8> {
    saying(description, description.len(), more)
}

/// A module whose description continues with zeros up to this size.
fn saying(description: &[u8], size: usize, more: &str) -> Vec<u8> {
    let mut data = String::new();
    for byte in description {
        write!(data, "\\{byte:02x}").expect("text grows");
    }
    let packed = (16_u64 << 32) | size as u64;
    let text = format!(
        r#"(module
            (memory (export "memory") 256 1024)
            (data (i32.const 16) "{data}")
            (func (export "sh1_alloc") (param i32) (result i32) (i32.const 65536))
            (func (export "sh1_describe") (result i64) (i64.const {packed}))
            (func (export "sh1_panic") (result i64) (i64.const 0))
            (func (export "sh1_plan") (export "sh1_execute") (export "sh1_apply") (export "sh1_query") (export "sh1_render")
                (export "sh1_check") (export "sh1_migrate") (param i32 i32) (result i64) (i64.const 0))
            {more})"#
    );
    wat::parse_str(text).expect("valid text")
}

/// The description of a machine that has nothing.
const DESCRIPTION: &[u8] = b"\xa9\x00\x67hostile\x01\x651.0.0\x02\x01\x03\x80\x04\x80\x05\x80\x06\x80\x07\x80\x08\x80";

/// Schemas within schemas, ten thousand deep. Decoding them used to end the process.
fn deep() -> Vec<u8> {
    let mut schema = Vec::new();
    for _ in 0..10_000 {
        schema.extend_from_slice(&[0x82, 0x04, 0x82]);
    }
    schema.extend_from_slice(&[0x82, 0x00, 0x80]);
    schema.extend(std::iter::repeat_n(0x01, 10_000));
    let begin = b"\xa9\x00\x67hostile\x01\x651.0.0\x02\x01\x03\x80\x04\x81\xa1\x03";
    module(&[&begin[..], &schema, b"\x05\x80\x06\x80\x07\x80\x08\x80"].concat(), "")
}

/// A module within all limits of structure for which a child has too little time: in each loop a compiler looks after
/// every local.
fn heavy() -> Vec<u8> {
    let mut body = String::from("(local");
    body.push_str(&" i64".repeat(1_900));
    body.push(')');
    for at in 0..500 {
        let next = (at * 7 + 1) % 1_900;
        write!(body, " loop local.get {at} i64.const 1 i64.add local.set {next}").expect("text grows");
    }
    for at in 0..1_900 {
        write!(body, " local.get {at} local.get {} i64.add local.set {at}", (at + 1) % 1_900).expect("text grows");
    }
    body.push_str(&" local.get 1 i64.eqz br_if 0 end".repeat(500));
    module(DESCRIPTION, &format!("(func {body})").repeat(50))
}

/// The same with branches: after each a compiler looks which value every local has.
fn branching() -> Vec<u8> {
    let mut body = format!("(local{})", " i64".repeat(400));
    for at in 0..2_400 {
        let [from, then, other] = [at * 3, at * 5 + 1, at * 7 + 2].map(|local| local % 400);
        write!(
            body,
            " local.get {} i32.wrap_i64 if local.get {from} local.set {then} else i64.const 1 local.set {other} end",
            at % 400
        )
        .expect("text grows");
    }
    module(DESCRIPTION, &format!("(func {body})").repeat(20))
}

async fn stage(client: &mut Client, wasm: Vec<u8>, deadline: &str) -> Answer {
    let headers = vec![("content-type", "application/wasm"), ("statehouse-deadline", deadline)];
    let request = Request { method: "POST", path: MODULES, headers, body: wasm };
    client.send(request).await.expect("the host answers")
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("it is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Folders in `/proc` of the processes that compile for this host.
fn children(host: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").expect("the system's processes");
    let is_child = |folder: &PathBuf| {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let parent = format!("PPid:\t{host}\n");
        read("cmdline").contains("compile-module") && read("status").contains(&parent)
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_child).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_refused_module_stays() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 10_000).await;
    let folders = [data.path().join("modules"), data.path().join("artefacts")];
    let before = folders.each_ref().map(|folder| files(folder));
    let memory = host.memory_bytes();
    // These are sixteen million accepted schemas in 400 bytes. They used to cost a hundred megabytes each time, for
    // ever.
    let accepts = [&b"\xa9\x00\x67hostile\x01\x651.0.0\x02\x01\x03\x9a"[..], &16_000_000_u32.to_be_bytes()].concat();
    let cases = [
        (deep(), "levels deep"),
        (saying(&accepts, 16_000_100, ""), "over the limit of 262144"),
        (module(DESCRIPTION, &format!("(func (local{}))", " i64".repeat(2_000)).repeat(51)), "locals in all functions"),
        (module(b"", ""), "no usable description"),
        (module(DESCRIPTION, ""), "cannot follow the active one"),
    ];
    let expected = cases.len();
    for (wasm, reason) in cases {
        for round in 0..3 {
            let refused = stage(&mut client, wasm.clone(), "30000").await;
            assert!((400..500).contains(&refused.status), "{refused:?}");
            assert!(refused.text("detail").contains(reason), "{round}: {refused:?}");
        }
    }
    assert_eq!(folders.each_ref().map(|folder| files(folder)), before, "what is on the disk");
    let grown = host.memory_bytes().saturating_sub(memory);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes of memory more");
    let page = client.get(MODULES).await.expect("the host answers").json();
    let refused = page["refused"].as_array().expect("a list");
    assert_eq!(refused.len(), expected, "each is named once, however often it was brought: {page}");
    let is_whole = |one: &Value| one["module"].as_str().is_some_and(|id| id.len() == 64) && one["reason"].is_string();
    assert!(refused.iter().all(is_whole), "{page}");
    assert_eq!(page["modules"].as_array().map(Vec::len), Some(1), "{page}");
    println!("memory: {} MiB, {} MiB more after {} refused modules", memory >> 20, grown >> 20, 3 * expected);
    drop(ledger);
    host.terminate().await;
    let host = Host::start(data.path()).await;
    let again = host.client().get(MODULES).await.expect("the host answers").json();
    assert_eq!(again["refused"], page["refused"], "it is recorded, with when, by whom and why");
    host.terminate().await;
    check_audit(data.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compilation_ends_with_its_deadline_its_client_and_its_node() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let (address, id) = (host.address(), host.id());
    let mut client = host.client();
    let gone = async |what: &str| eventually(what, async || children(id).is_empty().then_some(())).await;
    let late = stage(&mut client, heavy(), "500").await;
    assert_eq!(late.status, 504, "{late:?}");
    gone("the child of a request that is over has ended").await;

    let staging = tokio::spawn(async move { stage(&mut Client::to(address), heavy(), "30000").await });
    let child = eventually("a module is compiled", async || children(id).pop()).await;
    let environment = std::fs::read_to_string(child.join("environ")).expect("it is this user's");
    assert!(!environment.contains("PATH=") && !environment.contains("HOME="), "{environment:?}");
    eventually("it has its three pipes and no file", async || {
        (files(&child.join("fd")) == ["0", "1", "2"]).then_some(())
    })
    .await;
    staging.abort();
    gone("the child of a client that has gone has ended").await;

    let mut other = host.client();
    let staging = tokio::spawn(async move { stage(&mut Client::to(address), heavy(), "30000").await.status });
    eventually("a module is compiled", async || children(id).pop()).await;
    let ledger = Ledger::open(&mut other, 2, 10_000).await;
    assert_eq!(ledger.check(&mut other, &[]).await, 0, "others are served meanwhile");
    let status = host.terminate().await;
    assert!(status.success(), "{status}");
    gone("the child of a node that has stopped has ended").await;
    assert_eq!(staging.await.expect("it is answered"), 503, "the node is about to stop");
    assert_eq!(files(&data.path().join("modules")).len(), 1, "only the wallet is kept");
    check_audit(data.path());
}

#[test]
fn the_command_line_refuses_what_a_node_refuses() {
    let folder = tempdir().expect("a temporary folder");
    let file = folder.path().join("deep.wasm");
    std::fs::write(&file, deep()).expect("the folder is ours");
    for command in [["module", "check"], ["module", "inspect"]] {
        let checked = cli(command.into_iter().chain([argument(&file)]));
        assert!(checked.code.is_some_and(|code| code != 0) && checked.stderr.contains("levels deep"), "{checked:?}");
    }
    let differ = cli(["module", "diff", argument(&file), argument(&file)]);
    assert!(differ.code == Some(2) && differ.stderr.contains("levels deep"), "{differ:?}");
}

/// Runs `module check` on a file, in a shell that limits what it and its children may have.
fn check_within(limit: &str, file: &Path) -> CommandOutput {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit {limit}; exec \"$@\"")).arg("sh").arg(binary());
    let done = shell.args(["module", "check", argument(file)]).output().expect("there is a shell");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
    CommandOutput { code: done.status.code(), stdout: text(done.stdout), stderr: text(done.stderr) }
}

#[test]
fn what_takes_too_much_is_refused_with_the_limit_it_met() {
    let folder = tempdir().expect("a temporary folder");
    let write = |name: &str, wasm: Vec<u8>| {
        let file = folder.path().join(name);
        std::fs::write(&file, wasm).expect("the folder is ours");
        file
    };
    let (heavy, branching) = (write("heavy.wasm", heavy()), write("branching.wasm", branching()));
    // These limits are reached soon. The child's own limits take ten seconds of a whole processor.
    let (memory, time) = ("-d 200000", "-t 4");
    for (limit, file, named) in [(memory, &heavy, "`compile_memory`"), (time, &branching, "`compile_cpu`")] {
        let refused = check_within(limit, file);
        assert!(refused.code == Some(1) && refused.stderr.contains(named), "{refused:?}");
    }
    let good = check_within(memory, &release("wallet-1.1.0.wasm"));
    assert_eq!(good.code, Some(0), "a released module has room: {good:?}");
    if std::env::var_os("STATEHOUSE_CHAOS").is_some() {
        for (file, named) in [(&heavy, "`compile_memory`"), (&branching, "`compile_cpu`")] {
            let refused = check_within("-c 0", file);
            assert!(refused.code == Some(1) && refused.stderr.contains(named), "{refused:?}");
        }
    }
}
