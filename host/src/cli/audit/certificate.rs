//! `statehouse audit certificate verify`: whether a certificate is what a node has signed. Works without any node and any network.
//!
//! Exit codes: 0 it is, 1 it is not.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::api::print_time;
use crate::audit::certificate::{Certificate, verify};
use crate::cli::output::{print, print_json, table};
use crate::ids::Micros;
use crate::key::PublicKey;

/// Certificates of replays
#[derive(Subcommand)]
pub enum CertificateArgs {
    /// Check the hash and the signature of a certificate, offline
    Verify(VerifyArgs),
}

#[derive(Args)]
pub struct VerifyArgs {
    /// The certificate that `audit replay --certificate` wrote
    file: PathBuf,
    /// The public key of the node that must have signed it, hexadecimal; without it any key will do, and is printed
    #[arg(long)]
    key: Option<PublicKey>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &CertificateArgs) -> anyhow::Result<ExitCode> {
    let CertificateArgs::Verify(args) = args;
    let file = std::fs::read(&args.file).with_context(|| format!("{}", args.file.display()))?;
    match verify(&file, args.key) {
        Ok(certificate) => {
            if args.json {
                let facts = certificate.facts();
                let (digest, key) = (certificate.digest(), certificate.key().to_string());
                print_json(&json!({"is_valid": true, "blake3": digest, "key": key, "facts": facts}))?;
            } else {
                print(&page(&certificate))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            if args.json {
                print_json(&json!({"is_valid": false, "error": error.to_string()}))?;
            } else {
                print(&format!("NOT valid: {error}\n"))?;
            }
            Ok(ExitCode::from(1))
        }
    }
}

fn page(certificate: &Certificate) -> String {
    let facts = certificate.facts();
    let mut partitions = table(&["partition", "up to entry", "time", "head"]);
    for covered in &facts.partitions {
        partitions.add_row([
            covered.partition.to_string(),
            covered.index.to_string(),
            print_time(Micros(covered.time)),
            covered.head.chars().take(16).collect(),
        ]);
    }
    let classes: Vec<String> = facts.classes.iter().map(|(class, count)| format!("{class} {count}")).collect();
    format!(
        "certificate {} of a replay, {}\n  machine    {} of cluster {}\n  current    {}\n  candidate  {}\n  decisions  {}: {}\n  signed by  \
         {}\n{partitions}\nvalid: hash and signature are right{}\n",
        certificate.digest().short(),
        facts.mode.name(),
        facts.machine,
        facts.cluster,
        facts.current,
        facts.candidate,
        facts.decisions,
        classes.join(", "),
        certificate.key(),
        "; compare the key with the one you trust"
    )
}
