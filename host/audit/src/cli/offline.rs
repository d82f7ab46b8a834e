//! What `statehouse-audit` can reach beyond the folders of its machine: nothing.
//!
//! In: a URL. Out: an error that says which program can, and what to do without it. It knows no command.

use std::path::Path;

use anyhow::bail;
use clap::Args;

use super::audit::{Reach, ReplayArgs};
use crate::segments::Mirror;

/// The program that reads folders alone.
pub struct OfflineReach;

/// It asks no node, so nothing lets it in.
#[derive(Args, Debug)]
pub struct NoAccess {}

impl Reach for OfflineReach {
    type Access = NoAccess;

    fn fetch(&self, url: &str, _: &Path, _: &dyn Fn(u64)) -> anyhow::Result<Mirror> {
        bail!(
            "{url}: this program reads folders and has no network; run `statehouse audit` with the same options, or \
             copy the archive into a folder and name that folder by --data"
        )
    }

    fn replay(&self, _: &ReplayArgs<NoAccess>, url: &str) -> anyhow::Result<u8> {
        bail!(
            "--url {url}: this program has no network and asks no node; run `statehouse audit replay` with the same \
             options, or name the data folder by --data instead"
        )
    }
}
