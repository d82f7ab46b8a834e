//! What the tasks of a node publish: plain data that everybody may read at any time.
//!
//! In: each value from the one task that writes it, which alone has the sender. Out: the newest value. No task is
//! imported here, so that each task may read what all others publish. It does not know what the values are used for.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

use crate::ids::{Micros, ModuleId, NodeId};
use crate::peer::GroupName;
use crate::system::directory_now::DirectoryNow;

pub struct Published {
    /// What this node knows of its cluster. The directory's owner writes it.
    pub directory: watch::Receiver<DirectoryNow>,
    /// The nodes of the directory, or of the identity until the directory is known, for machines and modules, which
    /// know no directory. The same task writes them.
    pub nodes: watch::Receiver<Vec<NodeId>>,
    /// The other nodes that have answered lately. The health check writes it.
    pub answering: watch::Receiver<BTreeSet<NodeId>>,
    /// Archiving writes it.
    pub archived: watch::Receiver<Archived>,
    /// By machine: what the shadow that runs here has found. The task that runs shadows writes it.
    pub shadows: watch::Receiver<BTreeMap<String, PublishedPage>>,
}

/// What the archive has, as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// How far it reaches: for each partition the time of the last entry in it.
    pub times: BTreeMap<GroupName, Micros>,
    /// Names of the canonical snapshots in it, as they were listed last.
    pub snapshots: BTreeMap<GroupName, BTreeSet<String>>,
}

/// A shadow that a node is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowWanted {
    pub module: ModuleId,
    /// The node that runs it.
    pub node: NodeId,
    /// When it was asked for.
    pub since: Micros,
}

/// What a shadow has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPage {
    pub of: ShadowWanted,
    /// JSON.
    pub text: String,
}
