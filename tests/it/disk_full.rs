//! The disk fills up: writes are refused as certainly not accepted, reads go on, and service resumes by itself.
//!
//! It needs a small file system of its own and is skipped, with the reason printed, where mounting is not permitted.

use std::path::Path;
use std::process::Command;

use statehouse_tests::hold::eventually;
use statehouse_tests::host::{Host, argument};
use statehouse_tests::oracle::{Ledger, check_audit};
use statehouse_tests::wallet;
use statehouse_tests::workload::Workload;
use tempfile::{TempDir, tempdir};

/// Enough for a host at rest with its first segments, and quickly filled.
const DISK: &str = "size=256m";
const CLIENTS: usize = 16;
const ACCOUNTS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_serves_reads_and_resumes_by_itself() {
    let disk = match Disk::mount() {
        Ok(disk) => disk,
        Err(reason) => {
            println!("skipped: no file system of its own can be mounted here: {reason}");
            return;
        }
    };
    let data = disk.path().join("data");
    let host = Host::start(&data).await;
    let mut client = host.client();
    let ledger = Ledger::open(&mut client, ACCOUNTS, 1_000_000).await;
    let workload = Workload::start(host.address(), &ledger.accounts, CLIENTS, 1);

    disk.fill();
    eventually("writes are refused", async || (0 < workload.not_accepted_count()).then_some(())).await;
    for account in &ledger.accounts {
        let balance = wallet::balance(&mut client, account).await;
        assert!(0 <= balance, "reads go on: {account} has {balance}");
    }

    disk.free();
    let enough = workload.done_count() + CLIENTS;
    eventually("service resumes", async || (enough <= workload.done_count()).then_some(())).await;
    let attempts = workload.stop().await;
    ledger.check(&mut client, &attempts).await;
    host.kill();
    check_audit(&data);
    let host = Host::start(&data).await;
    ledger.check(&mut host.client(), &attempts).await;
}

/// A small file system in memory, unmounted when dropped.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Result<Self, String> {
        let folder = tempdir().map_err(|error| error.to_string())?;
        let path = argument(folder.path());
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs", path]).output();
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() { Ok(Self(folder)) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).expect("the disk has room for a name");
        let copied = std::io::copy(&mut std::io::repeat(1), &mut file);
        assert!(copied.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull), "the disk is full");
    }

    /// Gives it back.
    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast can be removed");
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a host that is being dropped may still have it open.
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}
