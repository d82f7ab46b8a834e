//! An object store that speaks S3: the server of the Python package `moto`, with one bucket, in memory.
//!
//! It knows where `make test` has installed the server, and how to start it. It does not look at what is stored there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::hold::{PATIENCE, within};
use crate::http::{Client, Request};
use crate::ports::free_address;

/// The only bucket.
pub const BUCKET: &str = "history";

/// A running server. Dropping it kills it.
pub struct S3 {
    child: Child,
    address: SocketAddr,
}

impl S3 {
    /// Starts a server with an empty bucket.
    pub async fn start() -> Self {
        let program = program();
        let address = free_address();
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("{} cannot be started ({error}): `.ci/setup test` installs it", program.display())
        });
        let started = Self { child, address };
        within(PATIENCE, "the object store answers", async || {
            let path = format!("/{BUCKET}");
            let request = Request { method: "PUT", path: &path, headers: Vec::new(), body: Vec::new() };
            Client::to(address).send(request).await.ok().filter(|made| made.status == 200)
        })
        .await;
        started
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // The server may have ended on its own, and what it stored is of no use to anybody.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let installed = home.join(".cache/statehouse/moto/bin/moto_server");
    if installed.is_file() { installed } else { PathBuf::from("moto_server") }
}

/// The environment of a program that is to use the bucket through `endpoint`.
pub fn environment(endpoint: SocketAddr) -> Vec<(String, String)> {
    let variables = [
        ("AWS_ENDPOINT", format!("http://{endpoint}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
