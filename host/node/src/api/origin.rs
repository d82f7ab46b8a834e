//! Origins: whether a request comes from this machine's user, or from a web page that is open in this user's browser.
//!
//! Without tokens the address alone lets a request in, and a browser lends its address to every page: through a form, a
//! script, or a name that its owner points here (DNS rebinding). In: the head of a request. Out: nothing, or a problem
//! that says what to do. It knows nothing of routes, and cannot tell one program of this machine from another.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::body::check_media_type;
use super::problem::{Code, Problem};
use super::request_context::IDEMPOTENCY_KEY;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Where a request that a browser has made may come from: a page of this node, or the address bar.
const OWN_SITES: [&str; 2] = ["same-origin", "none"];

/// The names under which a node without tokens is asked.
pub struct Origins {
    /// The address on which it listens, for messages.
    listen: SocketAddr,
    /// The host that it advertises, without a port.
    advertised: Option<String>,
    /// `auth.hosts`: names that somebody has vouched for, such as those of a proxy.
    vouched: Vec<String>,
}

impl Origins {
    /// `advertised` is `host:port`.
    pub fn new(listen: SocketAddr, advertised: &str, vouched: Vec<String>) -> Self {
        let advertised = advertised.parse().ok().map(|authority: Authority| authority.host().to_owned());
        Self { listen, advertised, vouched }
    }

    /// Lets a request pass that no page of another origin can have made.
    ///
    /// # Errors
    /// 403: the request is for another host, or its origin is another one.
    pub fn admit(&self, parts: &Parts) -> Result<(), Problem> {
        // HTTP/2, and HTTP/1.1 with an absolute URL, name the host in the URI.
        let in_uri = parts.uri.authority().cloned();
        let in_headers = parts.headers.get_all(HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok());
        let named: Option<Vec<Authority>> = in_uri.map(Some).into_iter().chain(in_headers).collect();
        let named = named.filter(|named| !named.is_empty() && named.iter().all(|named| self.is_own_name(named)));
        let Some(named) = named else {
            let found = parts.headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
            let found = parts.uri.authority().map_or_else(|| String::from_utf8_lossy(found), |uri| uri.as_str().into());
            return Err(self.foreign_host(&found));
        };
        for origin in parts.headers.get_all(ORIGIN) {
            if !self.is_own_origin(origin, &named[0]) {
                return Err(foreign_origin(&format!("`Origin: {}`", String::from_utf8_lossy(origin.as_bytes()))));
            }
        }
        for site in parts.headers.get_all(FETCH_SITE) {
            if !OWN_SITES.iter().any(|own| site == own) {
                return Err(foreign_origin(&format!("`Sec-Fetch-Site: {}`", String::from_utf8_lossy(site.as_bytes()))));
            }
        }
        Ok(())
    }

    fn is_own_name(&self, named: &Authority) -> bool {
        // A name with a user in it means another host.
        !named.as_str().contains('@') && self.is_own(named.host())
    }

    /// Whether a host is this node. Only `localhost` and configured names count, because the owner of any other name
    /// decides where it points. An address needs no trust.
    fn is_own(&self, host: &str) -> bool {
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = address.parse::<IpAddr>()
            && (address.to_canonical().is_loopback() || address == self.listen.ip())
        {
            return true;
        }
        host.eq_ignore_ascii_case("localhost")
            || self.advertised.as_ref().is_some_and(|own| host.eq_ignore_ascii_case(own))
            || self.is_vouched(host)
    }

    fn is_vouched(&self, host: &str) -> bool {
        self.vouched.iter().any(|own| host.eq_ignore_ascii_case(own))
    }

    /// Whether an origin is the very address that is asked, port included: another port of this machine has other
    /// pages.
    fn is_own_origin(&self, origin: &HeaderValue, asked: &Authority) -> bool {
        let Some((scheme, authority)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
            return false;
        };
        let Ok(origin) = authority.parse::<Authority>() else { return false };
        let usual = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
        let is_same = origin.host().eq_ignore_ascii_case(asked.host()) && port(&origin) == port(asked);
        is_same || self.is_vouched(origin.host())
    }

    fn foreign_host(&self, found: &str) -> Problem {
        let detail = format!(
            "`Host: {found}` names another host; without tokens this node answers only at http://{} and \
             http://localhost:{}: ask there, or add the name to `auth.hosts`, or configure [[auth.tokens]]",
            self.listen,
            self.listen.port()
        );
        Problem::new(Code::ForeignHost, detail)
    }
}

fn foreign_origin(found: &str) -> Problem {
    let detail = format!(
        "{found} says that a page of another origin sent this request, and without tokens this node answers no such \
         page; use a program, open the URL itself, or configure [[auth.tokens]]"
    );
    Problem::new(Code::ForeignOrigin, detail)
}

/// Checks that no form on a web page can have sent this: it has the content type of the route, even without a body, or
/// a header that only programs send.
///
/// # Errors
/// 415.
pub fn check_deliberate(headers: &HeaderMap, media_types: &[&str]) -> Result<(), Problem> {
    if headers.contains_key(AUTHORIZATION) || headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(());
    }
    check_media_type(headers, media_types).map(drop)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn origins() -> Origins {
        Origins::new(SocketAddr::from(([127, 0, 0, 1], 8080)), "node-1.lan:8080", vec!["pay.example".to_owned()])
    }

    /// The code of the refusal of a request with this target and these headers.
    fn refusal(target: &str, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        origins().admit(&parts).err().map(|problem| format!("{} {}", problem.status(), problem.code()))
    }

    #[track_caller]
    fn check(headers: &[(&str, &str)], expected: Option<&str>) {
        assert_eq!(refusal("/v1/wallet/accounts/a", headers).as_deref(), expected, "{headers:?}");
    }

    const HOST: Option<&str> = Some("403 foreign_host");
    const ORIGIN: Option<&str> = Some("403 foreign_origin");

    #[test]
    fn only_its_own_names_are_taken() {
        for own in [
            "127.0.0.1:8080",
            "127.0.0.1",
            "127.9.9.9:1",
            "LocalHost:8080",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:8080",
            "node-1.lan:8080",
            "PAY.example",
        ] {
            check(&[("host", own)], None);
        }
        for foreign in [
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost.",
            "10.0.0.7:8080",
            "[::2]:8080",
            "[::ffff:10.0.0.7]",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "127.0.0.1:8080/x",
            "127.1",
            "2130706433",
            "",
        ] {
            check(&[("host", foreign)], HOST);
        }
        check(&[], HOST);
        check(&[("host", "127.0.0.1"), ("host", "evil.example")], HOST);
    }

    #[test]
    fn the_host_of_a_target_counts_as_well() {
        assert_eq!(refusal("http://127.0.0.1:8080/x", &[]), None);
        assert_eq!(refusal("http://evil.example/x", &[]).as_deref(), HOST);
        assert_eq!(refusal("http://evil.example/x", &[("host", "127.0.0.1")]).as_deref(), HOST);
        assert_eq!(refusal("http://127.0.0.1/x", &[("host", "evil.example")]).as_deref(), HOST);
    }

    #[test]
    fn only_its_own_origin_is_taken() {
        let asked = ("host", "127.0.0.1:8080");
        check(&[asked, ("origin", "http://127.0.0.1:8080")], None);
        check(&[("host", "localhost"), ("origin", "http://localhost:80")], None);
        // A proxy that speaks TLS and passes its own name on, and one that passes the node's name on.
        check(&[("host", "pay.example"), ("origin", "https://pay.example")], None);
        check(&[asked, ("origin", "https://pay.example")], None);
        for foreign in [
            "https://evil.example",
            "http://127.0.0.1:3000",
            "http://127.0.0.1",
            "http://localhost:8080",
            "null",
            "",
            "chrome-extension://abcdef",
            "file://",
        ] {
            check(&[asked, ("origin", foreign)], ORIGIN);
        }
        check(&[asked, ("origin", "http://127.0.0.1:8080"), ("origin", "https://evil.example")], ORIGIN);
    }

    #[test]
    fn what_a_browser_says_of_the_site_counts() {
        let asked = ("host", "127.0.0.1:8080");
        check(&[asked, ("sec-fetch-site", "same-origin")], None);
        check(&[asked, ("sec-fetch-site", "none")], None);
        for foreign in ["cross-site", "same-site", "Same-Origin", "", "somewhere"] {
            check(&[asked, ("sec-fetch-site", foreign)], ORIGIN);
        }
        check(&[asked, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], ORIGIN);
    }

    #[test]
    fn a_change_names_its_content_type_or_has_a_header_of_programs() {
        let check = |headers: &[(&'static str, &str)], expected: Result<(), u16>| {
            let of =
                |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().expect("a value"));
            let all = HeaderMap::from_iter(headers.iter().map(of));
            let checked = check_deliberate(&all, &["application/json"]).map_err(|problem| problem.status());
            assert_eq!(checked, expected, "{headers:?}");
        };
        check(&[("content-type", "Application/JSON; charset=utf-8")], Ok(()));
        check(&[("idempotency-key", "x")], Ok(()));
        check(&[("authorization", "Bearer x"), ("content-type", "text/plain")], Ok(()));
        // Content types that a form, a beacon or a simple request of a script can name.
        for form in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            check(&[("content-type", form)], Err(415));
        }
        check(&[("content-type", "text/plain;application/json")], Err(415));
        check(&[], Err(415));
    }
}
