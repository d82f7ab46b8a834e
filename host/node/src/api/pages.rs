//! The host's own pages: machines, health, readiness, metrics.
//!
//! In: what the router says of itself. Out: JSON, or text for Prometheus. They know nothing of commands.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde::Serialize;

use super::handle::Api;
use super::problem::{Code, Problem};
use super::reply::JSON;
use super::route::HostRequest;
use crate::json::print;
use crate::rfc3339::print_time;
use crate::router::{MachineStatus, PartitionStatus};

/// A response with JSON.
pub fn json(what: &impl Serialize) -> Response {
    with_type(print(what), JSON)
}

pub async fn machines(api: &Api, _: HostRequest<'_>) -> Result<Response, Problem> {
    let machines = api.router.machines();
    Ok(json(&machines.iter().map(|machine| MachinePage::from(machine.status())).collect::<Vec<_>>()))
}

/// # Errors
/// 404.
pub async fn machine(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    Ok(json(&MachinePage::from(api.find_machine(request.machine_name())?.status())))
}

pub fn health() -> Response {
    with_type("ok\n".into(), HeaderValue::from_static("text/plain"))
}

/// # Errors
/// 503 with everything that is not ready.
pub fn ready(api: &Api) -> Result<Response, Problem> {
    api.check_ready().map_err(not_ready)?;
    let remarks = api.cluster.remarks();
    let text: String =
        std::iter::once("ok").chain(remarks.iter().map(String::as_str)).map(|line| format!("{line}\n")).collect();
    Ok(with_type(text.into(), HeaderValue::from_static("text/plain")))
}

/// The problem of a node that does not serve everything yet.
pub fn not_ready(missing: Vec<String>) -> Problem {
    Problem::new(Code::NotReady, missing.join(", ")).with_retry_after(Duration::from_secs(1))
}

pub async fn metrics(api: &Api, _: HostRequest<'_>) -> Result<Response, Problem> {
    let rendered = api.metrics.as_ref().map_or_else(String::new, |metrics| metrics.render());
    Ok(with_type(rendered.into_bytes(), HeaderValue::from_static("text/plain; version=0.0.4")))
}

fn with_type(body: Vec<u8>, content_type: HeaderValue) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[derive(Serialize)]
struct MachinePage {
    name: String,
    module: String,
    version: String,
    partitions: Vec<PartitionPage>,
}

#[derive(Serialize)]
struct PartitionPage {
    partition: u32,
    role: String,
    state: String,
    position: String,
    time: String,
    head: String,
    queue_bytes: usize,
    log_bytes: u64,
}

impl From<MachineStatus> for MachinePage {
    fn from(status: MachineStatus) -> Self {
        let MachineStatus { name, module, version, partitions } = status;
        let partitions = partitions.into_iter().map(PartitionPage::from).collect();
        Self { name, module: module.to_string(), version, partitions }
    }
}

impl From<PartitionStatus> for PartitionPage {
    fn from(status: PartitionStatus) -> Self {
        let PartitionStatus { partition, role, position, time, head, queue_bytes, log_bytes, state } = status;
        let (position, time, head) = (position.to_string(), print_time(time), head.to_string());
        Self { partition: partition.0, role, state, position, time, head, queue_bytes, log_bytes }
    }
}
