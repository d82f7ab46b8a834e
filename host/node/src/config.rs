//! The configuration file of `statehouse serve`: TOML, every key documented here, unknown keys are errors.
//!
//! In: text. Out: a [`Config`] whose values are valid on their own. It knows nothing of what the values are used for,
//! and reads none of the files that they name.

mod http;
mod peer;
mod receivers;
mod scrub;
mod views;
mod webhooks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use statehouse_abi::role;

pub use self::http::{ClientCertificates, HttpConfig, HttpTlsConfig, TlsVersion};
use crate::features::{self, FeatureLevel};
use crate::ids::NodeId;
use crate::limits::{
    CLOCK_SKEW_MS_MAX, EVENT_HEARTBEAT, EVENT_PATIENCE, EVENT_READERS_MAX, HTTP_CONNECTIONS_MAX, HTTP_REQUESTS_MAX,
    LOG_KEEP_BYTES_MIN, SHARE_PERCENT_MAX, SLOT_COUNT, SNAPSHOT_EVERY_BYTES_MIN, WEBHOOK_RETRY_SECONDS_MAX,
};

pub use self::peer::{PeerConfig, PeerTlsConfig, is_host_and_port};
pub use self::receivers::Receivers;
pub use self::scrub::ScrubConfig;
pub use self::views::ViewsConfig;
pub use self::webhooks::WebhooksConfig;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: NodeConfig,
    #[serde(default)]
    pub http: HttpConfig,
    /// `[machines.<name>]`: machines to create if the node has none of that name. Names are `[a-z][a-z0-9_-]{0,31}`.
    #[serde(default)]
    pub machines: BTreeMap<String, MachineConfig>,
    #[serde(default)]
    pub auth: AuthConfig,
    #[serde(default)]
    pub limits: LimitsConfig,
    #[serde(default)]
    pub log: LogConfig,
    #[serde(default)]
    pub snapshots: SnapshotsConfig,
    /// Without this section the node is a cluster of its own, and cannot become part of another one.
    pub peer: Option<PeerConfig>,
    #[serde(default)]
    pub cluster: ClusterConfig,
    #[serde(default)]
    pub webhooks: WebhooksConfig,
    #[serde(default)]
    pub views: ViewsConfig,
    #[serde(default)]
    pub scrub: ScrubConfig,
    /// Where the journals are archived for ever. Without this section they are not archived.
    pub archive: Option<ArchiveConfig>,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The number of this node in the cluster, from 1. It is never given to another node.
    pub id: NodeId,
    /// The folder in which this node keeps everything. It is created if it is missing.
    pub data: PathBuf,
    /// The highest feature level that this node says it understands, from 1. Default: the highest of this version. A
    /// cluster uses the formats of a level once all its nodes understand the level, and earlier versions cannot read
    /// them. To keep a downgrade possible while you try a new version, set the earlier level (`statehouse cluster
    /// status` shows it) on at least one node, and remove the line afterwards. The level never falls: a node with a
    /// lower level than the cluster's does not serve.
    #[serde(default = "highest")]
    pub feature_level_max: FeatureLevel,
}

fn highest() -> FeatureLevel {
    features::HIGHEST
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// A node whose clock is further than this from the median of its peers does not lead, in milliseconds, 1 … 60000.
    /// Default: 1000. A leader's clock moves the time of its partitions, which never goes back. Clocks with NTP stay
    /// within a few milliseconds.
    max_skew_ms: u64,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { max_skew_ms: 1000 }
    }
}

impl ClusterConfig {
    pub fn clock_skew_max(&self) -> Duration {
        Duration::from_millis(self.max_skew_ms)
    }
}

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// About how many bytes of each partition's log this node keeps, at least 1048576. Default: everything, for ever.
    /// With it, older journal is **deleted** on this node once a snapshot of the state covers it, and once it is
    /// archived if there is an archive. This node can then not audit or replay the deleted part, and reads it only from
    /// the archive. A follower that needs it is sent the snapshot. Without an archive, what a view of this node still
    /// needs stays, up to four times this length, or 256 MiB. Choose more than is written while a node is down for
    /// maintenance: catching up from the log is cheaper than from a snapshot.
    pub keep_bytes: Option<u64>,
}

/// `[archive]`: journal segments, snapshots and modules are written to an object store, where each can be checked by
/// its hash.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// `s3://bucket/prefix`, with the usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_REGION`; for compatible stores `AWS_ENDPOINT` and `AWS_ALLOW_HTTP`): one archive for the whole cluster,
    /// which the leaders write. Or `file:///folder`, to which this node writes all it has. Default: the folder
    /// `archive` in `node.data`. With an archive, `log.keep_bytes` deletes only what is archived.
    url: Option<String>,
    /// How long an entry may wait before it is archived, in seconds, 1 … 86400. Default: 60. If a whole cluster is
    /// lost, everything that is not archived is lost. A short time costs writes, because a segment that is not full is
    /// written again each time.
    every_seconds: u64,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self { url: None, every_seconds: 60 }
    }
}

impl ArchiveConfig {
    /// Where it is, for a node with its data in this folder.
    pub fn url(&self, data: &Path) -> String {
        self.url.clone().unwrap_or_else(|| data.join("archive").display().to_string())
    }

    pub fn every(&self) -> Duration {
        Duration::from_secs(self.every_seconds)
    }
}

/// `[snapshots]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotsConfig {
    /// Take a canonical snapshot of each partition after about every so many bytes of its journal, at least 1048576.
    /// Default: only those of 00:00 UTC, and those that are requested. The places depend only on the journal, so nodes
    /// with the same number have the same snapshots.
    pub every_bytes: Option<u64>,
    /// How many canonical snapshots of each partition stay in the data folder, at least 1: this number of midnights,
    /// the newest, and as many others. Older ones are **deleted** on this node; if there is an archive, only once they
    /// are archived. Default: all stay. A node that lacks midnights, because it was sent a later snapshot of the state,
    /// fetches up to this number from the archive or the other nodes.
    pub keep: Option<u32>,
}

/// `[machines.<name>]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// The path of the `.wasm` file that the machine starts with.
    pub module: PathBuf,
    /// How many partitions the machine is created with, 1 … 4096. Default: 1.
    #[serde(default = "one")]
    pub partitions: u32,
    /// Views that are created with the machine: `statements`, `audit_trail`, `double_charges`, or paths of `.wasm`
    /// files. A view that was dropped with `statehouse view drop` does not come back, and a view that exists keeps its
    /// version. Default: none.
    #[serde(default)]
    pub views: Vec<String>,
}

fn one() -> u32 {
    1
}

/// `[auth]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// `[[auth.tokens]]`: the callers. Without any, everybody who reaches `http.listen` may do everything, if `open`
    /// says so.
    pub tokens: Vec<TokenConfig>,
    /// Confirms that there are no tokens on purpose. Everybody who reaches a proxy, tunnel or port mapping to this node
    /// is then an admin. Default: false, and a configuration without tokens is refused.
    pub open: bool,
    /// Names of this node for clients of a node without tokens, besides `localhost`, loopback addresses and the names
    /// in this file; `pay.example` for instance, if a proxy passes that. Requests for any other host are refused, since
    /// a web page could have made them under a name of its own.
    pub hosts: Vec<String>,
    /// `[auth.commands.<machine>]`: the roles that may send a command, if they are not `client` and `treasury`. It must
    /// be the same on all nodes. For the wallet: `freeze = ["compliance"]` and `unfreeze = ["compliance"]`.
    pub commands: BTreeMap<String, BTreeMap<String, Vec<Role>>>,
}

impl AuthConfig {
    fn check(&self) -> Result<(), ConfigError> {
        match (self.tokens.is_empty(), self.open) {
            (true, false) => Err(ConfigError::Invalid(
                "auth.tokens",
                "are missing: without them everybody who reaches `http.listen` may do everything, also through a \
                 proxy, a tunnel or a port mapping on this machine; add [[auth.tokens]], or write `open = true` \
                 below [auth] if that is intended",
            )),
            (false, true) => {
                Err(ConfigError::Invalid("auth.open", "contradicts [[auth.tokens]]; leave one of them out"))
            }
            (true, true) | (false, false) => Ok(()),
        }
    }
}

/// `[[auth.tokens]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The name of the caller. It is recorded with every command, so never reuse it for somebody else.
    pub name: String,
    /// The caller's roles: some of `client treasury compliance auditor developer operator admin monitor`.
    pub roles: Vec<Role>,
    /// The entities that the token may act for and read: names, or beginnings of names that end in `*`, as in
    /// `["shop-1:*", "alice"]`. A command is refused if its home, or an entity from which one of its steps takes or
    /// which it changes, is not among them. Only for `client`, `treasury` and `compliance`: the other roles see and
    /// control whole machines. Default: all entities.
    pub entities: Option<Vec<String>>,
    /// The BLAKE3 hash of the token in hexadecimal, as `statehouse token` and `printf %s "$TOKEN" | b3sum --no-names`
    /// print it. The token itself is not stored anywhere.
    pub blake3: String,
}

impl TokenConfig {
    /// The hash of a token, by which the node knows it.
    pub fn hash(token: &[u8]) -> blake3::Hash {
        blake3::hash(token)
    }
}

/// What a caller may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum Role {
    Client = role::CLIENT,
    Treasury = role::TREASURY,
    Auditor = role::AUDITOR,
    Developer = role::DEVELOPER,
    Operator = role::OPERATOR,
    Admin = role::ADMIN,
    /// May see the health and the metrics of the node, but no data.
    Monitor = MONITOR,
    Compliance = role::COMPLIANCE,
}

/// A role of the host alone: no module and no journal ever sees it.
pub const MONITOR: u32 = 64;
/// Of those who may do everything.
pub const EVERY_ROLE: u32 = role::ALL | MONITOR;

impl Role {
    pub fn bits(roles: &[Role]) -> u32 {
        roles.iter().fold(0, |bits, role| bits | *role as u32)
    }
}

/// `[limits]`: the few limits that depend on the machine; all others are fixed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// HTTP connections that are open at the same time. Default: 10000, or fewer if the limit of open files is low.
    /// When all are taken, idle ones are closed for new ones.
    pub http_connections: usize,
    /// HTTP requests that are answered at the same time. Default: 8192.
    pub http_requests: usize,
    /// Readers of event streams at the same time. Default: 4096.
    pub event_readers: usize,
    /// A reader of events that takes nothing for so many milliseconds is disconnected. Default: 30000.
    pub event_patience_ms: u64,
    /// An event stream without events sends a heartbeat every so many milliseconds. Default: 15000.
    pub event_heartbeat_ms: u64,
    /// The percentage of these, and of the places for batches, that one caller, or one address (an IPv6 network of 64
    /// bits), may take, 1 … 100. Default: 75. Choose 100 if all clients come through one proxy.
    pub share_percent: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            http_connections: HTTP_CONNECTIONS_MAX,
            http_requests: HTTP_REQUESTS_MAX,
            event_readers: EVENT_READERS_MAX,
            event_patience_ms: EVENT_PATIENCE.as_millis() as u64,
            event_heartbeat_ms: EVENT_HEARTBEAT.as_millis() as u64,
            share_percent: SHARE_PERCENT_MAX,
        }
    }
}

impl Config {
    /// Reads the file and checks it.
    ///
    /// # Errors
    /// It cannot be read, or see [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// # Errors
    /// Not TOML, an unknown or missing key, or a value that makes no sense.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        config.http.check()?;
        if config.archive.as_ref().is_some_and(|archive| !(1..=86_400).contains(&archive.every_seconds)) {
            return Err(ConfigError::Invalid("archive.every_seconds", "must be from 1 to 86400"));
        }
        if config.node.id.0 == 0 {
            return Err(ConfigError::Invalid("node.id", "must be at least 1"));
        }
        if !(features::BASE..=features::HIGHEST).contains(&config.node.feature_level_max) {
            return Err(ConfigError::Invalid(
                "node.feature_level_max",
                "must be from 1 to the highest level of this version; leave it out for that one",
            ));
        }
        config.auth.check()?;
        if let Some(peer) = &config.peer {
            peer.check(config.node.id, config.http.listen)?;
        }
        if !(1..=CLOCK_SKEW_MS_MAX).contains(&config.cluster.max_skew_ms) {
            return Err(ConfigError::Invalid("cluster.max_skew_ms", "must be from 1 to 60000"));
        }
        if config.log.keep_bytes.is_some_and(|bytes| bytes < LOG_KEEP_BYTES_MIN) {
            return Err(ConfigError::Invalid(
                "log.keep_bytes",
                "must be at least 1048576; leave it out to keep everything",
            ));
        }
        if config.snapshots.every_bytes.is_some_and(|bytes| bytes < SNAPSHOT_EVERY_BYTES_MIN) {
            return Err(ConfigError::Invalid(
                "snapshots.every_bytes",
                "must be at least 1048576; leave it out to have those of midnight only",
            ));
        }
        if !(1..=WEBHOOK_RETRY_SECONDS_MAX).contains(&config.webhooks.retry_seconds) {
            return Err(ConfigError::Invalid("webhooks.retry_seconds", "must be from 1 to 2592000"));
        }
        config.webhooks.receivers()?;
        if config.snapshots.keep == Some(0) {
            return Err(ConfigError::Invalid("snapshots.keep", "must be at least 1; leave it out to keep all"));
        }
        for (name, machine) in &config.machines {
            check_machine_name(name)?;
            if !(1..=SLOT_COUNT).contains(&machine.partitions) {
                return Err(ConfigError::Invalid("machines.<name>.partitions", "must be from 1 to 4096"));
            }
        }
        let LimitsConfig { http_connections, http_requests, event_readers, .. } = config.limits;
        let times = [config.limits.event_patience_ms, config.limits.event_heartbeat_ms];
        if [http_connections, http_requests, event_readers].contains(&0) || times.contains(&0) {
            return Err(ConfigError::Invalid("limits", "must be at least 1"));
        }
        if !(1..=100).contains(&config.limits.share_percent) {
            return Err(ConfigError::Invalid("limits.share_percent", "must be from 1 to 100"));
        }
        Ok(config)
    }
}

fn check_machine_name(name: &str) -> Result<(), ConfigError> {
    let is_well_formed = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= 32
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    if !is_well_formed || RESERVED_NAMES.contains(&name) {
        let why = "names are [a-z][a-z0-9_-]{0,31}, and not `system`, `machines` or `cluster`";
        return Err(ConfigError::Invalid("machines", why));
    }
    Ok(())
}

/// What no machine is called: the host keeps its own books in `system`, and has routes of its own below the others.
pub const RESERVED_NAMES: [&str; 3] = ["system", "machines", "cluster"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Malformed(#[from] toml::de::Error),
    #[error("`webhooks.allow`: `{0}` is no host name, no address and no network like 10.2.0.0/16")]
    Receiver(String),
    #[error("`{0}` {1}")]
    Invalid(&'static str, &'static str),
}

#[cfg(test)]
mod tests;
