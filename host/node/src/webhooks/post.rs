//! One request to a receiver, and its result.
//!
//! In: a URL that an operator has given, a message, secrets. Out: taken, gone, or why not. It connects to no address
//! that is neither public nor named in the configuration, follows no redirect, uses no proxy, waits no longer than
//! [`limits::WEBHOOK_TIMEOUT`](crate::limits::WEBHOOK_TIMEOUT), and passes on nothing of an answer but its status. If
//! there is no answer, the problem says the same in all cases and only the node's log has the reason, so that somebody
//! who names URLs learns nothing of networks. It never tries twice.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url};
use tokio::time::timeout;

use super::error::WebhookError;
use super::message::WebhookMessage;
use super::resolve::CheckedResolver;
use super::sign::{Secret, signature};
use crate::config::Receivers;
use crate::ids::Micros;
use crate::limits::{
    WEBHOOK_ANSWER_BYTES_MAX, WEBHOOK_PROBLEM_CHARS_MAX, WEBHOOK_REQUESTS_MAX, WEBHOOK_TIMEOUT, WEBHOOK_URL_CHARS_MAX,
};

/// What is said whenever there was no answer.
pub const UNREACHABLE: &str = "unreachable, or not allowed (`webhooks.allow`): the log of the sending node says why";
/// Why a webhook is stopped whose URL was accepted while networks were trusted.
pub const PLAINTEXT: &str =
    "its URL is plain http: set `webhooks.plaintext = true` on each node, or create it again with https";
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long the rest of an answer may take once its status is known.
const DRAIN_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostOutcome {
    /// 2xx.
    Taken,
    /// 410: the receiver wants no more.
    Gone,
    Failed {
        problem: String,
        /// The reason, for the log alone.
        detail: Option<String>,
        retry_after: Option<Duration>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostResult {
    pub status: Option<u16>,
    pub outcome: PostOutcome,
}

impl PostResult {
    /// The result of a request whose sender could not wait any longer.
    pub fn unanswered() -> Self {
        let problem = "no answer before the deadline of this request; the receiver may have taken it".to_owned();
        Self { status: None, outcome: PostOutcome::Failed { problem, detail: None, retry_after: None } }
    }

    /// What went wrong, in words for the reader of the status; `None` if it was taken.
    pub fn problem(&self) -> Option<String> {
        match &self.outcome {
            PostOutcome::Taken => None,
            PostOutcome::Gone => Some("the receiver answered 410 Gone".to_owned()),
            PostOutcome::Failed { problem, .. } => Some(problem.clone()),
        }
    }

    /// What the log says beyond that.
    pub fn detail(&self) -> Option<&str> {
        match &self.outcome {
            PostOutcome::Failed { detail, .. } => detail.as_deref(),
            PostOutcome::Taken | PostOutcome::Gone => None,
        }
    }
}

/// Connections to receivers, kept while they are used.
pub struct Poster {
    plain: Result<Client, String>,
    tls: Result<Client, String>,
    receivers: Arc<Receivers>,
}

impl Poster {
    pub fn new(receivers: Arc<Receivers>) -> Self {
        // The process may have a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = || {
            Client::builder()
                .redirect(Policy::none())
                .no_proxy()
                .dns_resolver(CheckedResolver(receivers.clone()))
                .timeout(WEBHOOK_TIMEOUT)
                .connect_timeout(CONNECT_MAX)
                .pool_max_idle_per_host(WEBHOOK_REQUESTS_MAX)
                .user_agent(concat!("statehouse/", env!("CARGO_PKG_VERSION")))
        };
        let build = |builder: ClientBuilder| builder.build().map_err(|error| words(&error));
        // Plain http needs no certificates, so it goes without those of the system.
        let (plain, tls) = (build(client().tls_certs_only([])), build(client().https_only(true)));
        Self { plain, tls, receivers }
    }

    pub async fn post(&self, url: &Url, message: &WebhookMessage, secrets: &[Secret], now: Micros) -> PostResult {
        let client = if url.scheme() == "https" { &self.tls } else { &self.plain };
        let client = match client {
            Ok(client) => client,
            Err(problem) => return unreachable(problem.clone()),
        };
        // An address is connected to without being resolved, so it is checked here; the resolver checks names.
        if let Some(address) = address_of(url).filter(|address| !self.receivers.allows(*address)) {
            return unreachable(format!("{address} is neither public nor in `webhooks.allow`"));
        }
        let timestamp = now.0.div_euclid(1_000_000);
        let request = client
            .post(url.clone())
            .header(CONTENT_TYPE, message.content_type)
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature(secrets, &message.id, timestamp, &message.body))
            .body(Bytes::clone(&message.body));
        match request.send().await {
            Ok(response) => judge(response, now).await,
            Err(error) if error.is_timeout() => {
                unreachable(format!("no answer within {} s", WEBHOOK_TIMEOUT.as_secs()))
            }
            Err(error) => unreachable(words(&error.without_url())),
        }
    }
}

async fn judge(mut response: Response, now: Micros) -> PostResult {
    let status = response.status();
    let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = after.and_then(|text| read_retry_after(text, now));
    // The rest is read so that the connection can be used again. What it says does not matter, nor whether it ends.
    let draining = async {
        let mut room = WEBHOOK_ANSWER_BYTES_MAX;
        while let Ok(Some(piece)) = response.chunk().await {
            match room.checked_sub(piece.len()) {
                Some(left) => room = left,
                None => break,
            }
        }
    };
    // A slow answer must not keep others waiting.
    drop(timeout(DRAIN_MAX, draining).await);
    let outcome = match status {
        _ if status.is_success() => PostOutcome::Taken,
        StatusCode::GONE => PostOutcome::Gone,
        _ => return failed(Some(status.as_u16()), format!("the receiver answered {status}"), retry_after),
    };
    PostResult { status: Some(status.as_u16()), outcome }
}

fn failed(status: Option<u16>, problem: String, retry_after: Option<Duration>) -> PostResult {
    PostResult { status, outcome: PostOutcome::Failed { problem: clip(&problem), detail: None, retry_after } }
}

/// The result if there was no answer, for whatever reason.
fn unreachable(detail: String) -> PostResult {
    let problem = UNREACHABLE.to_owned();
    PostResult {
        status: None,
        outcome: PostOutcome::Failed { problem, detail: Some(clip(&detail)), retry_after: None },
    }
}

/// An error and its causes, in words.
fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    clip(&text)
}

/// The part of a text that is recorded.
pub fn clip(text: &str) -> String {
    text.chars().take(WEBHOOK_PROBLEM_CHARS_MAX as usize).collect()
}

/// Reads `Retry-After`: seconds, or a moment.
fn read_retry_after(text: &str, now: Micros) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_microsecond();
    Some(Duration::from_micros(u64::try_from(at.saturating_sub(now.0)).unwrap_or(0)))
}

/// Reads a URL that requests may go to: https, or http on this very machine, or any http if the configuration says that
/// networks are trusted.
///
/// # Errors
/// The text says what is wrong with it.
pub fn read_url(text: &str, allows_plaintext: bool, receivers: &Receivers) -> Result<Url, WebhookError> {
    let refused = |why: &str| WebhookError::Url(why.to_owned());
    let url = Url::parse(text).map_err(|error| refused(&format!("is no URL: {error}")))?;
    let host = url.host_str().filter(|host| !host.is_empty());
    if host.is_none() {
        return Err(refused("names no host; send https://HOST/PATH"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(
            "has a name or password in it, which every auditor would read; verify the signature instead",
        ));
    }
    if url.fragment().is_some() {
        return Err(refused("has a fragment (#…), which is never sent; leave it out"));
    }
    if url.as_str().len() > WEBHOOK_URL_CHARS_MAX as usize {
        return Err(refused(&format!("is longer than {WEBHOOK_URL_CHARS_MAX} characters")));
    }
    if let Some(address) = address_of(&url).filter(|address| !receivers.allows(*address)) {
        return Err(refused(&format!(
            "leads to {address}, which is not a public address: add it to `webhooks.allow` in the nodes' \
             configuration if that is intended"
        )));
    }
    match url.scheme() {
        "http" | "https" if may_be_sent(&url, allows_plaintext) => Ok(url),
        "http" => Err(refused(
            "is plain http, which everybody on the way could read; use https, or set `webhooks.plaintext = true` in \
             the nodes' configuration if the network is trusted",
        )),
        _ => Err(refused("is neither https nor http")),
    }
}

/// Whether requests may go to this URL in this node's network.
pub fn may_be_sent(url: &Url, allows_plaintext: bool) -> bool {
    url.scheme() == "https" || allows_plaintext || url.host_str().is_some_and(is_loopback)
}

/// The address that a URL names itself.
fn address_of(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::ids::{JournalIndex, PartitionId, Position};

    /// Such an answer used to hold the lane, and a turn of others, until the whole request was given up.
    #[tokio::test]
    async fn an_answer_that_does_not_end_is_taken_by_its_status() {
        let at = Position { partition: PartitionId(0), index: JournalIndex(1), n: 0, head8: [0; 4] };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/in", listener.local_addr().expect("it is bound"));
        let (url, position) = (Url::parse(&url).expect("it is one"), at);
        let (id, body) = ("wallet-1-0-1-0-00000000".to_owned(), Bytes::from_static(b"{}"));
        let message =
            WebhookMessage { id, first: position, last: position, content_type: "text/plain", body, events: 1 };
        let receiving = async {
            let (mut connection, _) = listener.accept().await.expect("it comes");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n{}") {
                connection.read_buf(&mut asked).await.expect("it asks");
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nand";
            connection.write_all(answer).await.expect("it listens");
            connection
        };
        let (poster, secrets) = (Poster::new(Arc::new(on_this_machine())), [Secret::generate()]);
        let posting = poster.post(&url, &message, &secrets, Micros(0));
        let both = async { tokio::join!(receiving, posting) };
        let (_open, sent) = timeout(WEBHOOK_TIMEOUT / 2, both).await.expect("its status is known");
        assert_eq!(sent, PostResult { status: Some(200), outcome: PostOutcome::Taken });
    }

    fn on_this_machine() -> Receivers {
        Receivers::parse(Receivers::ON_THIS_MACHINE).expect("good entries")
    }

    /// For any such name or address nothing is connected to, and the same is said.
    #[tokio::test]
    async fn nothing_is_sent_where_it_may_not_be() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let at = Position { partition: PartitionId(0), index: JournalIndex(1), n: 0, head8: [0; 4] };
        let message = WebhookMessage {
            id: "1".to_owned(),
            first: at,
            last: at,
            content_type: "text/plain",
            body: Bytes::new(),
            events: 1,
        };
        let poster = Poster::new(Arc::new(Receivers::default()));
        for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "no-such-host.invalid"] {
            let url = Url::parse(&format!("http://{host}:{port}/")).expect("it is one");
            let sent = poster.post(&url, &message, &[Secret::generate()], Micros(0)).await;
            let PostOutcome::Failed { problem, detail, retry_after: None } = sent.outcome else {
                panic!("{host} got it")
            };
            assert_eq!((sent.status, problem.as_str()), (None, UNREACHABLE), "{host}");
            assert!(detail.is_some(), "{host}");
        }
        let nobody = timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(nobody.is_err(), "nobody has connected");
        // A name that is allowed may lead anywhere.
        let poster = Poster::new(Arc::new(Receivers::parse(["localhost"]).expect("good entries")));
        let url = Url::parse(&format!("http://localhost:{port}/")).expect("it is one");
        let secrets = [Secret::generate()];
        tokio::select! {
            came = listener.accept() => assert!(came.is_ok()),
            sent = poster.post(&url, &message, &secrets, Micros(0)) => panic!("{sent:?}"),
        }
    }

    #[test]
    fn urls_are_checked() {
        let check = |text: &str, allows_plaintext: bool, expected: Result<&str, &str>| {
            let found = read_url(text, allows_plaintext, &on_this_machine()).map(|url| url.to_string());
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(problem), Err(expected)) => assert!(problem.to_string().contains(expected), "{problem:?}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check("https://example.com/in?x=1", false, Ok("https://example.com/in?x=1"));
        check("http://127.0.0.1:9/in", false, Ok("http://127.0.0.1:9/in"));
        check("http://[::1]:9/in", false, Ok("http://[::1]:9/in"));
        check("http://localhost/in", false, Ok("http://localhost/in"));
        check("http://2130706433/in", false, Ok("http://127.0.0.1/in"));
        check("http://10.0.0.7/in", true, Err("10.0.0.7, which is not a public address"));
        check("https://169.254.169.254/latest", true, Err("`webhooks.allow`"));
        check("https://[::ffff:10.0.0.7]/in", true, Err("`webhooks.allow`"));
        check("http://8.8.8.8/in", false, Err("webhooks.plaintext"));
        check("http://localhost.example.com/in", false, Err("webhooks.plaintext"));
        check("http://8.8.8.8/in", true, Ok("http://8.8.8.8/in"));
        check("https://user@example.com/", true, Err("name or password"));
        check("https://:secret@example.com/", true, Err("name or password"));
        check("https://example.com/#x", true, Err("fragment"));
        check("file:///etc/passwd", true, Err("names no host"));
        check("ftp://example.com/", true, Err("neither https nor http"));
        check("example.com", true, Err("is no URL"));
        check(&format!("https://example.com/{}", "x".repeat(2048)), true, Err("longer than"));
    }

    #[test]
    fn a_receiver_says_when_to_come_back() {
        let now = Micros(784_111_777_000_000);
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(read_retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        };
        check("120", Some(120));
        check("Sun, 06 Nov 1994 08:51:37 GMT", Some(120));
        check("Sun, 06 Nov 1994 08:49:30 GMT", Some(0));
        check("soon", None);
        check("-1", None);
    }
}
