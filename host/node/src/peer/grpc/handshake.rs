//! What every request says about its caller, and what a node checks before it looks at one.
//!
//! | metadata | content |
//! |---|---|
//! | `sh-format` | [`FORMAT`], decimal |
//! | `sh-cluster` | the caller's cluster, a UUID; absent while it belongs to none |
//! | `sh-from` | the caller, decimal |
//! | `sh-to` | the node it means, decimal |
//! | `grpc-timeout` | gRPC's own: how long the caller waits |
//!
//! It does not know what is asked beyond its topic.

use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};

use super::links::Link;
use super::{Identity, tls};
use crate::ids::{ClusterId, NodeId};
use crate::limits;
use crate::peer::Topic;

/// The version of the messages and of this handshake.
const FORMAT: u32 = 1;

/// Adds what `to` needs to accept the request. `patience` bounds the wait for its answer, or for the first piece.
pub(in crate::peer) fn stamp<T>(identity: &Identity, to: NodeId, message: T, patience: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(patience) = patience {
        request.set_timeout(patience);
    }
    let metadata = request.metadata_mut();
    metadata.insert("sh-format", MetadataValue::from(FORMAT));
    metadata.insert("sh-from", MetadataValue::from(identity.node.0));
    metadata.insert("sh-to", MetadataValue::from(to.0));
    if let Some(cluster) = identity.cluster.get() {
        let text = cluster.to_string().parse().expect("hexadecimal digits and hyphens are metadata");
        metadata.insert("sh-cluster", text);
    }
    request
}

/// The caller, if it may ask this node: the format is known, it means this node, it shows its own certificate if there
/// are any, and both belong to the same cluster. If either side has no cluster, only topics open to strangers are
/// answered.
pub(super) fn admit<T>(identity: &Identity, request: &Request<T>, topic: Option<Topic>) -> Result<NodeId, Status> {
    let metadata = request.metadata();
    let format: u32 = number(metadata, "sh-format")?;
    if format != FORMAT {
        return Err(refused(format!("format {format} is unknown, this node speaks {FORMAT}")));
    }
    let (from, to) = (NodeId(number(metadata, "sh-from")?), NodeId(number(metadata, "sh-to")?));
    if to != identity.node {
        return Err(refused(format!("this is node {}, not node {to}", identity.node)));
    }
    // Without certificates there is nothing to compare: whether to use them is the configuration's decision.
    let link = link(request);
    if link.certificate().is_some_and(|own| !tls::is_certificate_of(from, own)) {
        return Err(refused(format!("the certificate is not that of node {from}")));
    }
    let is_member = admit_cluster(identity, cluster(metadata)?, topic)?;
    if is_member && !link.is_of(from) {
        return Err(refused(format!("another node than node {from} has opened this connection")));
    }
    Ok(from)
}

/// The connection that a request came over.
pub(super) fn link<T>(request: &Request<T>) -> &Link {
    request.extensions().get::<Arc<Link>>().expect("every connection is a link")
}

/// Whether both belong to the same cluster; an error if the caller may not ask.
fn admit_cluster(identity: &Identity, theirs: Option<ClusterId>, topic: Option<Topic>) -> Result<bool, Status> {
    match (identity.cluster.get(), theirs) {
        (Some(own), Some(theirs)) if *own == theirs => Ok(true),
        (Some(own), Some(theirs)) => {
            Err(refused(format!("this node belongs to cluster {own}, the caller to {theirs}")))
        }
        _ if topic.is_some_and(Topic::is_open_to_strangers) => Ok(false),
        (None, _) => Err(refused("this node belongs to no cluster yet".to_owned())),
        (Some(own), None) => Err(refused(format!("this node belongs to cluster {own}, the caller to none"))),
    }
}

/// How long the caller waits, up to the limit for any request.
pub(super) fn patience(metadata: &MetadataMap) -> Duration {
    let named = metadata.get("grpc-timeout").and_then(|text| timeout(text.to_str().ok()?));
    named.unwrap_or(limits::DEADLINE_MAX).min(limits::DEADLINE_MAX)
}

/// gRPC's way of writing a duration: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u32 = digits.parse().ok()?;
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    unit.checked_mul(count)
}

fn cluster(metadata: &MetadataMap) -> Result<Option<ClusterId>, Status> {
    let Some(text) = metadata.get("sh-cluster") else { return Ok(None) };
    let uuid = text.to_str().ok().and_then(|text| uuid::Uuid::try_parse(text).ok());
    let uuid = uuid.ok_or_else(|| refused("`sh-cluster` is not a cluster".to_owned()))?;
    Ok(Some(ClusterId(uuid.into_bytes())))
}

fn number<N: std::str::FromStr>(metadata: &MetadataMap, key: &'static str) -> Result<N, Status> {
    let text = metadata.get(key).and_then(|text| text.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| refused(format!("`{key}` is missing or not a number")))
}

fn refused(reason: String) -> Status {
    Status::failed_precondition(reason)
}
