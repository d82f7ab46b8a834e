//! A flipped bit in what was durable: the host refuses to start, says where, and leaves every byte as it is.
//!
//! It knows where the wallet's log is in the data folder, and that the unwritten rest of a segment is zero. It knows
//! no frame layout.

use std::path::{Path, PathBuf};

use statehouse_tests::host::{Host, Start, argument, cli};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet;
use tempfile::tempdir;
use uuid::Uuid;

const TRANSFERS: usize = 20;
/// Where in the written part of the log the bit is flipped, in per cent.
const PLACES: [usize; 4] = [5, 25, 50, 75];

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_below_the_watermark_is_reported_and_nothing_is_truncated() {
    let data = tempdir().expect("a temporary folder");
    let host = Host::start(data.path()).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, 2, 10_000).await;
    for _ in 0..TRANSFERS {
        let answer = wallet::transfer(&mut client, Uuid::new_v4(), &ledger.accounts[0], &ledger.accounts[1], 10).await;
        assert_eq!(answer.expect("the host answers").status, 200);
    }
    assert!(host.terminate().await.success());
    check_audit(data.path());

    let segment = first_segment(data.path());
    let name = segment.file_name().and_then(|name| name.to_str()).expect("segments have UTF-8 names").to_owned();
    let good = std::fs::read(&segment).expect("the segment can be read");
    let written = good.iter().rposition(|byte| *byte != 0).expect("something was written") + 1;
    for place in PLACES {
        let mut bad = good.clone();
        bad[written * place / 100] ^= 1;
        std::fs::write(&segment, &bad).expect("the segment can be written");

        let refused = Host::start_with(&Start::on(data.path())).await;
        let Err(refused) = refused else { panic!("{place} %: the host started on a corrupt log") };
        assert!(!refused.status.success(), "{place} %: {refused:?}");
        for word in [name.as_str(), "offset", "index"] {
            assert!(refused.output.contains(word), "{place} %: the refusal names `{word}`: {}", refused.output);
        }
        let found = std::fs::read(&segment).expect("the segment can be read");
        assert!(found == bad, "{place} %: nothing is truncated or repaired");
        let audit = cli(["audit", "verify", "--data", argument(data.path())]);
        assert_ne!(audit.code, Some(0), "{place} %: the audit sees it too: {audit:?}");
    }

    std::fs::write(&segment, &good).expect("the segment can be written");
    let host = Host::start(data.path()).await;
    let balance = wallet::balance(&mut host.client(), &ledger.accounts[0]).await;
    assert_eq!(balance, 10_000 - 10 * TRANSFERS as i128, "with the bit back everything is back");
}

/// The oldest segment of the wallet's one partition.
fn first_segment(data: &Path) -> PathBuf {
    let folder = data.join("wallet").join("0").join("log");
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = files.map(|file| file.expect("the folder can be listed").path());
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "log");
    paths.filter(is_segment).min().unwrap_or_else(|| panic!("{} has a segment", folder.display()))
}
