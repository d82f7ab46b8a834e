//! Parameters that many views have: moments, limits, cursors.
//!
//! In: texts of a query string. Out: what they mean, or a refusal that says what would be right. It knows no query.

use statehouse_guest::QueryStop;

use crate::time;
use crate::time_key::TimeKey;

/// # Errors
/// It is neither an RFC 3339 time nor a date.
pub fn moment(name: &str, text: Option<&str>) -> Result<Option<i64>, QueryStop> {
    let parse = |text| {
        time::parse(text).ok_or_else(|| {
            let detail =
                format!("{name} must be an RFC 3339 time like 2026-01-31T00:00:00Z, or a date like 2026-01-31");
            QueryStop::refused(400, "malformed_time", detail)
        })
    };
    text.map(parse).transpose()
}

/// # Errors
/// It is no number from 1 to `max`.
pub fn number(name: &str, text: Option<&str>, default: u32, max: u32) -> Result<u32, QueryStop> {
    let Some(text) = text else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    let refuse =
        || QueryStop::refused(400, &format!("malformed_{name}"), format!("{name} must be a number from 1 to {max}"));
    number.ok_or_else(refuse)
}

/// # Errors
/// It is no cursor.
pub fn cursor(text: Option<&str>) -> Result<Option<TimeKey>, QueryStop> {
    let parse = |text| {
        let detail = "cursor must be the next_cursor of an earlier page";
        TimeKey::parse_cursor(text).ok_or_else(|| QueryStop::refused(400, "malformed_cursor", detail))
    };
    text.map(parse).transpose()
}
