//! Problems (RFC 9457): the only place where errors become HTTP statuses.
//!
//! `type` is `urn:statehouse:problem:<code>` and stable; `detail` says what to do; `instance` is the request id. A
//! module's refusals and rejections use their own codes and declared statuses beside those of the host:
//!
//! | status | codes |
//! |---|---|
//! | 400 | `malformed_body` `unknown_field` `duplicate_field` `missing_field` `field_in_path` `wrong_type` `not_integer` `out_of_range` `bad_length` `not_listed` `bad_uuid` `bad_name` `too_many_items` `too_deep` – `pointer` and `field` name the place |
//! | 400 | `https_required`: HTTP without TLS where TLS is spoken, said by [`tls`](super::tls) |
//! | 400 | `bad_path` `bad_parameter` `unknown_parameter` `bad_header` `unknown_command` `empty_batch` |
//! | 401 403 | `unauthenticated` · `forbidden` `entity_forbidden`: the token is bound to other entities · `foreign_host` `foreign_origin`: without tokens, a web page of somebody else may be asking |
//! | 404 | `not_found` (no such route) · `unknown_machine` `unknown_node` `unknown_partition` `unknown_module` `unknown_replay` `unknown_view` `unknown_webhook` |
//! | 405 408 410 413 415 | `method_not_allowed` · `body_timeout` `slow_reader` · `position_gone` `history_released` · `body_too_large` · `wrong_content_type` `wrong_content_encoding` |
//! | 409 | `cluster_exists` `node_id_used` `no_peer` `node_refused`: the cluster, or a node, is not in a state for this change · `step_refused`: what a module lacks for its next step, and how to get it · `replay_unfinished` `replays_full` · `id_ambiguous`: commands of several homes have the id, or another caller's command has it; name yours with `home`; `homes` are those that the caller may see |
//! | 409 | `not_in_flight` `several_homes` `participant_unavailable` `order_refused` (`reason` says which rule): an order has no effect |
//! | 422 | `invalid_change`: of the cluster · `id_reused`: the id is known with other content, `fields` differ |
//! | 429 | `rejection_limit` `too_many_at_once` – not accepted, `Retry-After` |
//! | 500 | `internal` (a bug of the host) · `module_fault` (of the module) |
//! | 503 | `not_ready` (`/readyz`) · `no_cluster` `node_unreachable` `secret_not_kept` – nothing changed · `overloaded` `no_leader` `halted` `draining` `not_activated` `shutting_down` – not accepted, `Retry-After` |
//! | 504 | `outcome_unknown` (with `resolve`; send the same id again) · `read_timeout` · `change_unfinished` (of the cluster; send it again) |
//! | 507 | `storage_full` – not accepted, `Retry-After` |

mod failed;
mod order;

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::ser::{Serialize, SerializeMap, Serializer};
use statehouse_abi::cold::Refusal;
use statehouse_abi::value::Value;

use crate::json::{BodyError, Json, JsonFault, print};
use crate::limits::PROBLEM_DETAIL_CHARS_MAX;
use crate::router::answer::{Obstacle, Unavailability, UnavailableReason};

/// The codes of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    MalformedBody,
    UnknownField,
    DuplicateField,
    MissingField,
    FieldInPath,
    WrongType,
    NotInteger,
    OutOfRange,
    BadLength,
    NotListed,
    BadUuid,
    BadName,
    TooManyItems,
    TooDeep,
    BadPath,
    BadParameter,
    UnknownParameter,
    BadHeader,
    UnknownCommand,
    EmptyBatch,
    Unauthenticated,
    Forbidden,
    ForeignHost,
    ForeignOrigin,
    EntityForbidden,
    NotFound,
    UnknownMachine,
    UnknownNode,
    UnknownPartition,
    UnknownModule,
    UnknownReplay,
    UnknownView,
    UnknownWebhook,
    MethodNotAllowed,
    BodyTimeout,
    ClusterExists,
    NodeIdUsed,
    NoPeer,
    NodeRefused,
    StepRefused,
    NotInFlight,
    SeveralHomes,
    ParticipantUnavailable,
    OrderRefused,
    ReplayUnfinished,
    ReplaysFull,
    PositionGone,
    HistoryReleased,
    OutcomeReleased,
    IdAmbiguous,
    BodyTooLarge,
    WrongContentType,
    WrongContentEncoding,
    IdReused,
    InvalidChange,
    RejectionLimit,
    TooManyAtOnce,
    Internal,
    ModuleFault,
    NotReady,
    ViewNotServed,
    NoCluster,
    NodeUnreachable,
    SecretNotKept,
    Overloaded,
    Expired,
    NoLeader,
    Halted,
    Removed,
    Draining,
    NotActivated,
    ShuttingDown,
    OutcomeUnknown,
    ReadTimeout,
    ChangeUnfinished,
    StorageFull,
    SlowReader,
}

impl Code {
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Code, status and title.
    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::MalformedBody => ("malformed_body", 400, "The body is malformed"),
            Self::UnknownField => ("unknown_field", 400, "A field is unknown"),
            Self::DuplicateField => ("duplicate_field", 400, "A field is given twice"),
            Self::MissingField => ("missing_field", 400, "A field is missing"),
            Self::FieldInPath => ("field_in_path", 400, "A field belongs in the path only"),
            Self::WrongType => ("wrong_type", 400, "A value has the wrong type"),
            Self::NotInteger => ("not_integer", 400, "A number is not an integer"),
            Self::OutOfRange => ("out_of_range", 400, "A number is out of range"),
            Self::BadLength => ("bad_length", 400, "A text is too short or too long"),
            Self::NotListed => ("not_listed", 400, "A value is not one of those allowed"),
            Self::BadUuid => ("bad_uuid", 400, "A UUID is malformed"),
            Self::BadName => ("bad_name", 400, "A name has characters that are not allowed"),
            Self::TooManyItems => ("too_many_items", 400, "There are too many items"),
            Self::TooDeep => ("too_deep", 400, "The body is nested too deeply"),
            Self::BadPath => ("bad_path", 400, "The path is malformed"),
            Self::BadParameter => ("bad_parameter", 400, "A parameter is malformed"),
            Self::UnknownParameter => ("unknown_parameter", 400, "A parameter is unknown"),
            Self::BadHeader => ("bad_header", 400, "A header is malformed"),
            Self::UnknownCommand => ("unknown_command", 400, "The command is unknown"),
            Self::EmptyBatch => ("empty_batch", 400, "The batch is empty"),
            Self::Unauthenticated => ("unauthenticated", 401, "The caller is unknown"),
            Self::Forbidden => ("forbidden", 403, "The caller may not do this"),
            Self::ForeignHost => ("foreign_host", 403, "The request is for another host"),
            Self::ForeignOrigin => ("foreign_origin", 403, "The request comes from a page of another origin"),
            Self::EntityForbidden => ("entity_forbidden", 403, "The token is bound to other entities"),
            Self::NotFound => ("not_found", 404, "There is nothing here"),
            Self::UnknownMachine => ("unknown_machine", 404, "There is no such machine"),
            Self::UnknownNode => ("unknown_node", 404, "There is no such node"),
            Self::UnknownPartition => ("unknown_partition", 404, "There is no such partition"),
            Self::UnknownModule => ("unknown_module", 404, "There is no such module"),
            Self::UnknownReplay => ("unknown_replay", 404, "There is no such replay"),
            Self::UnknownView => ("unknown_view", 404, "There is no such view"),
            Self::UnknownWebhook => ("unknown_webhook", 404, "There is no such webhook"),
            Self::NotInFlight => ("not_in_flight", 409, "The command is not in flight"),
            Self::SeveralHomes => ("several_homes", 409, "Several commands have this id"),
            Self::ParticipantUnavailable => ("participant_unavailable", 409, "A participant cannot be reached"),
            Self::OrderRefused => ("order_refused", 409, "The protocol does not allow this order"),
            Self::ReplayUnfinished => ("replay_unfinished", 409, "The replay is not finished"),
            Self::ReplaysFull => ("replays_full", 409, "There are too many replays"),
            Self::StepRefused => ("step_refused", 409, "The module cannot take this step now"),
            Self::MethodNotAllowed => ("method_not_allowed", 405, "The method is not allowed here"),
            Self::BodyTimeout => ("body_timeout", 408, "The body did not arrive in time"),
            Self::ClusterExists => ("cluster_exists", 409, "The node belongs to a cluster"),
            Self::NodeIdUsed => ("node_id_used", 409, "The node's id was used before"),
            Self::NoPeer => ("no_peer", 409, "The node takes no part in clusters"),
            Self::NodeRefused => ("node_refused", 409, "A node refused the change"),
            Self::IdAmbiguous => ("id_ambiguous", 409, "Several commands have this id"),
            Self::PositionGone => ("position_gone", 410, "The position is not in this history"),
            Self::HistoryReleased => ("history_released", 410, "This node has not kept the journal that far back"),
            Self::OutcomeReleased => ("outcome_released", 410, "The outcome is not kept any more"),
            Self::BodyTooLarge => ("body_too_large", 413, "The body is too large"),
            Self::WrongContentType => ("wrong_content_type", 415, "The content type is wrong"),
            Self::WrongContentEncoding => ("wrong_content_encoding", 415, "The content encoding is not understood"),
            Self::IdReused => ("id_reused", 422, "The id was used for another command"),
            Self::InvalidChange => ("invalid_change", 422, "The change makes no sense"),
            Self::RejectionLimit => ("rejection_limit", 429, "Too many rejected commands"),
            Self::TooManyAtOnce => ("too_many_at_once", 429, "Too much at the same time"),
            Self::Internal => ("internal", 500, "The host failed"),
            Self::ModuleFault => ("module_fault", 500, "The module failed"),
            Self::NotReady => ("not_ready", 503, "The node is not ready"),
            Self::ViewNotServed => ("view_not_served", 503, "The view does not answer now"),
            Self::NoCluster => ("no_cluster", 503, "The node belongs to no cluster"),
            Self::NodeUnreachable => ("node_unreachable", 503, "A node does not answer"),
            Self::SecretNotKept => ("secret_not_kept", 503, "Too few nodes have stored the secret"),
            Self::Overloaded => ("overloaded", 503, "The node is overloaded"),
            Self::Expired => ("expired", 503, "The deadline passed before the command was decided"),
            Self::NoLeader => ("no_leader", 503, "No leader is known"),
            Self::Halted => ("halted", 503, "The partition is halted"),
            Self::Removed => ("removed", 503, "This node was removed from its cluster"),
            Self::Draining => ("draining", 503, "A rollback is under way"),
            Self::NotActivated => ("not_activated", 503, "The partition cannot activate its module"),
            Self::ShuttingDown => ("shutting_down", 503, "The node is shutting down"),
            Self::OutcomeUnknown => ("outcome_unknown", 504, "The outcome is not known yet"),
            Self::ReadTimeout => ("read_timeout", 504, "The read did not finish in time"),
            Self::ChangeUnfinished => ("change_unfinished", 504, "The change is not finished yet"),
            Self::StorageFull => ("storage_full", 507, "The disk is full"),
            // The last event of a stream, never an answer.
            Self::SlowReader => ("slow_reader", 408, "The reader of the stream is too slow"),
        }
    }
}

/// An error on its way to the client. It is boxed, so that results stay small in the usual case.
#[derive(Clone, Debug)]
pub struct Problem(Box<ProblemFacts>);

#[derive(Clone, Debug)]
struct ProblemFacts {
    code: Cow<'static, str>,
    title: Cow<'static, str>,
    status: u16,
    detail: String,
    /// Further members, in order; a name occurs once.
    members: Vec<(Cow<'static, str>, Value)>,
    retry_after: Option<Duration>,
    /// The methods that work, for 405.
    allow: Option<String>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (code, status, title) = code.row();
        Self::of_module(code, status, title, clipped(detail.into()))
    }

    /// A refusal or rejection of a module, with its own code.
    pub fn of_module(
        code: impl Into<Cow<'static, str>>,
        status: u16,
        title: impl Into<Cow<'static, str>>,
        detail: String,
    ) -> Self {
        let (members, retry_after, allow) = (Vec::new(), None, None);
        Self(Box::new(ProblemFacts {
            code: code.into(),
            title: title.into(),
            status,
            detail,
            members,
            retry_after,
            allow,
        }))
    }

    /// Adds a member. If a name occurs twice, the first one stays.
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: Value) -> Self {
        let name = name.into();
        let standard = ["type", "title", "status", "detail", "instance", "code"];
        if !standard.contains(&name.as_ref()) && self.0.members.iter().all(|(other, _)| *other != name) {
            self.0.members.push((name, value));
        }
        self
    }

    /// Names the place in the body, as a JSON pointer.
    fn at(self, pointer: &str) -> Self {
        let Some(path) = pointer.strip_prefix('/') else { return self };
        let field = path.split('/').next().unwrap_or(path).replace("~1", "/").replace("~0", "~");
        self.with("field", Value::text(field)).with("pointer", Value::text(pointer))
    }

    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    pub fn with_allow(mut self, methods: String) -> Self {
        self.0.allow = Some(methods);
        self
    }

    pub fn status(&self) -> u16 {
        self.0.status
    }

    pub fn code(&self) -> &str {
        &self.0.code
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The problem as it appears in a body.
    pub fn instance<'a>(&'a self, request_id: &'a str) -> Instance<'a> {
        Instance { problem: self, request_id }
    }

    pub fn into_response(self, request_id: &str) -> Response {
        let mut response = Response::new(Body::from(print(&self.instance(request_id))));
        *response.status_mut() = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.0.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000).max(1) as u64));
        }
        if let Some(methods) = self.0.allow {
            headers.insert(ALLOW, methods.try_into().expect("methods are tokens"));
        }
        if self.0.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"statehouse\""));
        }
        response
    }
}

/// A problem of one request.
pub struct Instance<'a> {
    problem: &'a Problem,
    request_id: &'a str,
}

impl Instance<'_> {
    pub fn to_value(&self) -> Value {
        let ProblemFacts { code, title, status, detail, members, .. } = &*self.problem.0;
        let standard = [
            ("type", Value::Text(kind(code))),
            ("title", Value::text(title.as_ref())),
            ("status", Value::Int(i128::from(*status))),
            ("detail", Value::text(detail)),
            ("instance", Value::text(self.request_id)),
            ("code", Value::text(code.as_ref())),
        ];
        let standard = standard.into_iter().map(|(name, value)| (name.to_owned(), value));
        Value::map(standard.chain(members.iter().map(|(name, value)| (name.to_string(), value.clone()))))
    }
}

impl Serialize for Instance<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ProblemFacts { code, title, status, detail, members, .. } = &*self.problem.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &kind(code))?;
        map.serialize_entry("title", title)?;
        map.serialize_entry("status", status)?;
        map.serialize_entry("detail", detail)?;
        map.serialize_entry("instance", self.request_id)?;
        map.serialize_entry("code", code)?;
        for (name, value) in members {
            map.serialize_entry(name, &Json(value))?;
        }
        map.end()
    }
}

/// Clips a detail, so that what a client has sent is named but not sent back whole.
fn clipped(mut detail: String) -> String {
    if let Some((end, _)) = detail.char_indices().nth(PROBLEM_DETAIL_CHARS_MAX) {
        detail.truncate(end);
        detail.push('…');
    }
    detail
}

fn kind(code: &str) -> String {
    format!("urn:statehouse:problem:{code}")
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let code = match &error.fault {
            JsonFault::Malformed(_) => Code::MalformedBody,
            JsonFault::UnknownField => Code::UnknownField,
            JsonFault::DuplicateField => Code::DuplicateField,
            JsonFault::MissingField => Code::MissingField,
            JsonFault::GivenByPath => Code::FieldInPath,
            JsonFault::WrongType { .. } | JsonFault::NotText => Code::WrongType,
            JsonFault::NotInteger => Code::NotInteger,
            JsonFault::OutOfRange { .. } => Code::OutOfRange,
            JsonFault::TooShort { .. } | JsonFault::TooLong { .. } => Code::BadLength,
            JsonFault::NotListed { .. } => Code::NotListed,
            JsonFault::NotUuid => Code::BadUuid,
            JsonFault::NotName => Code::BadName,
            JsonFault::TooMany { .. } => Code::TooManyItems,
            JsonFault::TooDeep { .. } => Code::TooDeep,
        };
        Self::new(code, error.to_string()).at(&error.pointer)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let pointer = refusal.field.map(|field| format!("/{}", field.replace('~', "~0").replace('/', "~1")));
        let status = if (400..500).contains(&refusal.status) { refusal.status } else { 422 };
        let problem = Self::of_module(refusal.code, status, "The module refuses this", refusal.detail);
        if let Some(pointer) = pointer { problem.at(&pointer) } else { problem }
    }
}

impl From<Unavailability> for Problem {
    fn from(unavailable: Unavailability) -> Self {
        let (code, detail) = match unavailable.reason {
            UnavailableReason::Overloaded => (Code::Overloaded, "not accepted, the queue is full; send it again later"),
            UnavailableReason::Expired => {
                (Code::Expired, "it was not executed and will not be; send it again with a longer deadline")
            }
            UnavailableReason::RejectionLimit => {
                (Code::RejectionLimit, "not accepted, too many commands, yours among them, were rejected; slow down")
            }
            UnavailableReason::StorageFull => (
                Code::StorageFull,
                "not accepted, the disk is full, or this node has no file descriptors left, as its log says; reads \
                 still work",
            ),
            UnavailableReason::NoLeader => {
                (Code::NoLeader, "not accepted, the partition has no leader that can take it now; send it again")
            }
            UnavailableReason::NotNow(obstacle) => (Code::NoLeader, detail_of(obstacle)),
            UnavailableReason::Halted => {
                (Code::Halted, "not accepted, the partition is halted on this node; an operator must look at its log")
            }
            UnavailableReason::Removed => (
                Code::Removed,
                "not accepted, this node was removed from its cluster for good; send it to another node",
            ),
            UnavailableReason::ShuttingDown => {
                (Code::ShuttingDown, "not accepted, this node is shutting down; send it again, or to another node")
            }
            UnavailableReason::OutcomeReleased => (
                Code::OutcomeReleased,
                "a command with this id was decided before, and is not executed again; the entry with its outcome is \
                 not on this node any more: ask another node, or audit a copy of the journal that has it",
            ),
            UnavailableReason::Draining => (
                Code::Draining,
                "not accepted, a rollback waits until the commands between partitions are over; send it again",
            ),
            UnavailableReason::NotActivated => (
                Code::NotActivated,
                "not accepted, this partition cannot activate the machine's module; an operator must look at \
                 `statehouse module log`, and go back with `module rollback` or activate a repaired module",
            ),
        };
        let problem = Self::new(code, detail);
        // A retry does not help if the outcome is gone.
        let may_retry = unavailable.reason != UnavailableReason::OutcomeReleased;
        if may_retry { problem.with_retry_after(unavailable.retry_after) } else { problem }
    }
}

/// What keeps a partition that has a leader from accepting something, and what to do.
const fn detail_of(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::LeaderSilent => {
            "not accepted, the node that leads does not answer this one; send it again, or to another node"
        }
        Obstacle::NoMajority => {
            "not accepted, a majority of the partition's nodes does not answer its leader; send it again"
        }
        Obstacle::LeadershipMoving => "not accepted, the leadership of the partition is moving; send it again",
        Obstacle::ModuleChanging => "not accepted, another module is becoming active; send it again",
        Obstacle::OtherCopy => "not accepted, another request with the same id is under way; send it again",
        Obstacle::OtherBranches => {
            "not accepted, the nodes do not agree on the number of partitions; an operator must look at their logs"
        }
        Obstacle::Closed => "not accepted, the partition is closed on this node; send it again, or to another node",
        Obstacle::NotHere => "not accepted, this node has no replica of the partition; send it to another node",
        Obstacle::Behind => {
            "not accepted, the replica on this node has not caught up in time; send it again, or to another node"
        }
    }
}
