//! The test kit: what every test of a running host needs, and no test itself.
//!
//! It starts the real binary as a process of its own, talks to it over HTTP, puts load on it, and judges what it left
//! behind. It knows the REST contract and the CLI, and nothing of what is inside the host.

pub mod hold;
pub mod host;
pub mod http;
pub mod wallet;
pub mod workload;
pub mod oracle;
