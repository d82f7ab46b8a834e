//! The section `[peer]`: how this node and the others reach each other, and how they prove who they are.
//!
//! In: the section as it is written. Out: values that make sense together. It opens nothing, and reads none of the
//! files that it names.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::ConfigError;
use crate::ids::NodeId;
use crate::limits::HOST_NAME_BYTES_MAX;

/// `[peer]`: how this node and the others reach each other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// The address that listens for the other nodes. It is separate from `http.listen`, since clients must not reach
    /// it.
    pub listen: SocketAddr,
    /// `host:port` where the others reach this node, as the cluster records it. Default: `listen`. It is required if
    /// `listen` is every address (0.0.0.0), to which nobody can connect, and behind a NAT or a container's port
    /// mapping.
    advertise: Option<String>,
    /// Certificates by which nodes prove to each other who they are. On SIGHUP the node reads them again. New
    /// connections use the new ones, and existing connections keep the old ones until they end; a connection is closed
    /// at once if no authority in `ca` vouches for its certificate any more.
    pub tls: Option<PeerTlsConfig>,
    /// Confirms that everybody who can reach `listen` is trusted. Without `tls`, any process that connects there may
    /// claim to be a node, and then vote, read and append. On a loopback address these are all processes of all users
    /// of the machine. So `[peer]` needs either `tls` or this line.
    #[serde(default)]
    plaintext: bool,
    /// `[peer.routes]`, like `2 = "10.0.0.7:7000"`: reach node 2 there instead of at its advertised address. It is for
    /// a tunnel, a proxy, or a node that has moved while the cluster has no majority to record the change.
    #[serde(default, deserialize_with = "routes")]
    pub routes: BTreeMap<NodeId, String>,
}

/// `[peer] tls`: PEM files, as `statehouse cluster certificates` makes them. Both sides of every connection show a
/// certificate of this authority.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerTlsConfig {
    /// The authority's certificate. The authority must be for this cluster alone, since everybody whom it certifies is
    /// a node. While another authority replaces it, the file has both certificates, one after the other.
    pub ca: PathBuf,
    /// This node's certificate, valid for the name `node-<id>`, for use as a server and as a client.
    pub certificate: PathBuf,
    /// The private key of `certificate`.
    pub key: PathBuf,
}

impl PeerConfig {
    /// `host:port` where the others reach this node.
    pub fn advertise(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    pub(super) fn check(&self, node: NodeId, http: SocketAddr) -> Result<(), ConfigError> {
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
                "is missing: any process that reaches this address could act as a node, also on loopback; add {ca, \
                 certificate, key}, which `statehouse cluster certificates` makes, or `plaintext = true` if everybody \
                 who reaches it is trusted",
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

/// Whether a text is a `host:port` that can be connected to: a name, or an address (an IPv6 address in
/// brackets). Whether the name is known turns out when it is used.
pub fn is_host_and_port(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = host.bytes().all(is_name_byte) && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name && host.len() <= HOST_NAME_BYTES_MAX && port.parse::<u16>().is_ok_and(|port| port != 0)
}
