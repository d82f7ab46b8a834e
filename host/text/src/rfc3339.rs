//! Times as clients see them: RFC 3339, in UTC when printed, without a float on the way.
//!
//! In: text or microseconds. Out: the other one. It knows nothing of what a time belongs to.

use jiff::Timestamp;

use crate::ids::Micros;

/// Reads a full RFC 3339 date-time with an offset, like `2026-01-31T00:00:00Z`. Digits below a microsecond are cut off.
pub fn parse_time(text: &str) -> Option<Micros> {
    // The parser reads more than RFC 3339: a space for `T`, offsets with seconds, annotations in brackets.
    let bytes = text.as_bytes();
    let is_date_time = bytes.len() >= 20 && bytes[10].eq_ignore_ascii_case(&b'T') && bytes[16] == b':';
    let ends_with_offset = bytes.last().is_some_and(|last| last.eq_ignore_ascii_case(&b'Z'))
        || bytes.len().checked_sub(6).is_some_and(|at| matches!(bytes[at], b'+' | b'-') && bytes[at + 3] == b':');
    let timestamp: Timestamp = text.parse().ok().filter(|_| is_date_time && ends_with_offset)?;
    let micros = timestamp.as_nanosecond().div_euclid(1000);
    Some(Micros(i64::try_from(micros).expect("a timestamp lies within ten thousand years")))
}

/// RFC 3339 in UTC with as many digits as needed; microseconds beyond the year 9999 are printed as a number.
pub fn print_time(time: Micros) -> String {
    Timestamp::from_microsecond(time.0).map_or_else(|_| time.0.to_string(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(i64, &str)>) {
        let found = parse_time(text).map(|time| (time.0, print_time(time)));
        assert_eq!(found, expected.map(|(micros, printed)| (micros, printed.to_owned())), "{text}");
    }

    #[test]
    fn rfc_3339_there_and_back() {
        check("1970-01-01T00:00:00Z", Some((0, "1970-01-01T00:00:00Z")));
        check("2026-03-04T05:06:07.000001Z", Some((1_772_600_767_000_001, "2026-03-04T05:06:07.000001Z")));
        check("2026-03-04t05:06:07.0000019z", Some((1_772_600_767_000_001, "2026-03-04T05:06:07.000001Z")));
        check("1969-12-31T23:59:59.9999999Z", Some((-1, "1969-12-31T23:59:59.999999Z")));
        check("2026-03-04T07:06:07+02:00", Some((1_772_600_767_000_000, "2026-03-04T05:06:07Z")));
        for text in [
            "",
            "2026-03-04",
            "2026-03-04T05:06:07",
            "2026-03-04 05:06:07Z",
            "2026-03-04T05:06Z",
            "2026-03-04T05:06:07+02",
            "2026-03-04T05:06:07+02:00[Europe/Berlin]",
            "2026-02-30T05:06:07Z",
            "2026-03-04T25:06:07Z",
            "1772600767",
            "2026-03-04T05:06:07.Z",
        ] {
            check(text, None);
        }
    }
}
