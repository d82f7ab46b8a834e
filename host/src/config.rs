//! The configuration file of `statehouse serve`: TOML, every key documented here, unknown keys are errors.
//!
//! In: text. Out: a [`Config`] whose values make sense by themselves. It knows nothing of what the values are used for, and reads none of the
//! files that they name.

mod http;

mod receivers;
mod scrub;
mod views;
mod webhooks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use statehouse_abi::role;

pub use self::http::{ClientCertificates, HttpConfig, HttpTlsConfig, TlsVersion};
use crate::features::{self, FeatureLevel};
use crate::ids::NodeId;
use crate::limits::{
    CLOCK_SKEW_MS_MAX, EVENT_HEARTBEAT, EVENT_PATIENCE, EVENT_READERS_MAX, HOST_NAME_BYTES_MAX, HTTP_CONNECTIONS_MAX,
    HTTP_REQUESTS_MAX, LOG_KEEP_BYTES_MIN, SHARE_PERCENT_MAX, SLOT_COUNT, SNAPSHOT_EVERY_BYTES_MIN,
    WEBHOOK_RETRY_SECONDS_MAX,
};

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
    /// `[machines.<name>]`: machines to create when the node has none of that name. Names are `[a-z][a-z0-9_-]{0,31}`.
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
    /// Without it the node is a cluster of its own, and cannot become part of another one.
    pub peer: Option<PeerConfig>,
    #[serde(default)]
    pub cluster: ClusterConfig,
    #[serde(default)]
    pub webhooks: WebhooksConfig,
    #[serde(default)]
    pub views: ViewsConfig,
    #[serde(default)]
    pub scrub: ScrubConfig,
    /// Where history goes for ever; without it nowhere.
    pub archive: Option<ArchiveConfig>,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Number of this node in the cluster, from 1. Never given to another node.
    pub id: NodeId,
    /// Folder of everything this node keeps; created when missing.
    pub data: PathBuf,
    /// The highest feature level that this node says it understands, from 1; default: all that this version does. A cluster writes what came
    /// with a level once all its nodes understand that, and earlier versions cannot read it. So name the level of before
    /// (`statehouse cluster status` shows it) on one node at least to keep a downgrade possible while you try a new version, and remove the
    /// line to go on. The level never falls: a node that names a lower one than the cluster has reached does not serve.
    #[serde(default = "highest")]
    pub feature_level_max: FeatureLevel,
}

fn highest() -> FeatureLevel {
    features::HIGHEST
}

/// `[peer]`: how this node and the others reach each other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Address that listens for the other nodes; one of its own, because clients have no business there.
    pub listen: SocketAddr,
    /// `host:port` where the others reach this node, as the cluster records it; default: `listen`. It is needed when `listen` is
    /// every address (0.0.0.0), which nobody can connect to, and behind a NAT or a container's port mapping.
    advertise: Option<String>,
    /// Certificates by which nodes prove to each other who they are. SIGHUP has the node read them again: new connections are made with the new
    /// ones, what is under way ends on the old ones, and those are closed at once whose certificate no authority in `ca` stands for any more.
    pub tls: Option<PeerTlsConfig>,
    /// Says that everybody who can reach `listen` is trusted. Without `tls` any process that connects there may say that it is a node, and
    /// then vote, read and append; on a loopback address those are all processes of all users of the machine. So `[peer]` needs `tls`, or this
    /// as a deliberate word.
    #[serde(default)]
    plaintext: bool,
    /// `[peer.routes]`, like `2 = "10.0.0.7:7000"`: reach node 2 there instead of where it advertises, for a tunnel, a proxy, or a node
    /// that has moved while the cluster has no majority to record it.
    #[serde(default, deserialize_with = "routes")]
    pub routes: BTreeMap<NodeId, String>,
}

/// `[peer] tls`: PEM files, as `statehouse cluster certificates` makes them. Both sides of every connection show a certificate of this authority.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerTlsConfig {
    /// The authority's certificate: of this cluster alone, since whoever it certifies is a node. While another one takes its place, both, one
    /// after the other in this file.
    pub ca: PathBuf,
    /// This node's certificate, valid for the name `node-<id>`, as a server's and as a client's.
    pub certificate: PathBuf,
    /// The private key of `certificate`.
    pub key: PathBuf,
}

impl PeerConfig {
    /// `host:port` where the others reach this node.
    pub fn advertise(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    fn check(&self, node: NodeId, http: SocketAddr) -> Result<(), ConfigError> {
        let invalid = |key, why| Err(ConfigError::Invalid(key, why));
        if self.listen.port() == 0 {
            return invalid("peer.listen", "must name its port, because the others must know it");
        }
        if self.listen == http {
            return invalid("peer.listen", "must be another address than `http.listen`");
        }
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            return invalid(
                "peer.advertise",
                "is missing: nobody can connect to every address; say by which host:port the others reach this node",
            );
        }
        if !is_host_and_port(&self.advertise()) {
            return invalid("peer.advertise", "must be host:port, and one that others can connect to");
        }
        if self.tls.is_some() && self.plaintext {
            return invalid("peer.plaintext", "contradicts `peer.tls`; leave one of them out");
        }
        if self.tls.is_none() && !self.plaintext {
            return invalid(
                "peer.tls",
                "is missing: any process that reaches this address could act as a node, also on loopback; add {ca, certificate, \
                 key}, which `statehouse cluster certificates` makes, or `plaintext = true` if everybody who reaches it is trusted",
            );
        }
        if self.routes.contains_key(&node) {
            return invalid("peer.routes", "are ways to the other nodes, not to this one");
        }
        if !self.routes.values().all(|route| is_host_and_port(route)) {
            return invalid("peer.routes", "must be host:port, like 2 = \"10.0.0.7:7000\"");
        }
        Ok(())
    }
}

/// Keys of TOML are texts.
fn routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<NodeId, String>, D::Error> {
    let routes = BTreeMap::<String, String>::deserialize(deserializer)?;
    let parsed = routes.into_iter().map(|(node, route)| match node.parse() {
        Ok(number) if number > 0 => Ok((NodeId(number), route)),
        _ => Err(serde::de::Error::custom(format!("`peer.routes`: `{node}` is not the number of a node"))),
    });
    parsed.collect()
}

/// Whether a text is `host:port` that can be connected to: a name or an address, IPv6 ones in brackets. Whether the name is known is
/// found out when it is used.
pub fn is_host_and_port(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = host.bytes().all(is_name_byte) && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name && host.len() <= HOST_NAME_BYTES_MAX && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// A node whose clock is further than this from its peers' median does not lead, 1 … 60000; default 1000. A leader's clock moves the
    /// time of its partitions, which never goes back; clocks that are kept by NTP stay within a few milliseconds.
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
    /// About how many bytes of each partition's log this node keeps, at least 1048576. Without it everything is kept, for ever. With it the
    /// journal before is **deleted** on this node once a snapshot of the state has it, and the archive where there is one: this node can
    /// then not audit or replay what came before, shows it from the archive alone, and a follower that lacks it is sent the snapshot. Without an
    /// archive, what a view of this node has not followed stays up to four times that length, and up to 256 MiB. Choose more than is written
    /// while a node is down for maintenance: catching up from the log is cheaper than a snapshot.
    pub keep_bytes: Option<u64>,
}

/// `[archive]`: journal segments, snapshots and modules go to an object store, where any of them can be checked by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// `s3://bucket/prefix`, with the usual variables of the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT` and `AWS_ALLOW_HTTP` for compatible stores): one for the whole cluster, into which the leaders write. Or
    /// `file:///folder`, into which this node writes all it has. Default: the folder `archive` in `node.data`. With an archive,
    /// `log.keep_bytes` deletes nothing that is not in it.
    url: Option<String>,
    /// How long an entry may wait until it is archived, 1 … 86400 seconds; default 60. What was not archived when a whole cluster is
    /// lost is lost. A segment that is not full is written again each time, so a short time costs writes.
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
    /// A canonical snapshot of each partition also about every so many bytes of its journal, at least 1048576; without it, only those of 00:00
    /// UTC, and those that are asked for. Where they are is drawn from the journal: nodes with the same number have the same ones.
    pub every_bytes: Option<u64>,
    /// How many canonical snapshots of each partition stay in the data folder, at least 1: the newest so many of midnights, and as many others.
    /// Older ones are **deleted** on this node, where there is an archive only once they are in it. Default: all stay. A node that lacks
    /// midnights, since it was sent a snapshot of the state behind them, fetches them from the archive or the other nodes, up to this number.
    pub keep: Option<u32>,
}

/// `[machines.<name>]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Path of the `.wasm` file the machine starts with.
    pub module: PathBuf,
    /// How many partitions it starts with, 1 … 4096; default 1.
    #[serde(default = "one")]
    pub partitions: u32,
    /// Views that are created with it: `statements`, `audit_trail`, `double_charges`, or paths of `.wasm` files. One that was dropped with
    /// `statehouse view drop` does not come back, and one that is there keeps its version. Default: none.
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
    /// `[[auth.tokens]]`: who may call. None: everybody who reaches `http.listen` may do everything, if `open` says so.
    pub tokens: Vec<TokenConfig>,
    /// Says that there are no tokens on purpose. A proxy, a tunnel or a port mapping on this machine makes everybody an admin who
    /// reaches *that*. Default: false, and a configuration without tokens is refused.
    pub open: bool,
    /// Names besides `localhost`, loopback addresses and those of this file by which clients ask a node without tokens, as `pay.example`
    /// if a proxy passes that. Requests for any other host are refused: a web page could have made them, under a name of its own.
    pub hosts: Vec<String>,
    /// `[auth.commands.<machine>]`: which roles may send a command, where that is not `client` or `treasury`; the same on all nodes. For the
    /// wallet: `freeze = ["compliance"]` and `unfreeze = ["compliance"]`.
    pub commands: BTreeMap<String, BTreeMap<String, Vec<Role>>>,
}

impl AuthConfig {
    fn check(&self) -> Result<(), ConfigError> {
        match (self.tokens.is_empty(), self.open) {
            (true, false) => Err(ConfigError::Invalid(
                "auth.tokens",
                "are missing: without them everybody who reaches `http.listen` may do everything, also through a proxy, a tunnel or \
                 a port mapping on this machine; add [[auth.tokens]], or write `open = true` below [auth] if that is meant",
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
    /// Recorded with every command, so never reuse it for somebody else.
    pub name: String,
    /// Some of `client treasury compliance auditor developer operator admin monitor`.
    pub roles: Vec<Role>,
    /// The entities it may act for and read: names, or beginnings of names that end in `*`, as in `["shop-1:*", "alice"]`. A command is refused
    /// whose home, or any step that takes from an entity or changes it, lies outside. Only for `client`, `treasury` and `compliance`: the other
    /// roles see and steer whole machines. Default: all, so it moves and reads what belongs to anybody.
    pub entities: Option<Vec<String>>,
    /// blake3 of the token in hexadecimal, as `printf %s "$TOKEN" | b3sum` prints it. The token itself is kept nowhere.
    pub blake3: String,
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
    /// May see how the node is, and nothing of what is in it.
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
    /// HTTP connections open at the same time; default 10000, and fewer where the limit of open files is low. Where there are no more, idle
    /// ones are closed for new ones.
    pub http_connections: usize,
    /// HTTP requests being answered at the same time.
    pub http_requests: usize,
    /// Readers of event streams at the same time; default 4096.
    pub event_readers: usize,
    /// A reader of events that takes nothing for so many milliseconds is dropped; default 30000.
    pub event_patience_ms: u64,
    /// An event stream on which nothing happens has a sign of life every so many milliseconds; default 15000.
    pub event_heartbeat_ms: u64,
    /// How many in a hundred of these, and of the places for batches, one caller may have, and one address (an IPv6 network of 64 bits),
    /// 1 … 100; default 75. Choose 100 if all clients come through one proxy.
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
