//! Every test that needs a running host, in one binary: each starts the real `statehouse` on a folder of its own.
//!
//! In: the REST contract and the CLI. Out: what a client, an auditor or an operator may rely on. It knows nothing of
//! what is inside the host.

mod transfer;
mod book;
mod across;
mod participants;
mod bad_input;
mod idempotency;
mod one_id;
mod deadline;
mod clock;
mod kill;
mod corruption;
mod lost;
mod disk_full;
mod audit;
mod auditor;
mod receipts;
mod operation;
mod origins;
mod browser;
mod flood;
mod tls;
mod reload;
mod privacy;
mod irregular;
mod tokens;
mod events;
mod starting;
mod slow_reader;
mod webhooks;
mod respond_async;
mod retry;
mod unfit;
mod stuck;
mod orders;
mod shadow;
mod upgrade;
mod replay;
mod replay_jobs;
mod segments;
mod snapshots;
mod restored;
mod views;
mod tampered;
mod archived;
mod released;
mod hostile;
mod foreign;
mod corpus;
