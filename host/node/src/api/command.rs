//! One command: its body becomes a value, the router decides, the answer becomes a response.
//!
//! This is the hot path: the body is read once, straight into the bytes the guest gets, and little is allocated beside
//! them. It knows nothing of planning, partitions or what the command means.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::body::{check_media_type, read_body};
use super::handle::{Api, network_of};
use super::mount::{GivenFields, Mount, MountRoute};
use super::places::ClientNetwork;
use super::problem::{Code, Problem};
use super::reply::{CommandReply, resolve_url};
use super::request_context::{PREFERENCE_APPLIED, RequestContext, idempotency_key, prefers_async};
use super::share::{Share, ShareKind, Shares};
use crate::ids::CommandId;
use crate::json::{self, read_json};
use crate::limits::BODY_BYTES_MAX;
use crate::router::AcceptedCommand;
use crate::router::answer::CommandRequest;
use crate::router::machine::Machine;

pub async fn post(
    api: &Api,
    machine: Arc<Machine>,
    mount: &Mount,
    (command, route, given): (usize, &MountRoute, GivenFields),
    context: RequestContext,
    (parts, body): (&Parts, Body),
) -> Result<Response, Problem> {
    if parts.uri.query().is_some_and(|query| !query.is_empty()) {
        return Err(Problem::new(Code::UnknownParameter, "a command takes no query parameters"));
    }
    let network = network_of(parts);
    api.shares.check_rejections(network)?;
    let json = read_body(body, BODY_BYTES_MAX, context.deadline).await?;
    if !json.is_empty() {
        check_media_type(&parts.headers, &["application/json"])?;
    }
    let body = read_json(&route.shape, &given, &json)?;
    let id = command_id(&body, idempotency_key(&parts.headers)?)?;
    let request_id = context.request_id.clone();
    let requester = api.requester(&context.caller, parts);
    let request = request(mount.command_name(command), body, id, context);
    if prefers_async(&parts.headers) {
        let place = api.shares.take(ShareKind::Unattended, 1, &requester)?;
        return Ok(match machine.accept(request).await {
            Ok(accepted) => respond_accepted(accepted, mount, id, (api.shares.clone(), network, place)),
            Err(answer) => CommandReply::new(answer, &mount.machine, &mount.describe, id).into_response(&request_id),
        });
    }
    let answer = machine.submit(vec![request]).await.pop().expect("one answer per request");
    api.shares.on_rejected(network, usize::from(answer.is_new_rejection()));
    Ok(CommandReply::new(answer, &mount.machine, &mount.describe, id).into_response(&request_id))
}

/// The request for the router.
pub fn request(command: Arc<str>, body: json::Body, id: CommandId, context: RequestContext) -> CommandRequest {
    let RequestContext { caller, request_id, deadline } = context;
    CommandRequest { command, body: body.cbor, id, caller, request_id, deadline }
}

/// The id: the body's, else the header's, else a new one.
///
/// # Errors
/// Body and header differ.
pub fn command_id(body: &json::Body, header: Option<CommandId>) -> Result<CommandId, Problem> {
    match (body.id.map(CommandId), header) {
        (Some(body), Some(header)) if body != header => {
            let detail = format!("the body says {body} and Idempotency-Key {header}; send one of them");
            Err(Problem::new(Code::BadHeader, detail))
        }
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Ok(CommandId(uuid::Uuid::now_v7().into_bytes())),
    }
}

/// The place of a command that nobody waits for, and the network against which its rejection counts.
type UnattendedPlace = (Arc<Shares>, Option<ClientNetwork>, Share);

/// Answers 202: the command is carried out without the client, which asks at `Location` for the outcome. The command
/// keeps its place until it is over.
fn respond_accepted(accepted: AcceptedCommand, mount: &Mount, id: CommandId, place: UnattendedPlace) -> Response {
    let AcceptedCommand { home, expires, fingerprint, .. } = &accepted;
    let location = resolve_url(&mount.machine, id, Some(home), *expires, Some(*fingerprint));
    tokio::spawn(async move {
        let (shares, network, _place) = place;
        let is_rejected = accepted.carry_out().await.is_some_and(|answer| answer.is_new_rejection());
        shares.on_rejected(network, usize::from(is_rejected));
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    let location = location.try_into().expect("names of machines, uuids and encoded entities are ASCII");
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    response
}
