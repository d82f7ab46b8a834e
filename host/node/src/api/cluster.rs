//! The cluster: how this node sees it, and what operators change about it.
//!
//! In: `GET /v1/cluster`, and changes, whose bodies are read by a declared shape like any command's. Out: a
//! [`ClusterPage`], which also answers every change, so that its author sees the result. It knows nothing of how a
//! change is made.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use statehouse_abi::describe::{Field, Schema, TextFormat};
use statehouse_abi::value::Value;

use super::handle::Api;
use super::pages;
use super::problem::{Code, Problem};
use super::request_context::RequestContext;
use super::route::HostRequest;
use crate::config::is_host_and_port;
use crate::features::{self, FeatureLevel};
use crate::ids::{Micros, NodeId, PartitionId, Term};
use crate::limits::{CLUSTER_NODES_MAX, HOST_NAME_BYTES_MAX, LOSS_TEXT_CHARS_MAX, SLOT_COUNT};
use crate::rfc3339::print_time;
use crate::system::Wanting;
use crate::system::Word;
use crate::system::cluster::{ClusterView, MachineView, NodeView, ReplicaView};
use crate::system::key_row::KeyRow;
use crate::system::loss_row::AcceptedLoss;

/// `host:port` with the longest port.
const PEER_CHARS_MAX: u32 = HOST_NAME_BYTES_MAX as u32 + ":65535".len() as u32;

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPage {
    /// `None` while the node belongs to no cluster.
    pub cluster: Option<String>,
    /// The node that answers.
    pub node: NodeId,
    /// The version of its host.
    pub version: String,
    pub is_ready: bool,
    pub nodes: Vec<NodePage>,
    pub machines: Vec<MachinePage>,
    /// The keys with which nodes sign certificates, oldest first, including those of nodes that are gone.
    pub keys: Vec<KeyPage>,
    /// The feature level at which the cluster writes; a node of the first release does not report it.
    #[serde(default = "first_level")]
    pub feature_level: FeatureLevel,
    /// What is unusual about time on this node, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Losses that operators have accepted, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<LossPage>,
}

fn first_level() -> FeatureLevel {
    features::BASE
}

/// An operator's decision that a partition continues without acknowledged entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossPage {
    pub machine: String,
    pub partition: PartitionId,
    /// The node whose log had lost them.
    pub node: NodeId,
    pub by: String,
    pub why: String,
    pub time: String,
    /// What the partition had said it was waiting for.
    pub refusal: String,
}

/// A key with which a node has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    pub node: NodeId,
    /// Ed25519, hexadecimal.
    pub key: String,
    /// When it was recorded.
    pub since: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePage {
    pub id: NodeId,
    pub peer: String,
    /// `host:port`, or `https://host:port` where it speaks TLS.
    pub http: Option<String>,
    pub is_reachable: bool,
    pub clock_ahead_us: Option<i64>,
    /// The highest feature level that it understands.
    #[serde(default)]
    pub feature_level_max: Option<FeatureLevel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePage {
    pub name: String,
    pub partitions: Vec<ReplicaPage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaPage {
    pub partition: PartitionId,
    pub leader: Option<NodeId>,
    pub term: Term,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub position: String,
    pub time: String,
    pub head: String,
    /// `running`, or why not.
    pub state: String,
}

/// A change that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChange {
    Init(BTreeMap<NodeId, String>),
    Add(NodeId, String),
    Remove(NodeId),
    Transfer { machine: String, partition: PartitionId, to: NodeId },
    AcceptClock,
    AcceptLoss { machine: String, partition: PartitionId, why: String },
}

pub async fn show(api: &Api, _: HostRequest<'_>) -> Result<Response, Problem> {
    Ok(page(api))
}

pub async fn init(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let context = request.context.clone();
    make(api, ClusterChange::init(request).await?, context).await
}

pub async fn add_node(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let context = request.context.clone();
    make(api, ClusterChange::add(request).await?, context).await
}

pub async fn remove_node(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let context = request.context.clone();
    make(api, ClusterChange::remove(request).await?, context).await
}

pub async fn transfer(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let context = request.context.clone();
    make(api, ClusterChange::transfer(request).await?, context).await
}

pub async fn accept_clock(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let context = request.context.clone();
    make(api, ClusterChange::accept_clock(request).await?, context).await
}

pub async fn accept_loss(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let context = request.context.clone();
    make(api, ClusterChange::accept_loss(request).await?, context).await
}

fn page(api: &Api) -> Response {
    pages::json(&ClusterPage::new(api.cluster.view(), api.check_ready().is_ok()))
}

/// Makes the change, and answers with the cluster as it is afterwards.
///
/// # Errors
/// See [`ClusterError`](crate::system::ClusterError).
async fn make(api: &Api, change: ClusterChange, context: RequestContext) -> Result<Response, Problem> {
    let RequestContext { request_id, caller, deadline } = context;
    tracing::info!(caller = caller.name, %request_id, ?change, "a change of the cluster is requested");
    let cluster = &api.cluster;
    match change {
        ClusterChange::Init(nodes) => cluster.init(nodes, deadline).await?,
        ClusterChange::Add(node, peer) => cluster.add(node, peer, deadline).await?,
        ClusterChange::Remove(node) => cluster.remove(node, deadline).await?,
        ClusterChange::Transfer { machine, partition, to } => {
            cluster.transfer(&machine, partition, to, deadline).await?
        }
        ClusterChange::AcceptClock => cluster.accept_clock(&Wanting { caller, request_id, deadline }).await?,
        ClusterChange::AcceptLoss { machine, partition, why } => {
            let by = caller.name.to_string();
            cluster.accept_loss(Word { machine, partition, by, why }, deadline).await?;
        }
    }
    Ok(page(api))
}

/// Each reads the change that one of the routes asks for; an error names the place of what is wrong.
impl ClusterChange {
    pub async fn init(request: HostRequest<'_>) -> Result<Self, Problem> {
        Ok(Self::Init(members(&body_of(request).await?)?))
    }

    pub async fn add(request: HostRequest<'_>) -> Result<Self, Problem> {
        member(&body_of(request).await?).map(|(node, peer)| Self::Add(node, peer))
    }

    pub async fn remove(request: HostRequest<'_>) -> Result<Self, Problem> {
        check_no_query(&request)?;
        let id = request.segment("id").parse().ok().filter(|id| *id > 0);
        let id = id.ok_or_else(|| Problem::new(Code::BadPath, "a node's id is a whole number from 1"))?;
        Ok(Self::Remove(NodeId(id)))
    }

    pub async fn transfer(request: HostRequest<'_>) -> Result<Self, Problem> {
        let body = body_of(request).await?;
        let (machine, partition) = partition_of(&body);
        Ok(Self::Transfer { machine, partition, to: NodeId(number(&body, "to")) })
    }

    pub async fn accept_clock(mut request: HostRequest<'_>) -> Result<Self, Problem> {
        check_no_query(&request)?;
        if request.take_json().await?.is_empty() {
            return Ok(Self::AcceptClock);
        }
        Err(Problem::new(Code::InvalidChange, "accepting this node's clock needs no body"))
    }

    pub async fn accept_loss(request: HostRequest<'_>) -> Result<Self, Problem> {
        let body = body_of(request).await?;
        let (machine, partition) = partition_of(&body);
        Ok(Self::AcceptLoss { machine, partition, why: text(&body, "why").to_owned() })
    }
}

fn check_no_query(request: &HostRequest<'_>) -> Result<(), Problem> {
    if request.parts.uri.query().is_some_and(|query| !query.is_empty()) {
        return Err(Problem::new(Code::UnknownParameter, "a change takes no query parameters"));
    }
    Ok(())
}

/// The body of a change, which satisfies the schema of its route.
async fn body_of(mut request: HostRequest<'_>) -> Result<Value, Problem> {
    check_no_query(&request)?;
    let json = request.take_json().await?;
    if !json.is_empty() {
        request.check_media_type()?;
    }
    request.read(&json)
}

/// The body of the creation of a cluster.
pub fn init_body() -> Schema {
    let nodes = Schema::Array { items: Box::new(member_body()), max_items: CLUSTER_NODES_MAX };
    Schema::Object { fields: vec![field("nodes", nodes, "All nodes; the asked node must be one of them")] }
}

/// The body that adds a node.
pub fn member_body() -> Schema {
    let peer = field("peer", text_of(PEER_CHARS_MAX), "The address where the other nodes reach it, as host:port");
    Schema::Object { fields: vec![field("id", node_schema(), "The id of the node, as in its configuration"), peer] }
}

/// The body of a transfer of leadership.
pub fn transfer_body() -> Schema {
    about_partition(field("to", node_schema(), "The id of the node that is to become the leader"))
}

/// The body that accepts a loss.
pub fn loss_body() -> Schema {
    let why = text_of(LOSS_TEXT_CHARS_MAX as u32);
    about_partition(field("why", why, "The reason, for everybody who looks at the cluster later"))
}

fn about_partition(last: Field) -> Schema {
    let partition = Schema::Int { min: 0, max: i64::from(SLOT_COUNT) - 1 };
    let fields = vec![
        field("machine", text_of(32), "The name of the machine"),
        field("partition", partition, "The number of the partition"),
        last,
    ];
    Schema::Object { fields }
}

fn node_schema() -> Schema {
    Schema::Int { min: 1, max: i64::MAX }
}

fn text_of(max_chars: u32) -> Schema {
    Schema::Text { min_chars: 1, max_chars, format: TextFormat::Plain }
}

fn field(name: &str, schema: Schema, summary: &str) -> Field {
    Field { name: name.to_owned(), schema, required: true, summary: summary.to_owned() }
}

/// The machine and the partition that a body names.
fn partition_of(body: &Value) -> (String, PartitionId) {
    let partition = u32::try_from(number(body, "partition")).expect("the schema bounds it");
    (text(body, "machine").to_owned(), PartitionId(partition))
}

fn members(body: &Value) -> Result<BTreeMap<NodeId, String>, Problem> {
    let Some(Value::Array(listed)) = body.find("nodes") else { unreachable!("the schema asks for an array") };
    let mut members = BTreeMap::new();
    for node in listed {
        let (id, peer) = member(node)?;
        if members.insert(id, peer).is_some() {
            return Err(Problem::new(Code::InvalidChange, format!("node {id} is listed twice")));
        }
    }
    Ok(members)
}

fn member(body: &Value) -> Result<(NodeId, String), Problem> {
    let (id, peer) = (NodeId(number(body, "id")), text(body, "peer"));
    if !is_host_and_port(peer) {
        let detail = format!(
            "`{peer}` is not an address where node {id} can be reached; send host:port, like its `peer.advertise`"
        );
        return Err(Problem::new(Code::InvalidChange, detail));
    }
    Ok((id, peer.to_owned()))
}

fn number(body: &Value, field: &str) -> u64 {
    let number = body.find(field).and_then(Value::as_int).and_then(|number| u64::try_from(number).ok());
    number.expect("the schema asks for a number that is not negative")
}

fn text<'v>(body: &'v Value, field: &str) -> &'v str {
    body.find(field).and_then(Value::as_text).expect("the schema asks for a text")
}

impl ClusterPage {
    pub fn new(view: ClusterView, is_ready: bool) -> Self {
        let ClusterView { cluster, node, nodes, machines, keys, feature_level, losses, remarks } = view;
        let nodes = nodes.into_iter().map(NodePage::from).collect();
        let machines = machines.into_iter().map(MachinePage::from).collect();
        let key = |row: KeyRow| KeyPage {
            node: row.node(),
            key: row.public().to_string(),
            since: print_time(Micros(row.time)),
        };
        let keys = keys.into_iter().map(key).collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let losses = losses.into_iter().map(LossPage::from).collect();
        Self { cluster, node, version, is_ready, nodes, machines, keys, feature_level, losses, remarks }
    }
}

impl From<AcceptedLoss> for LossPage {
    fn from(loss: AcceptedLoss) -> Self {
        let AcceptedLoss { machine, partition, node, by, why, time, refusal } = loss;
        let (partition, node, time) = (PartitionId(partition), NodeId(node), print_time(Micros(time)));
        Self { machine, partition, node, by, why, time, refusal }
    }
}

impl From<NodeView> for NodePage {
    fn from(view: NodeView) -> Self {
        let NodeView { id, peer, http, is_reachable, clock_ahead, feature_level_max } = view;
        Self { id, peer, http, is_reachable, clock_ahead_us: clock_ahead.map(|ahead| ahead.0), feature_level_max }
    }
}

impl From<MachineView> for MachinePage {
    fn from(view: MachineView) -> Self {
        Self { name: view.name, partitions: view.partitions.into_iter().map(ReplicaPage::from).collect() }
    }
}

impl From<ReplicaView> for ReplicaPage {
    fn from(view: ReplicaView) -> Self {
        let ReplicaView { partition, leader, term, voters, learners, position, time, head, state } = view;
        let (position, time, head) = (position.to_string(), print_time(time), head.to_string());
        Self { partition, leader, term, voters, learners, position, time, head, state }
    }
}
