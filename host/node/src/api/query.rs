//! Reads: parameters from path and query string become a value; freshness and paging are taken out of them.
//!
//! In: a query's route and the URL. Out: the module's answer as JSON. The host adds `consistency` and `at_least` to
//! every query, `at` to queries of rows, `cursor` and `limit` to histories, and `home` to queries of a command. A
//! parameter that the module declares itself has precedence. It knows nothing of rows.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_LOCATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::Response;
use statehouse_abi::describe::{QueryDecl, QuerySource};
use statehouse_abi::value::Value;

use super::mount::{GivenFields, Mount, MountRoute};
use super::problem::{Code, Problem};
use super::reading;
use super::reply::{JSON, POSITION, position_value};
use super::request_context::RequestContext;
use super::url::{encode, query_pairs};
use crate::ids::Position;
use crate::json::{Json, ObjectShape, print, read_texts};
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::machine::journal::Moment;
use crate::rfc3339::parse_time;
use crate::router::answer::{Consistency, QueryRequest};
use crate::router::machine::Machine;

pub async fn get(
    machine: Arc<Machine>,
    mount: &Mount,
    (query, route, given): (usize, &MountRoute, GivenFields),
    context: RequestContext,
    uri: &Uri,
) -> Result<Response, Problem> {
    let declared = &mount.describe.queries[query];
    let options = read_options(declared, &route.shape, given, uri.query().unwrap_or_default())?;
    reading::check(declared, &options.params, &context.caller)?;
    let query = declared.name.as_str().into();
    let Options { params, consistency, at, cursor, limit, home } = options;
    let RequestContext { caller, deadline, .. } = context;
    let request = QueryRequest { query, params, caller, consistency, at, cursor, limit, home, deadline };
    let answer = machine.query(request).await?;
    let mut response = Response::new(Body::from(print(&Json(&answer.body))));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(POSITION, position_value(&answer.position));
    if let Some(location) = answer.home.and_then(|home| location_of(uri, &home)) {
        response.headers_mut().insert(CONTENT_LOCATION, location);
    }
    Ok(response)
}

/// The same URL with the home of the command that is shown, so that a client that named none sees whose command it is.
fn location_of(uri: &Uri, home: &str) -> Option<HeaderValue> {
    let query = uri.query().map_or_else(String::new, |query| format!("{query}&"));
    let location = format!("{}?{query}home={}", uri.path(), encode(home));
    HeaderValue::try_from(location).ok()
}

/// What the URL asks for.
#[derive(Debug, PartialEq)]
pub struct Options {
    pub params: Value,
    pub consistency: Consistency,
    pub at: Option<Moment>,
    pub cursor: Option<Position>,
    pub limit: u32,
    pub home: Option<String>,
}

/// The host's own parameters, as they were given.
#[derive(Default)]
struct HostParameters<'a> {
    consistency: Option<&'a str>,
    at_least: Option<&'a str>,
    at: Option<&'a str>,
    cursor: Option<&'a str>,
    limit: Option<&'a str>,
    home: Option<&'a str>,
}

/// # Errors
/// 400 naming the parameter.
pub fn read_options(
    declared: &QueryDecl,
    shape: &ObjectShape,
    mut given: GivenFields,
    query: &str,
) -> Result<Options, Problem> {
    let pairs = query_pairs(query)
        .ok_or_else(|| Problem::new(Code::BadParameter, "the query string is not percent-encoded UTF-8"))?;
    let mut own = HostParameters::default();
    for (name, value) in &pairs {
        if let Some(field) = shape.find(name) {
            given.push((field, value.to_string()));
            continue;
        }
        let slot = match (name.as_ref(), declared.source) {
            ("consistency", _) => &mut own.consistency,
            ("at_least", _) => &mut own.at_least,
            ("at", QuerySource::Rows) => &mut own.at,
            ("cursor", QuerySource::History) => &mut own.cursor,
            ("limit", QuerySource::History) => &mut own.limit,
            ("home", QuerySource::Command) => &mut own.home,
            _ => return Err(Problem::new(Code::UnknownParameter, format!("`{name}` is unknown here; leave it out"))),
        };
        if slot.replace(value.as_ref()).is_some() {
            return Err(bad_parameter(name, "is given twice"));
        }
    }
    let params = read_texts(shape, &given)?;
    let params = minicbor::decode(&params.cbor).expect("the reader writes values");
    let consistency = read_consistency(own.consistency, own.at_least)?;
    let at = own.at.map(read_moment).transpose()?;
    let cursor = own.cursor.map(|text| read_position("cursor", text)).transpose()?;
    let limit = own.limit.map_or(Ok(PAGE_ITEMS_DEFAULT), read_limit)?;
    Ok(Options { params, consistency, at, cursor, limit, home: own.home.map(str::to_owned) })
}

fn read_consistency(consistency: Option<&str>, at_least: Option<&str>) -> Result<Consistency, Problem> {
    match (consistency, at_least) {
        (None | Some("linearizable"), None) => Ok(Consistency::Linearizable),
        (Some("stale"), None) => Ok(Consistency::Stale),
        (None, Some(position)) => Ok(Consistency::AtLeast(read_position("at_least", position)?)),
        (Some(_), Some(_)) => Err(bad_parameter("at_least", "excludes `consistency`")),
        (Some(_), None) => Err(bad_parameter("consistency", "must be `linearizable` or `stale`")),
    }
}

fn read_moment(text: &str) -> Result<Moment, Problem> {
    if text.contains('~') {
        return read_position("at", text).map(Moment::Position);
    }
    let what = "must be an RFC 3339 time like 2026-01-31T00:00:00Z, or a position like 0.42.0~1a2b3c4d";
    parse_time(text).map(Moment::Time).ok_or_else(|| bad_parameter("at", what))
}

fn read_position(name: &str, text: &str) -> Result<Position, Problem> {
    text.parse().map_err(|_| bad_parameter(name, "must be a position like 0.42.0~1a2b3c4d"))
}

fn read_limit(text: &str) -> Result<u32, Problem> {
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let limit = digits.and_then(|text| text.parse().ok()).filter(|limit| (1..=PAGE_ITEMS_MAX).contains(limit));
    limit.ok_or_else(|| bad_parameter("limit", &format!("must be a number from 1 to {PAGE_ITEMS_MAX}")))
}

fn bad_parameter(name: &str, what: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("`{name}` {what}")).with("field", Value::text(name))
}
