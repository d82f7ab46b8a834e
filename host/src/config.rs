//! The configuration file of `statehouse serve`: TOML, every key documented here, unknown keys are errors.
//!
//! In: text. Out: a [`Config`] whose values make sense by themselves. Sections of the design that this version does not
//! support yet are refused rather than ignored. It knows nothing of what the values are used for.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use statehouse_abi::role;

use crate::ids::NodeId;
use crate::limits::{HTTP_CONNECTIONS_MAX, HTTP_REQUESTS_MAX, SLOT_COUNT};

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
    /// Other nodes. Not supported yet.
    peer: Option<toml::Table>,
    /// Where sealed history goes. Not supported yet.
    archive: Option<toml::Table>,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Number of this node in the cluster, from 1. Never given to another node.
    pub id: NodeId,
    /// Folder of everything this node keeps; created when missing.
    pub data: PathBuf,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address the REST API listens on; default 127.0.0.1:8080. Any but a loopback address needs `[auth] tokens`.
    pub listen: SocketAddr,
    /// Certificate and key. Not supported yet: put a proxy in front.
    tls: Option<toml::Table>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), tls: None }
    }
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
}

fn one() -> u32 {
    1
}

/// `[auth]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// `[[auth.tokens]]`: who may call. None: everybody on this machine may do everything.
    pub tokens: Vec<TokenConfig>,
}

/// `[[auth.tokens]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Recorded with every command, so never reuse it for somebody else.
    pub name: String,
    /// Some of `client treasury auditor developer operator admin`.
    pub roles: Vec<Role>,
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
}

impl Role {
    pub fn bits(roles: &[Role]) -> u32 {
        roles.iter().fold(0, |bits, role| bits | *role as u32)
    }
}

/// `[limits]`: the few limits that depend on the machine; all others are fixed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// HTTP connections open at the same time.
    pub http_connections: usize,
    /// HTTP requests being answered at the same time.
    pub http_requests: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { http_connections: HTTP_CONNECTIONS_MAX, http_requests: HTTP_REQUESTS_MAX }
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
    /// Not TOML, an unknown or missing key, a value that makes no sense, or a section that is not supported yet.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        let unsupported = [("peer", &config.peer), ("archive", &config.archive), ("http.tls", &config.http.tls)];
        if let Some((section, _)) = unsupported.into_iter().find(|(_, value)| value.is_some()) {
            return Err(ConfigError::NotSupported(section));
        }
        if config.node.id.0 == 0 {
            return Err(ConfigError::Invalid("node.id", "must be at least 1"));
        }
        for (name, machine) in &config.machines {
            check_machine_name(name)?;
            if !(1..=SLOT_COUNT).contains(&machine.partitions) {
                return Err(ConfigError::Invalid("machines.<name>.partitions", "must be from 1 to 4096"));
            }
        }
        if config.limits.http_connections == 0 || config.limits.http_requests == 0 {
            return Err(ConfigError::Invalid("limits", "must be at least 1"));
        }
        Ok(config)
    }
}

fn check_machine_name(name: &str) -> Result<(), ConfigError> {
    let is_well_formed = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= 32
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    // The host keeps its own books in a machine of this name.
    if !is_well_formed || name == "system" {
        return Err(ConfigError::Invalid("machines", "names are [a-z][a-z0-9_-]{0,31}, and not `system`"));
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Malformed(#[from] toml::de::Error),
    #[error("`{0}` is not supported yet; leave it out")]
    NotSupported(&'static str),
    #[error("`{0}` {1}")]
    Invalid(&'static str, &'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        [node]
        id = 1
        data = "/var/lib/statehouse"
        [http]
        listen = "127.0.0.1:9000"
        [machines.wallet]
        module = "wallet.wasm"
        partitions = 4
        [[auth.tokens]]
        name = "till"
        roles = ["client", "treasury"]
        blake3 = "00"
        [limits]
        http_requests = 7
    "#;

    #[test]
    fn every_key_is_read() {
        let config = Config::parse(FULL).expect("a good file");
        assert_eq!(config.node, NodeConfig { id: NodeId(1), data: "/var/lib/statehouse".into() });
        assert_eq!(config.http.listen.port(), 9000);
        assert_eq!(config.machines["wallet"], MachineConfig { module: "wallet.wasm".into(), partitions: 4 });
        assert_eq!(Role::bits(&config.auth.tokens[0].roles), role::CLIENT | role::TREASURY);
        assert_eq!(config.limits, LimitsConfig { http_connections: HTTP_CONNECTIONS_MAX, http_requests: 7 });
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let config = Config::parse("[node]\nid = 1\ndata = \"d\"\n[machines.m]\nmodule = \"m.wasm\"").expect("enough");
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.machines["m"].partitions, 1);
        assert!(config.auth.tokens.is_empty());
    }

    #[track_caller]
    fn check_error(extra: &str, expected: &str) {
        let error = Config::parse(&format!("{FULL}\n{extra}")).expect_err(extra).to_string();
        assert!(error.contains(expected), "{extra}: {error}");
    }

    #[test]
    fn mistakes_are_named() {
        check_error("[peer]\nlisten = \"127.0.0.1:1\"", "`peer` is not supported yet");
        check_error("[archive]\nurl = \"s3://b\"", "`archive` is not supported yet");
        check_error("[htpp]", "unknown field `htpp`");
        check_error("colour = 1", "unknown field `colour`");
        check_error("[machines.system]\nmodule = \"m\"", "not `system`");
        check_error("[machines.Wallet]\nmodule = \"m\"", "names are");
        check_error("[machines.b]\nmodule = \"m\"\npartitions = 0", "must be from 1 to 4096");
        check_error("[machines.b]\nmodule = \"m\"\npartitions = 5000", "must be from 1 to 4096");
        check_error("[[auth.tokens]]\nname = \"x\"\nblake3 = \"\"\nroles = [\"root\"]", "unknown variant `root`");
        let tls = FULL.replace("[http]", "[http]\ntls = {}");
        let error = Config::parse(&tls).expect_err("tls").to_string();
        assert_eq!(error, "`http.tls` is not supported yet; leave it out");
    }
}
