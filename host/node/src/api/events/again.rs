//! What an `EventSource` that cannot be served now is told: to connect again.
//!
//! ```text
//! 503, 429, 504 to a request that accepts only a stream ─▶ 200, text/event-stream: `retry:`, `event: closed` with the
//!                                                          problem, the end
//! ```
//! By the HTML standard an `EventSource` connects again automatically, with its `Last-Event-ID`, after `retry`
//! milliseconds when a connection fails or a stream ends. It gives up for good at any status but 200, and at any other
//! content type. So a temporary problem becomes a stream that ends, and a definite one (4xx, above all 410) stays a
//! problem. A client that accepts more than a stream gets problems as everywhere.

use axum::body::Body;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;

use super::{reader, stream_of};
use crate::api::problem::Problem;
use crate::api::route::find_host_route;

const TEMPORARY: [u16; 3] = [429, 503, 504];

/// Whether it is the request of a client that understands only a stream.
pub fn is_from_event_source(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_stream = accepted.trim().eq_ignore_ascii_case("text/event-stream");
    is_stream && find_host_route(method, uri.path()).is_ok_and(|(route, _)| route.is_stream())
}

/// The answer to such a request in place of the problem; the problem itself if a retry is of no use.
pub fn come_again(problem: Problem, request_id: &str) -> Response {
    if !TEMPORARY.contains(&problem.status()) {
        return problem.into_response(request_id);
    }
    let code = problem.code().to_owned();
    metrics::counter!("statehouse_event_readers_ended_total", "reason" => code.clone()).increment(1);
    let retry = problem
        .retry_after()
        .map_or(reader::RETRY_MS, |after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX).max(reader::RETRY_MS));
    let word = serde_json::json!({
        "type": format!("urn:statehouse:problem:{code}"),
        "code": code,
        "detail": problem.detail(),
    });
    // The event has no id, so that the client keeps its own.
    stream_of(Body::from(format!("retry: {retry}\nevent: closed\ndata: {word}\n\n")))
}
