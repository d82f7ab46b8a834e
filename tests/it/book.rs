//! The commands of the README and of the book do what the pages say: each `sh` block is run, and a `text` block after
//! it is what it prints.
//!
//! In: the pages. Out: the same pages, or what is different. Hashes depend on the time, and how much a node has
//! written of itself depends on how it was started, so neither is compared. This file knows no command.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use statehouse_tests::host::{Host, Start};
use statehouse_tests::process::binary;
use tempfile::tempdir;

/// The address of the first node in the pages.
const URL: &str = "http://127.0.0.1:8080";
const DATA: &str = "statehouse-data/node-1";
/// Pages of the book that are run, in this order: later pages use what earlier ones make.
const PAGES: [&str; 9] = [
    "start/first-transfer.md",
    "start/proved-upgrade.md",
    "use/commands.md",
    "use/reads.md",
    "use/events.md",
    "audit/verify.md",
    "audit/certificates.md",
    "operate/backup-and-restore.md",
    "operate/in-flight.md",
];
/// Makes a request that is refused fail here, because a reader would see it.
const CURL: &str = "curl() { command curl --fail-with-body \"$@\"; }\n";
/// Printed after each block.
const MARK: &str = "@@ the end of block";
/// A line of a page that stands for any lines.
const ANY: &str = "…";
/// The time limit for all blocks together.
const SECONDS_MAX: u32 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_does_what_it_says() {
    check(&["README.md"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_book_does_what_it_says() {
    let pages = PAGES.map(|page| format!("host/book/src/{page}"));
    check(&pages.each_ref().map(String::as_str)).await;
}

/// A block of code. The page says of an `sh norun` block that it needs more than there is here.
struct Block {
    page: String,
    line: usize,
    language: String,
    text: String,
}

/// Runs the pages one after the other, as one session with a node of its own.
async fn check(pages: &[&str]) {
    let folder = tempdir().expect("a temporary folder");
    let work = folder.path();
    let data = work.join(DATA);
    std::fs::create_dir_all(&data).expect("a new folder");
    symlink(root().join("modules"), work.join("modules")).expect("a new name");
    std::fs::create_dir(work.join("bin")).expect("a new folder");
    for program in ["statehouse", "statehouse-audit"] {
        symlink(binary().with_file_name(program), work.join("bin").join(program)).expect("a new name");
    }
    let host = Host::start_with(&Start { has_views: true, ..Start::on(&data) }).await.expect("the host starts");

    let blocks: Vec<Block> = pages.iter().flat_map(|page| blocks_of(page)).collect();
    let (scripts, expected) = runnable(&blocks);
    let script = script_of(&scripts, &format!("http://{}", host.address()));
    let (cwd, url) = (work.to_owned(), format!("http://{}", host.address()));
    let run = tokio::task::spawn_blocking(move || bash(&script, &cwd, &url));
    let printed = run.await.expect("the script is run");
    let outputs: Vec<&str> = printed.split(MARK).collect();
    for (n, script) in scripts.iter().enumerate() {
        let output = outputs.get(n).copied().unwrap_or_default();
        if let Some(expected) = expected[n] {
            let (found, wanted) = (comparable(output), comparable(expected));
            assert!(prints(&found, &wanted), "{}:{}: prints\n{output}", script.page, script.line);
        }
    }
    drop(host);
}

/// The blocks to run, and what each must print.
fn runnable(blocks: &[Block]) -> (Vec<&Block>, Vec<Option<&str>>) {
    let (mut scripts, mut expected): (Vec<&Block>, Vec<Option<&str>>) = (Vec::new(), Vec::new());
    let mut is_run = false;
    for block in blocks {
        match block.language.as_str() {
            "sh" => {
                // This test began by building and starting the node, so a block that does so is not run.
                is_run = !block.text.lines().any(|line| line.starts_with("make "));
                if is_run {
                    scripts.push(block);
                    expected.push(None);
                }
            }
            "text" if std::mem::take(&mut is_run) => *expected.last_mut().expect("a block was run") = Some(&block.text),
            _ => {}
        }
    }
    (scripts, expected)
}

fn script_of(scripts: &[&Block], url: &str) -> String {
    let one = |block: &&Block| format!("{}\nprintf '%s\\n' '{MARK}'\n", block.text.replace(URL, url));
    CURL.to_owned() + &scripts.iter().map(one).collect::<String>()
}

fn bash(script: &str, work: &Path, url: &str) -> String {
    let path = format!("{}:{}", work.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    command.arg(SECONDS_MAX.to_string()).args(["bash", "-euo", "pipefail", "-c", script]);
    command.current_dir(work).env("PATH", path).env("STATEHOUSE_URL", url).env_remove("STATEHOUSE_TOKEN");
    let output = command.output().expect("bash and timeout are there");
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: a command of the pages failed:\n{printed}\n{said}", output.status);
    printed.into_owned()
}

/// Whether the lines are those of the page, where `…` stands for any lines.
fn prints(found: &[String], wanted: &[String]) -> bool {
    match wanted.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == ANY => (0..=found.len()).any(|begin| prints(&found[begin..], rest)),
        Some((first, rest)) => found.first() == Some(first) && prints(&found[1..], rest),
    }
}

/// The output without what differs each time: hashes, and how much the node has written of itself.
fn comparable(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| words(line).join(" "));
    let lines = lines.map(|line| if line.starts_with("│ system/0") { "│ system/0 …".to_owned() } else { line });
    lines.filter(|line| !line.is_empty()).collect()
}

fn words(line: &str) -> Vec<String> {
    // Frames of tables are as wide as their content.
    let line = line.replace(['┌', '┐', '└', '┘', '─', '═', '╞', '╡'], "");
    line.split_whitespace().map(without_hash).collect()
}

fn without_hash(word: &str) -> String {
    let is_hash = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = word.split('~');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.get(8..).filter(|_| is_hash(&part[..8])).unwrap_or(part);
        whole = whole + "~…" + rest;
    }
    whole
}

fn blocks_of(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let (mut blocks, mut open): (Vec<Block>, Option<Block>) = (Vec::new(), None);
    for (number, line) in (1..).zip(text.lines()) {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let (page, language) = (page.to_owned(), language.to_owned());
                open = Some(Block { page, line: number, language, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text = std::mem::take(&mut block.text) + line + "\n",
            (None, None) => {}
        }
    }
    blocks
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the test package lies in a folder of the root").to_owned()
}

#[test]
fn what_differs_each_time_is_left_out() {
    let position = r#"{"status":"open","position":"0.2.0~8ab60511"}"#;
    assert_eq!(comparable(position), comparable(&position.replace("8ab60511", "00000000")));
    assert_ne!(comparable(position), comparable(&position.replace("0.2.0", "0.3.0")));
    let row = "│ wallet/0    5         4          5        0          4      0.5.0~096a1050    d1779b20734d9019 │";
    assert_eq!(comparable(row), ["│ wallet/0 5 4 5 0 4 0.5.0~… d1779b20734d9019 │"]);
    let lines = |text: &str| comparable(text);
    assert!(prints(&lines("a\nb\nc"), &lines("a\n…\nc")) && prints(&lines("a"), &lines("…\na\n…")));
    assert!(!prints(&lines("a\nb"), &lines("a")) && !prints(&lines("a\nb"), &lines("…\na")));
}
