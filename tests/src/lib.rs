//! The test kit: what every test of a running host needs, and no test itself.
//!
//! It starts the real binary as separate processes, damages what is between and below them, talks to them over HTTP,
//! puts load on them, and judges what they leave. It knows the REST contract and the CLI; only the oracle's reader
//! knows the host's log format.

pub mod hold;
pub mod skipped;
pub mod process;
pub mod artefacts;
pub mod host;
pub mod ports;
pub mod proxy;
pub mod s3;
pub mod network;
pub mod disk;
pub mod wall_clock;
pub mod damage;
pub mod cluster;
pub mod secure;
pub mod members;
pub mod http;
pub mod feed;
pub mod receiver;
pub mod wallet;
pub mod workload;
pub mod recording;
pub mod load;
pub mod oracle;
pub mod trial;
pub mod wasm;
pub mod hostile;
