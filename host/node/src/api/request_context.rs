//! What a request says of itself in headers: its id, its deadline, its idempotency key, how it wants to be answered.
//!
//! In: headers. Out: values, or a problem that names the header. It knows nothing of routes and bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::problem::{Code, Problem};
use crate::ids::CommandId;
use crate::limits::DEADLINE_MAX;
use crate::router::answer::Caller;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const DEADLINE: HeaderName = HeaderName::from_static("statehouse-deadline");
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Longer ids from clients are replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// One request, once it is known who asks.
#[derive(Clone)]
pub struct RequestContext {
    pub request_id: Arc<str>,
    pub caller: Arc<Caller>,
    pub deadline: Instant,
}

/// Makes request ids: unique over restarts by a random prefix, and cheaper than a uuid each.
pub struct RequestIds {
    prefix: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub fn new() -> Self {
        Self { prefix: uuid::Uuid::new_v4().as_u64_pair().0, next: AtomicU64::new(1) }
    }

    /// The client's id, if it is printable and short; else a new one.
    pub fn of(&self, headers: &HeaderMap) -> Arc<str> {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let is_sane =
            |id: &&str| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        match given.filter(is_sane) {
            Some(id) => id.into(),
            None => format!("{:016x}-{:x}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed)).into(),
        }
    }
}

/// The header for an id that [`RequestIds::of`] has given.
pub fn request_id_value(id: &str) -> HeaderValue {
    HeaderValue::from_str(id).expect("request ids are graphic ASCII")
}

/// When the client stops waiting: `Statehouse-Deadline` in milliseconds from now, or else the route's default.
///
/// # Errors
/// The header is not a whole number from 1 to the maximum.
pub fn deadline(headers: &HeaderMap, default: Duration) -> Result<Instant, Problem> {
    let Some(value) = headers.get(DEADLINE) else { return Ok(Instant::now() + default) };
    let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let millis = text.and_then(|text| text.parse().ok()).filter(|millis| *millis > 0).map(Duration::from_millis);
    let deadline = millis.filter(|deadline| *deadline <= DEADLINE_MAX);
    deadline.map(|deadline| Instant::now() + deadline).ok_or_else(|| {
        let max = DEADLINE_MAX.as_millis();
        Problem::new(Code::BadHeader, format!("Statehouse-Deadline is milliseconds, from 1 to {max}"))
    })
}

/// `Idempotency-Key`: a uuid, with or without the quotes of a structured field.
///
/// # Errors
/// The header is anything else.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<CommandId>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let id = text.parse().map_err(|_| Problem::new(Code::BadHeader, "Idempotency-Key is a hyphenated uuid"))?;
    Ok(Some(id))
}

/// Whether the client prefers 202 and a place to ask later.
pub fn prefers_async(headers: &HeaderMap) -> bool {
    headers.get_all(PREFER).iter().any(|value| {
        let preferences = value.to_str().unwrap_or_default().split([',', ';']);
        preferences.map(str::trim).any(|preference| preference.eq_ignore_ascii_case("respond-async"))
    })
}

/// The media type of the body without its parameters, as the client spelled it.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header value"))])
    }

    #[test]
    fn request_ids_are_kept_or_made() {
        let ids = RequestIds::new();
        assert_eq!(&*ids.of(&headers(REQUEST_ID, "abc-1")), "abc-1");
        for odd in ["", "a b", "\u{e9}", &"x".repeat(129)] {
            let made = ids.of(&headers(REQUEST_ID, odd));
            assert_ne!(&*made, odd);
            assert_eq!(request_id_value(&made), *made);
        }
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
    }

    #[test]
    fn deadlines_are_bounded() {
        // The milliseconds asked for, whenever exactly the deadline was computed; or the status.
        let check = |headers: &HeaderMap, expected: Result<u64, u16>| {
            let before = Instant::now();
            let deadline = deadline(headers, Duration::from_secs(5)).map_err(|problem| problem.status());
            let after = Instant::now();
            let bounds = expected.map(Duration::from_millis).map(|asked| (before + asked)..=(after + asked));
            match (deadline, bounds) {
                (Ok(deadline), Ok(bounds)) => assert!(bounds.contains(&deadline), "{headers:?}"),
                (found, bounds) => assert_eq!(found.err(), bounds.err(), "{headers:?}"),
            }
        };
        check(&HeaderMap::new(), Ok(5000));
        check(&headers(DEADLINE, "1"), Ok(1));
        check(&headers(DEADLINE, "30000"), Ok(30_000));
        for bad in ["0", "30001", "-1", "+5", "1.5", "", "5s", "99999999999999999999"] {
            check(&headers(DEADLINE, bad), Err(400));
        }
    }

    #[test]
    fn idempotency_keys_are_uuids() {
        let key = |value: &str| idempotency_key(&headers(IDEMPOTENCY_KEY, value)).map_err(|problem| problem.status());
        let id = "018f0000-0000-7000-8000-000000000001";
        let expected = Ok(Some(id.parse().expect("a uuid")));
        assert_eq!(key(id), expected);
        assert_eq!(key(&format!("\"{id}\"")), expected);
        for bad in ["", "1", &format!("\"{id}"), &id.replace('-', "")] {
            assert_eq!(key(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn preferences_and_media_types_are_read_leniently() {
        assert!(prefers_async(&headers(PREFER, "wait=5, Respond-Async")));
        assert!(!prefers_async(&headers(PREFER, "respond-asynchronously")));
        assert_eq!(media_type(&headers(CONTENT_TYPE, "application/json; charset=utf-8")), "application/json");
        assert_eq!(media_type(&HeaderMap::new()), "");
    }
}
