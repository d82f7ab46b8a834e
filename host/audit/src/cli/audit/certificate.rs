//! `statehouse audit certificate verify`: whether a certificate is what a node has signed. Needs no node and no
//! network.
//!
//! In: a certificate; optionally the key that must have signed it, or a data folder whose `system` says which keys
//! belong to the nodes. Out: who has signed it, and what it says. Exit codes: 0 a node has signed it as it is, 1 not.
//! It does not know whether the differences in it are wanted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::audit::Source;
use crate::audit::certificate::{Certificate, verify};
use crate::audit::signers::signers;
use crate::cli::output::{print, print_json, table};
use crate::ids::Micros;
use crate::key::PublicKey;
use crate::records::key_row::KeyRow;
use crate::rfc3339::print_time;

/// Verify the certificates of replays
#[derive(Subcommand)]
pub enum CertificateArgs {
    /// Check the hash and the signature of a certificate, offline; exit code 1 if it is not valid
    Verify(CertificateVerifyArgs),
}

#[derive(Args)]
pub struct CertificateVerifyArgs {
    /// The certificate, as `audit replay --certificate` wrote it
    file: PathBuf,
    /// The public key that must have signed it, in hexadecimal; without it any key is accepted. The key is printed
    #[arg(long)]
    key: Option<PublicKey>,
    /// A data folder of the cluster, or a copy; the key must be recorded there as the key of a node
    #[arg(long)]
    data: Option<PathBuf>,
    /// The id of the node that must have signed it; the node's keys are read from the data folder
    #[arg(long, requires = "data")]
    node: Option<u64>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: &CertificateArgs) -> anyhow::Result<ExitCode> {
    let CertificateArgs::Verify(args) = args;
    let file = std::fs::read(&args.file).with_context(|| format!("{}", args.file.display()))?;
    let not_valid = |error: String| {
        if args.json {
            print_json(&json!({"is_valid": false, "error": error}))?;
        } else {
            print(&format!("NOT valid: {error}\n"))?;
        }
        Ok(ExitCode::from(1))
    };
    let certificate = match verify(&file, args.key) {
        Ok(certificate) => certificate,
        Err(error) => return not_valid(error.to_string()),
    };
    let signer = match &args.data {
        Some(data) => match find_signer(&certificate, data, args.node)? {
            Ok(signer) => Some(signer),
            Err(error) => return not_valid(error),
        },
        None => None,
    };
    if args.json {
        let (facts, node) = (certificate.facts(), signer.map(|signer| signer.node()));
        let (digest, key) = (certificate.digest(), certificate.key().to_string());
        print_json(&json!({"is_valid": true, "blake3": digest, "key": key, "node": node, "facts": facts}))?;
    } else {
        print(&page(&certificate, signer.as_ref()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The node to which the key belongs, according to the data folder; or why the signer is not the expected one.
fn find_signer(certificate: &Certificate, data: &Path, node: Option<u64>) -> anyhow::Result<Result<KeyRow, String>> {
    let source = Source::open(data)?;
    let (found, expected) = (&certificate.facts().cluster, source.cluster());
    if *found != expected {
        return Ok(Err(format!("it is about cluster {found}, and {} is of cluster {expected}", data.display())));
    }
    let known = signers(&source).context("the keys of the nodes cannot be read")?;
    let key = certificate.key();
    let Some(signer) = known.iter().find(|known| known.public() == key) else {
        let known: Vec<String> =
            known.iter().map(|known| format!("{} of node {}", known.public().short(), known.node())).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Ok(Err(format!("its key {} is of no node that {} knows: {known}", key.short(), data.display())));
    };
    match node.filter(|node| *node != signer.node) {
        Some(node) => Ok(Err(format!("it is signed by node {}, not by node {node}", signer.node))),
        None => Ok(Ok(signer.clone())),
    }
}

fn page(certificate: &Certificate, signer: Option<&KeyRow>) -> String {
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
        "certificate {} of a replay, {}\n  machine    {} of cluster {}\n  current    {}\n  candidate  {}\n  decisions  \
         {}: {}\n  signed by  {}\n{partitions}\nvalid: hash and signature are right{}\n",
        certificate.digest().short(),
        facts.mode.name(),
        facts.machine,
        facts.cluster,
        facts.current,
        facts.candidate,
        facts.decisions,
        classes.join(", "),
        certificate.key(),
        match signer {
            Some(signer) => {
                format!("; the key is that of node {}, recorded at {}", signer.node(), print_time(Micros(signer.time)))
            }
            None => "; compare the key with the one you trust, or name a data folder with --data".to_owned(),
        }
    )
}
