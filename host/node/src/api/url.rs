//! URLs: path templates, percent-encoding and query strings.
//!
//! In: the path and query as they came. Out: captured segments and decoded pairs. A `+` is a plus, as RFC 3986 has it,
//! so that offsets of times need no encoding. It knows nothing of which paths exist.

use std::borrow::Cow;

/// Matches a path against a template of `/`-separated segments; `{…}` takes any one segment that is not empty. Returns
/// what those took, still percent-encoded, in order.
pub fn match_path<'p>(template: &str, path: &'p str) -> Option<Vec<&'p str>> {
    let mut taken = Vec::new();
    let mut segments = path.split('/');
    for expected in template.split('/') {
        let found = segments.next()?;
        if is_capture(expected) {
            if found.is_empty() {
                return None;
            }
            taken.push(found);
        } else if expected != found {
            return None;
        }
    }
    segments.next().is_none().then_some(taken)
}

/// The names between the braces of a template.
pub fn captures(template: &str) -> impl Iterator<Item = &str> {
    template.split('/').filter(|segment| is_capture(segment)).map(|segment| &segment[1..segment.len() - 1])
}

fn is_capture(segment: &str) -> bool {
    segment.len() > 2 && segment.starts_with('{') && segment.ends_with('}')
}

/// Undoes percent-encoding; `None` if it is malformed or not UTF-8.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push((high << 4 | low) as u8);
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// Percent-encodes one path segment or query value.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The pairs of a query string, decoded; `None` if one is malformed. A name without `=` has an empty value.
pub fn query_pairs(query: &str) -> Option<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, path: &str, expected: Option<&[&str]>) {
        assert_eq!(match_path(template, path).as_deref(), expected, "{template} {path}");
    }

    #[test]
    fn templates_take_whole_segments() {
        check("balance_transfer", "balance_transfer", Some(&[]));
        check("balance_transfer", "balance_transfer/", None);
        check("accounts/{id}/freeze", "accounts/a%2Fb/freeze", Some(&["a%2Fb"]));
        check("accounts/{id}/freeze", "accounts//freeze", None);
        check("accounts/{id}/freeze", "accounts/a/b/freeze", None);
        check("accounts/{id}", "accounts", None);
        check("{a}/{b}", "x/y", Some(&["x", "y"]));
        assert_eq!(captures("x/{a}/y/{bc}").collect::<Vec<_>>(), ["a", "bc"]);
    }

    #[test]
    fn percent_encoding_there_and_back() {
        assert_eq!(decode("a%20b%C3%A9+").as_deref(), Some("a bé+"));
        for malformed in ["%", "%4", "%zz", "%FF", "%+1"] {
            assert_eq!(decode(malformed), None, "{malformed}");
        }
        assert_eq!(encode("@bank:é /?"), "@bank:%C3%A9%20%2F%3F");
        assert_eq!(decode(&encode("%&=+#é")).as_deref(), Some("%&=+#é"));
    }

    #[test]
    fn query_strings_are_pairs() {
        let pairs = query_pairs("at=2026-01-01T00:00:00+01:00&&flag&x=%3D").expect("well-formed");
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
        assert_eq!(pairs, [("at", "2026-01-01T00:00:00+01:00"), ("flag", ""), ("x", "=")]);
        assert_eq!(query_pairs("x=%"), None);
    }
}
