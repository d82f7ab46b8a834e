//! Moments as text: RFC 3339, or a date, which is its first moment in UTC; in microseconds since 1970 UTC inside.
//!
//! It knows no time zone but the offset that is written, and no leap second: 23:59:60 is refused.

const DAY_SECONDS: i64 = 86_400;
const MICROS: i64 = 1_000_000;

/// Nothing where the text is neither a date nor an RFC 3339 date-time.
pub fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (year, month, day) = (number(date, 0..4)?, number(date, 5..7)?, number(date, 8..10)?);
    if &date[4..5] != "-" || &date[7..8] != "-" || !(1..=days_of(year, month)?).contains(&day) {
        return None;
    }
    let midnight = days_since_1970(year, month, day) * DAY_SECONDS;
    if rest.is_empty() {
        return midnight.checked_mul(MICROS);
    }
    let clock = rest.strip_prefix(['T', 't', ' '])?;
    let (hours, minutes, seconds) = (number(clock, 0..2)?, number(clock, 3..5)?, number(clock, 6..8)?);
    let is_clock = clock.get(2..3) == Some(":") && clock.get(5..6) == Some(":");
    if !is_clock || 23 < hours || 59 < minutes || 59 < seconds {
        return None;
    }
    let (fraction, zone) = split_fraction(&clock[8..])?;
    let seconds = midnight + hours * 3600 + minutes * 60 + seconds - offset_seconds(zone)?;
    seconds.checked_mul(MICROS)?.checked_add(fraction)
}

/// As the host prints times: RFC 3339 in UTC, with microseconds.
pub fn print(micros: i64) -> String {
    let (seconds, fraction) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS));
    let (days, of_day) = (seconds.div_euclid(DAY_SECONDS), seconds.rem_euclid(DAY_SECONDS));
    let (year, month, day) = date_of(days);
    let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{fraction:06}Z")
}

/// Microseconds behind the point, if there is one, and what follows.
fn split_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let count = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, zone) = rest.split_at(count);
    if digits.is_empty() {
        return None;
    }
    // What is finer than a microsecond is cut.
    let micros =
        digits.bytes().chain(std::iter::repeat(b'0')).take(6).fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0'));
    Some((micros, zone))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = (number(zone, 1..3)?, number(zone, 4..6)?);
    let is_offset = zone.len() == 6 && zone.get(3..4) == Some(":") && hours <= 23 && minutes <= 59;
    is_offset.then_some(sign * (hours * 3600 + minutes * 60))
}

fn number(text: &str, range: core::ops::Range<usize>) -> Option<i64> {
    let digits = text.get(range)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn days_of(year: i64, month: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => Some(if is_leap { 29 } else { 28 }),
        4 | 6 | 9 | 11 => Some(30),
        1..=12 => Some(31),
        _ => None,
    }
}

/// Years begin in March here, so that a leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        let check = |text: &str, expected: Option<i64>| assert_eq!(parse(text), expected, "{text}");
        check("1970-01-01", Some(0));
        check("1970-01-01T00:00:00Z", Some(0));
        check("2026-03-01T12:30:00.25+02:00", Some(1_772_361_000_250_000));
        check("2000-02-29", Some(951_782_400_000_000));
        check("1969-12-31T23:59:59.999999Z", Some(-1));
        for bad in [
            "",
            "2026",
            "2026-02-29",
            "2026-13-01",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00+1",
            "2026-01-0é",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for days in (-800_000..800_000).step_by(37) {
            let micros = days * DAY_SECONDS * MICROS + 3_723_000_045;
            assert!(micros < 0 && days < -719_000 || parse(&print(micros)) == Some(micros), "{}", print(micros));
        }
        assert_eq!(print(1_772_361_000_250_000), "2026-03-01T10:30:00.250000Z");
    }
}
