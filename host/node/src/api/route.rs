//! Routes of the host: what a row of their table says, and how a request finds its row.
//!
//! In: method and path. Out: a row of [`HOST_ROUTES`]. From the rows is made all that there is of a route: who is let
//! in, the deadline, the media types of a body, the handler, the words that no module can use, the description in
//! OpenAPI, the page of the book. So a new route is one row, and its handler. The routes of modules are in
//! [`mount`](super::mount). This file knows nothing of what the handlers do.

mod request;
mod table;

use std::sync::LazyLock;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use futures_util::future::BoxFuture;
use statehouse_abi::describe::Schema;

pub use request::HostRequest;
pub use table::HOST_ROUTES;

use super::batch;
use super::body::{JSON, WASM};
use super::handle::Api;
use super::problem::{Code, Problem};
use super::roles::COMMAND_ROLES;
use super::url::match_path;
use crate::limits::{DEADLINE_DEFAULT, DEADLINE_MAX};

/// A row of the table.
pub struct HostRoute {
    pub method: Method,
    pub path: &'static str,
    /// Names the route in the log, and in OpenAPI as its `operationId`.
    pub name: &'static str,
    /// What it does, in one line, for people.
    pub summary: &'static str,
    pub handler: RouteHandler,
    /// The deadline of a client that names none. [`RouteParameter::Deadline`] describes it.
    pub deadline: Duration,
    /// What the URL and the headers may say, besides what the path captures.
    pub parameters: &'static [RouteParameter],
    pub body: RouteBody,
    pub answer: RouteAnswer,
}

/// The answer of a handler that waits.
pub type HostAnswer<'r> = BoxFuture<'r, Result<Response, Problem>>;

/// Answers a request whose caller was let in.
pub type Handle = for<'r> fn(&'r Api, HostRequest<'r>) -> HostAnswer<'r>;

/// Who is let in, and what answers.
#[derive(Clone, Copy)]
pub enum RouteHandler {
    /// Anybody may ask, without a token.
    Open(fn(&Api) -> Result<Response, Problem>),
    /// The caller needs one of these roles.
    Roles(u32, Handle),
    /// The caller needs a role with which it may send some command of the machine that the path names first. The
    /// handler checks each command again.
    Senders(Handle),
}

/// A parameter that a route may have besides those in its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteParameter {
    Query {
        name: &'static str,
        summary: &'static str,
    },
    RequiredQuery {
        name: &'static str,
        summary: &'static str,
    },
    Header {
        name: &'static str,
        summary: &'static str,
    },
    /// The header `Statehouse-Deadline`.
    Deadline,
}

/// The body of a request.
#[derive(Clone, Copy)]
pub enum RouteBody {
    Nothing,
    /// JSON of this shape.
    Json(fn() -> Schema),
    /// JSON of this shape, or nothing.
    JsonOrNothing(fn() -> Schema),
    /// The bytes of a module.
    Wasm,
    /// Many commands.
    Batch,
}

/// A successful answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteAnswer {
    pub status: StatusCode,
    pub summary: &'static str,
    pub media_types: &'static [&'static str],
    /// Headers that only this route has, each with what it says.
    pub headers: &'static [(&'static str, &'static str)],
}

const EVENT_STREAM: &str = "text/event-stream";

impl HostRoute {
    const fn new(method: Method, path: &'static str, handler: RouteHandler) -> Self {
        Self {
            method,
            path,
            name: "",
            summary: "",
            handler,
            deadline: DEADLINE_DEFAULT,
            parameters: &[],
            body: RouteBody::Nothing,
            answer: RouteAnswer::JSON,
        }
    }

    const fn named(mut self, name: &'static str, summary: &'static str) -> Self {
        self.name = name;
        self.summary = summary;
        self
    }

    /// The route waits for other nodes.
    const fn long(mut self) -> Self {
        self.deadline = DEADLINE_MAX;
        self.parameters = &[RouteParameter::Deadline];
        self
    }

    const fn parameters(mut self, parameters: &'static [RouteParameter]) -> Self {
        self.parameters = parameters;
        self
    }

    const fn body(mut self, body: RouteBody) -> Self {
        self.body = body;
        self
    }

    const fn answer(mut self, answer: RouteAnswer) -> Self {
        self.answer = answer;
        self
    }

    /// The roles of which a caller needs one, unless the configuration gives commands to others; `None`: anybody may
    /// ask, without a token.
    pub const fn roles(&self) -> Option<u32> {
        match self.handler {
            RouteHandler::Open(_) => None,
            RouteHandler::Roles(roles, _) => Some(roles),
            RouteHandler::Senders(_) => Some(COMMAND_ROLES),
        }
    }

    /// Whether the answer is a stream of events.
    pub fn is_stream(&self) -> bool {
        self.answer.media_types == [EVENT_STREAM]
    }

    fn is_for(&self, method: &Method) -> bool {
        self.method == method || (self.method == Method::GET && method == Method::HEAD)
    }
}

impl RouteBody {
    /// The media types that it may have. A POST without a body must name one as well.
    pub const fn media_types(&self) -> &'static [&'static str] {
        match self {
            Self::Nothing | Self::Json(_) | Self::JsonOrNothing(_) => &[JSON],
            Self::Wasm => &[WASM],
            Self::Batch => &batch::MEDIA_TYPES,
        }
    }

    /// Whether a request may be sent without it.
    pub const fn is_optional(&self) -> bool {
        matches!(self, Self::JsonOrNothing(_))
    }

    /// The shape of its JSON; `None` if it is not JSON.
    pub fn schema(&self) -> Option<Schema> {
        match self {
            Self::Json(schema) | Self::JsonOrNothing(schema) => Some(schema()),
            Self::Nothing | Self::Wasm | Self::Batch => None,
        }
    }
}

impl RouteAnswer {
    const JSON: Self = Self::of(&[JSON]);
    const TEXT: Self = Self::of(&["text/plain"]);

    const fn of(media_types: &'static [&'static str]) -> Self {
        Self { status: StatusCode::OK, summary: "Success", media_types, headers: &[] }
    }
}

/// The words of paths that are the host's.
struct ReservedWords {
    /// First segments below `/v1/` that are not a machine's name.
    machines: Vec<&'static str>,
    /// First segments below `/v1/<machine>/`.
    in_machines: Vec<&'static str>,
}

static RESERVED: LazyLock<ReservedWords> = LazyLock::new(|| {
    let (mut machines, mut in_machines) = (Vec::new(), Vec::new());
    for below in HOST_ROUTES.iter().filter_map(|route| route.path.strip_prefix("/v1/")) {
        let (first, rest) = below.split_once('/').unwrap_or((below, ""));
        let (words, word) = match first {
            "{machine}" => (&mut in_machines, rest.split('/').next().unwrap_or(rest)),
            first => (&mut machines, first),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    ReservedWords { machines, in_machines }
});

/// Whether the host has routes that begin with this segment below `/v1/<machine>/`, so that no module can.
pub fn is_reserved(segment: &str) -> bool {
    RESERVED.in_machines.contains(&segment)
}

/// Splits the path of a module's route into machine and rest; `None` if the path is the host's.
pub fn module_path(path: &str) -> Option<(&str, &str)> {
    let (machine, rest) = path.strip_prefix("/v1/")?.split_once('/')?;
    let first = rest.split('/').next().unwrap_or(rest);
    (!RESERVED.machines.contains(&machine) && !is_reserved(first)).then_some((machine, rest))
}

/// Finds the host's route, and what its path captures; otherwise a 404, or a 405 with the methods that work.
pub fn find_host_route<'p>(method: &Method, path: &'p str) -> Result<(&'static HostRoute, Vec<&'p str>), Problem> {
    let mut allowed = Vec::new();
    for route in HOST_ROUTES {
        let Some(captured) = match_path(route.path, path) else { continue };
        if route.is_for(method) {
            return Ok((route, captured));
        }
        allowed.push(route.method.as_str());
    }
    Err(not_found_or_not_allowed(allowed, path))
}

/// The problem of a path without a route for its method.
pub fn not_found_or_not_allowed(mut allowed: Vec<&str>, path: &str) -> Problem {
    if allowed.is_empty() {
        return Problem::new(Code::NotFound, format!("`{path}` is no route; /openapi.json lists them all"));
    }
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.sort_unstable();
    allowed.dedup();
    let methods = allowed.join(", ");
    Problem::new(Code::MethodNotAllowed, format!("use {methods}")).with_allow(methods)
}

#[cfg(test)]
mod tests;
