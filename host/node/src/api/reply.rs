//! Replies: the router's answer to a command becomes a status, headers and a body, alone or as a line of a batch.
//!
//! In: an [`Answer`]. Out: a [`CommandReply`]. It knows nothing of how the command was asked.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use statehouse_abi::cold::{Rejection, host_rejection};
use statehouse_abi::describe::Describe;
use statehouse_abi::value::Value;

use super::problem::{Code, Problem};
use super::url;
use crate::ids::{CommandId, Fingerprint, Micros, Position};
use crate::json::{Json, print};
use crate::router::answer::{Answer, RecordedOutcome};
use crate::saga::ABORTED;

pub const POSITION: HeaderName = HeaderName::from_static("statehouse-position");
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The answer to one command.
pub struct CommandReply {
    pub position: Option<Position>,
    pub is_replayed: bool,
    pub content: ReplyContent,
}

pub enum ReplyContent {
    Success(StatusCode, Value),
    Problem(Problem),
}

impl CommandReply {
    /// `machine` and `id` are those of the command; `describe` is that of the module that decided it.
    pub fn new(answer: Answer, machine: &str, describe: &Describe, id: CommandId) -> Self {
        let transaction_id = || Value::Text(id.to_string());
        match answer {
            Answer::Done(RecordedOutcome { position, is_replayed, status, body, .. }) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                Self { position: Some(position), is_replayed, content: ReplyContent::Success(status, body) }
            }
            Answer::Rejected(recorded, rejection) => {
                let (position, is_replayed) = (Some(recorded.position), recorded.is_replayed);
                let problem = rejected(recorded, rejection, describe, transaction_id());
                Self { position, is_replayed, content: ReplyContent::Problem(problem) }
            }
            Answer::Refused(refusal) => Problem::from(refusal).with("Transaction_id", transaction_id()).into(),
            Answer::Conflict { fields, position } => {
                let detail = format!(
                    "this id belongs to a command with other content; it differs in {}; use a new id",
                    if fields.is_empty() { "the command".to_owned() } else { fields.join(", ") }
                );
                let fields = Value::Array(fields.into_iter().map(Value::Text).collect());
                let problem = Problem::new(Code::IdReused, detail)
                    .with("fields", fields)
                    .with("Transaction_id", transaction_id())
                    .with("position", Value::Text(position.to_string()));
                Self { position: Some(position), ..problem.into() }
            }
            Answer::Unavailable(unavailable) => {
                Problem::from(unavailable).with("Transaction_id", transaction_id()).into()
            }
            Answer::Unknown { home, expires, fingerprint } => {
                let resolve = resolve_url(machine, id, Some(&home), expires, Some(fingerprint));
                let detail =
                    "the deadline passed while the command was under way; send the same id again, or ask `resolve`";
                Problem::new(Code::OutcomeUnknown, detail)
                    .with("Transaction_id", transaction_id())
                    .with("resolve", Value::Text(resolve))
                    .with_retry_after(Duration::from_secs(1))
                    .into()
            }
        }
    }

    pub fn status(&self) -> u16 {
        match &self.content {
            ReplyContent::Success(status, _) => status.as_u16(),
            ReplyContent::Problem(problem) => problem.status(),
        }
    }

    pub fn into_response(self, request_id: &str) -> Response {
        let mut response = match self.content {
            ReplyContent::Success(status, body) => {
                let is_empty = status == StatusCode::NO_CONTENT;
                let body = if is_empty { Body::empty() } else { Body::from(print(&Json(&body))) };
                let mut response = Response::new(body);
                *response.status_mut() = status;
                if !is_empty {
                    response.headers_mut().insert(CONTENT_TYPE, JSON);
                }
                response
            }
            ReplyContent::Problem(problem) => problem.into_response(request_id),
        };
        if let Some(position) = self.position {
            response.headers_mut().insert(POSITION, position_value(&position));
        }
        if self.is_replayed {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }

    /// `{status, body}`, for a batch.
    pub fn line<'a>(&'a self, request_id: &'a str) -> BatchLine<'a> {
        BatchLine { reply: self, request_id }
    }
}

impl From<Problem> for CommandReply {
    fn from(problem: Problem) -> Self {
        Self { position: None, is_replayed: false, content: ReplyContent::Problem(problem) }
    }
}

/// Where to ask for the definite outcome of a command: `Location` of an accepted one, `resolve` of others.
pub fn resolve_url(
    machine: &str,
    id: CommandId,
    home: Option<&str>,
    expires: Micros,
    fingerprint: Option<Fingerprint>,
) -> String {
    let home = home.map_or_else(String::new, |home| format!("home={}&", url::encode(home)));
    let fingerprint = fingerprint.map_or_else(String::new, |fingerprint| format!("&fingerprint={fingerprint}"));
    format!("/v1/{machine}/commands/{id}?{home}expires={}{fingerprint}", expires.0)
}

pub fn position_value(position: &Position) -> HeaderValue {
    HeaderValue::try_from(position.to_string()).expect("a position is digits, dots and a tilde")
}

fn rejected(recorded: RecordedOutcome, rejection: Rejection, describe: &Describe, transaction_id: Value) -> Problem {
    let declared = describe.rejections.iter().find(|declared| declared.code == rejection.code);
    let title = declared.map_or_else(|| host_title(&rejection.code).to_owned(), |declared| declared.title.clone());
    let status = if (400..600).contains(&recorded.status) { recorded.status } else { 422 };
    let problem = Problem::of_module(rejection.code, status, title, rejection.detail)
        .with("Status", Value::text("rejected"))
        .with("Transaction_id", transaction_id)
        .with("position", Value::Text(recorded.position.to_string()));
    let rendered = if let Value::Map(members) = recorded.body { members } else { Vec::new() };
    rendered.into_iter().fold(problem, |problem, (name, value)| problem.with(name, value))
}

/// Titles of the rejections that the host records itself.
fn host_title(code: &str) -> &'static str {
    match code {
        host_rejection::MODULE_TRAP => "The module failed on this command",
        host_rejection::BUDGET => "The module took too long for this command",
        host_rejection::MODULE_INCONSISTENT => "The module contradicts itself on this command",
        host_rejection::KEYS => "The module touched too many undeclared keys",
        ABORTED => "An operator ended the command",
        _ => "Rejected",
    }
}

/// One line of a batch's answer.
pub struct BatchLine<'a> {
    reply: &'a CommandReply,
    request_id: &'a str,
}

impl BatchLine<'_> {
    pub fn to_value(&self) -> Value {
        let body = match &self.reply.content {
            ReplyContent::Success(_, body) => body.clone(),
            ReplyContent::Problem(problem) => problem.instance(self.request_id).to_value(),
        };
        Value::map([("status", Value::Int(i128::from(self.reply.status()))), ("body", body)])
    }
}

impl Serialize for BatchLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("status", &self.reply.status())?;
        match &self.reply.content {
            ReplyContent::Success(_, body) => map.serialize_entry("body", &Json(body))?,
            ReplyContent::Problem(problem) => map.serialize_entry("body", &problem.instance(self.request_id))?,
        }
        map.end()
    }
}
