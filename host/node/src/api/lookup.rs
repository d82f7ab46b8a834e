//! What became of a command: `GET /v1/{machine}/commands/{id}`; and which commands are under way.
//!
//! In: an id, and the home entity if the client knows it. Out: a state that is definite or says until when it is not:
//! `recorded` · `in_flight` · `not_executed` · `undecided`. It knows nothing of where outcomes are kept.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::Response;
use statehouse_abi::cold::Phase;
use statehouse_abi::value::Value;

use super::handle::Api;
use super::problem::{Code, Problem};
use super::reply::{JSON, POSITION, position_value, resolve_url};
use super::roles::WATCH_ROLES;
use super::route::HostRequest;
use super::url::query_pairs;
use crate::ids::{CommandId, Micros, NodeId};
use crate::json::{Json, print};
use crate::rfc3339::print_time;
use crate::router::answer::{AwaitedCall, Caller, CommandLookup, CommandQuestion, CommandStatus, InFlightStatus};

const ID_REUSED: &str =
    "the id belongs to another command here; this one was not executed and will not be, send it with a new id";

pub async fn get(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let machine = api.find_machine(request.machine_name())?;
    let (id, context) = (request.segment("id"), request.context);
    let id: CommandId = id.parse().map_err(|_| Problem::new(Code::BadPath, "a command's id is a hyphenated uuid"))?;
    let pairs = query_pairs(request.parts.uri.query().unwrap_or_default())
        .ok_or_else(|| Problem::new(Code::BadParameter, "the query string is not percent-encoded UTF-8"))?;
    let find = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_ref());
    if pairs.iter().any(|(name, _)| !["home", "expires", "fingerprint"].contains(&name.as_ref())) {
        return Err(Problem::new(Code::UnknownParameter, "only `home`, `expires` and `fingerprint` are known here"));
    }
    let expires = find("expires").map(|expires| {
        let number = expires.parse().map(Micros);
        number
            .map_err(|_| Problem::new(Code::BadParameter, "`expires` must be the number from `resolve` or `Location`"))
    });
    let fingerprint = find("fingerprint").map(|fingerprint| {
        let detail = "`fingerprint` must be the one from `resolve` or `Location`, 64 hexadecimal digits";
        fingerprint.parse().map_err(|_| Problem::new(Code::BadParameter, detail))
    });
    let (home, expires, fingerprint) = (find("home"), expires.transpose()?, fingerprint.transpose()?);
    let question = CommandQuestion { id, home: home.map(str::to_owned), expires, fingerprint };
    let lookup = machine.find_command(question, context.caller.clone(), context.deadline).await?;
    if let CommandLookup::Ambiguous(ambiguity) = lookup {
        return Err(ambiguity.into());
    }
    if let CommandLookup::Recorded { status, .. } | CommandLookup::InFlight(status) = &lookup
        && !context.caller.may_see(&status.caller)
    {
        let detail = "another caller sent this command, and this token is bound to entities: ask with the token that \
            sent it";
        return Err(Problem::new(Code::EntityForbidden, detail));
    }
    let resolve = |until| resolve_url(machine.name(), id, home, until, fingerprint);
    Ok(response(id, lookup, Senders::to(&context.caller), resolve))
}

/// `GET /v1/{machine}/commands?state=in_flight`: what is under way, oldest first, as far as this node knows.
pub async fn list(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let machine = api.find_machine(request.machine_name())?;
    let caller = &request.context.caller;
    let pairs = query_pairs(request.parts.uri.query().unwrap_or_default())
        .ok_or_else(|| Problem::new(Code::BadParameter, "the query string is not percent-encoded UTF-8"))?;
    if let Some((name, _)) = pairs.iter().find(|(name, _)| name != "state") {
        return Err(Problem::new(Code::UnknownParameter, format!("only `state` is known here, not `{name}`")));
    }
    if !pairs.iter().any(|(_, state)| state == "in_flight") {
        let detail = "say which commands: `state=in_flight` lists those that have started and are not over";
        return Err(Problem::new(Code::BadParameter, detail));
    }
    let senders = Senders::to(caller);
    let seen = machine.list_in_flight()?.into_iter().filter(|status| caller.may_see(&status.caller));
    let items = seen.map(|status| in_flight(status, senders)).collect();
    let mut response = Response::new(Body::from(print(&Json(&Value::map([("items", Value::Array(items))])))));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// Whether an answer names the sender of a command. As in the event stream, only those who watch the node see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Senders {
    Shown,
    Hidden,
}

impl Senders {
    fn to(caller: &Caller) -> Self {
        if caller.roles & WATCH_ROLES == 0 { Self::Hidden } else { Self::Shown }
    }

    /// `vouched` is the node that vouched to the leader for the caller, if the journal names it.
    fn members(self, caller: String, request_id: String, vouched: Option<NodeId>) -> Vec<(&'static str, Value)> {
        if self == Self::Hidden {
            return Vec::new();
        }
        let vouched = vouched.map(|node| ("vouched_by", Value::Int(node.0.into())));
        let sender = [("caller", Value::Text(caller)), ("request_id", Value::Text(request_id))];
        sender.into_iter().chain(vouched).collect()
    }
}

fn response(id: CommandId, lookup: CommandLookup, senders: Senders, resolve: impl Fn(Micros) -> String) -> Response {
    let position = if let CommandLookup::Recorded { status, .. } = &lookup { Some(status.position) } else { None };
    let is_pending = matches!(lookup, CommandLookup::Undecided { .. } | CommandLookup::InFlight(_));
    let mut response = Response::new(Body::from(print(&Json(&shown(id, lookup, senders, resolve)))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    if let Some(position) = position {
        headers.insert(POSITION, position_value(&position));
    }
    if is_pending {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn shown(id: CommandId, lookup: CommandLookup, senders: Senders, resolve: impl Fn(Micros) -> String) -> Value {
    let id = ("id", Value::Text(id.to_string()));
    let state = |state: &str| ("state", Value::text(state));
    match lookup {
        CommandLookup::Recorded { status, rendered } => recorded(*status, rendered, senders),
        CommandLookup::InFlight(status) => in_flight(*status, senders),
        CommandLookup::NotExecuted | CommandLookup::Ambiguous(_) => Value::map([id, state("not_executed")]),
        CommandLookup::Taken { position } => {
            let detail = ("detail", Value::text(ID_REUSED));
            let position = ("id_used_at", Value::Text(position.to_string()));
            Value::map([id, state("not_executed"), ("reason", Value::text("id_reused")), detail, position])
        }
        // Without `expires` each request asks anew, about all that was submitted by now. At `resolve` the question
        // stays the same.
        CommandLookup::Undecided { until } => {
            let resolve = ("resolve", Value::Text(resolve(until)));
            Value::map([id, state("undecided"), ("until", Value::Text(print_time(until))), resolve])
        }
    }
}

fn recorded(status: CommandStatus, rendered: Value, senders: Senders) -> Value {
    let CommandStatus { id, command, caller, vouched, request_id, home, position, time, .. } = status;
    let (rejection, phases, panic) = (status.rejection, status.phases, status.panic);
    let outcome = if rejection.is_some() { "rejected" } else { "done" };
    let mut members = vec![
        ("id", Value::Text(id.to_string())),
        ("state", Value::text("recorded")),
        ("outcome", Value::text(outcome)),
        ("command", Value::Text(command)),
        ("position", Value::Text(position.to_string())),
        ("time", Value::Text(print_time(time))),
        ("phases", Value::Array(phases.into_iter().map(phase).collect())),
        ("result", rendered),
    ];
    members.extend(home.map(|home| ("home", Value::Text(home))));
    members.extend(senders.members(caller, request_id, vouched));
    if let Some(rejection) = rejection {
        let rejection = [("code", Value::Text(rejection.code)), ("detail", Value::Text(rejection.detail))];
        members.push(("rejection", Value::map(rejection)));
    }
    if let Some(panic) = panic {
        members.push(("panic", Value::Text(panic)));
    }
    Value::map(members)
}

/// A command that has started and continues in other partitions.
fn in_flight(status: CommandStatus, senders: Senders) -> Value {
    let CommandStatus { id, command, caller, vouched, request_id, home, position, time, phases, in_flight, .. } =
        status;
    let InFlightStatus { waits_for, orders } = in_flight.unwrap_or_default();
    let members = [
        ("id", Value::Text(id.to_string())),
        ("state", Value::text("in_flight")),
        ("command", Value::Text(command)),
        ("position", Value::Text(position.to_string())),
        ("started", Value::Text(print_time(time))),
        ("phases", Value::Array(phases.into_iter().map(phase).collect())),
        ("waits_for", Value::Array(waits_for.into_iter().map(waiting).collect())),
        ("orders", Value::Array(orders.into_iter().map(Value::text).collect())),
    ];
    let home = home.map(|home| ("home", Value::Text(home)));
    Value::map(members.into_iter().chain(home).chain(senders.members(caller, request_id, vouched)))
}

fn waiting(waiting: AwaitedCall) -> Value {
    let mut members = vec![
        ("partition", Value::Int(waiting.partition.0.into())),
        ("what", Value::text(waiting.what)),
        ("reason", Value::text(waiting.reason)),
        ("refused", Value::Int(waiting.refused_count.into())),
        ("settled", Value::Bool(waiting.is_settled)),
    ];
    if let Some(code) = waiting.code {
        members.push(("code", Value::Text(code)));
    }
    Value::map(members)
}

fn phase(phase: Phase) -> Value {
    let mut members = vec![
        ("name", Value::Text(phase.name)),
        ("time", Value::Text(print_time(Micros(phase.time)))),
        ("position", Value::Text(phase.position)),
    ];
    if let Some(detail) = phase.detail {
        members.push(("detail", Value::Text(detail)));
    }
    Value::map(members)
}
