//! A client of a node's REST API: one request per connection, JSON, and errors that say what to do next.
//!
//! In: a method, a path, perhaps a body. Out: JSON. Nothing waits longer than the deadlines here, whatever the other side does. It
//! speaks plain HTTP only and knows no route.

use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::DEADLINE_MAX;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Above the longest deadline of a request, so that the node's own answer comes first.
const ANSWER_TIME_MAX: Duration = DEADLINE_MAX.saturating_add(Duration::from_secs(5));
/// An answer beyond this is not one of a node.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Which node is asked, and who asks.
#[derive(Args, Debug)]
pub struct Asked {
    /// The REST API of a node; any of the cluster will do
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// A token with the role operator or admin, where tokens are configured
    #[arg(long, env = "STATEHOUSE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

impl Asked {
    /// # Errors
    /// See [`Client::new`].
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.url, self.token.clone())
    }
}

/// The type and the bytes of a request's body.
type Content = (&'static str, Bytes);

/// A node to ask.
#[derive(Debug)]
pub struct Client {
    /// `host:port`
    authority: String,
    token: Option<String>,
}

impl Client {
    /// # Errors
    /// `url` is not of the form `http://host[:port]`.
    pub fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let uri: hyper::Uri = url.parse().with_context(|| format!("--url {url} is no URL; give http://HOST:PORT"))?;
        ensure!(
            uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none(),
            "--url {url}: nodes are asked by plain HTTP; give http://HOST:PORT of one, without a path"
        );
        let authority = uri.authority().with_context(|| format!("--url {url} names no host"))?;
        ensure!(!authority.as_str().contains('@'), "--url {url}: give the token with --token, not in the URL");
        Ok(Self { authority: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)), token })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// What is not JSON.
    pub async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let (status, bytes) = self.exchange_in_time(Method::GET, path, None).await?;
        ensure!(status.is_success(), "http://{}{path} answered {status}", self.authority);
        String::from_utf8(bytes.into()).with_context(|| format!("http://{}{path} is no text", self.authority))
    }

    /// Sends one request; an answer that is no success is an error with the words of the node.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.send_content(method, path, body.map(|body| ("application/json", body.to_string().into()))).await
    }

    /// The same with a body of another type.
    pub async fn send_content(&self, method: Method, path: &str, body: Option<Content>) -> anyhow::Result<Value> {
        let (status, bytes) = self.exchange_in_time(method, path, body).await?;
        let json: Option<Value> = serde_json::from_slice(&bytes).ok();
        match json {
            Some(json) if status.is_success() => Ok(json),
            Some(problem) if problem["detail"].is_string() => Err(refused(status, &problem)),
            _ => bail!("http://{} answered {status} and no JSON; is it a Statehouse node?", self.authority),
        }
    }

    async fn exchange_in_time(
        &self,
        method: Method,
        path: &str,
        body: Option<Content>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        timeout(ANSWER_TIME_MAX, self.exchange(method, path, body)).await.map_err(|_| {
            let waited = ANSWER_TIME_MAX.as_secs();
            anyhow!("http://{} gave no answer in {waited} s; look at its log, or ask another node", self.authority)
        })?
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Content>) -> anyhow::Result<(StatusCode, Bytes)> {
        let authority = &self.authority;
        let connect = timeout(CONNECT_TIME_MAX, TcpStream::connect(authority));
        let unreachable = || format!("no node answers at http://{authority}; is it running? name another with --url");
        let stream = connect.await.with_context(unreachable)?.with_context(unreachable)?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the request; its error is the one that the request meets.
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(&method).uri(path).header(HOST, authority);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Some((content_type, bytes)) => {
                request = request.header(CONTENT_TYPE, content_type);
                bytes
            }
            None => {
                if method == Method::POST {
                    // A web page cannot send that by a form, which is why a node wants it.
                    request = request.header(CONTENT_TYPE, "application/json");
                }
                Bytes::new()
            }
        };
        let request = request.body(Full::new(body)).context("--token has characters that a header cannot carry")?;
        let broke_off = || format!("http://{authority} broke the connection off; ask again, or another node");
        let answer = sender.send_request(request).await.with_context(broke_off)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!(error)).with_context(broke_off)?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }
}

/// The words of a problem, and what else helps.
fn refused(status: StatusCode, problem: &Value) -> anyhow::Error {
    let text = |member: &str| problem[member].as_str().unwrap_or_default();
    let next = match status {
        StatusCode::UNAUTHORIZED => "; give one with --token or in STATEHOUSE_TOKEN",
        StatusCode::SERVICE_UNAVAILABLE if text("code") == "node_unreachable" => {
            "; start it, or check its address and the network, and repeat the command"
        }
        StatusCode::NOT_FOUND if text("code") == "not_found" => "; is it a node of this version?",
        _ => "",
    };
    anyhow!("{}{next} ({}, {})", text("detail"), status.as_u16(), text("code"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn urls_are_checked() {
        let authority = |url| Client::new(url, None).map(|client| client.authority).map_err(|error| error.to_string());
        assert_eq!(authority("http://127.0.0.1:8080"), Ok("127.0.0.1:8080".into()));
        assert_eq!(authority("http://[::1]:8080/"), Ok("[::1]:8080".into()));
        assert_eq!(authority("http://node-1"), Ok("node-1:80".into()));
        for bad in ["https://n:1", "n:1", "http://n:1/v1", "http://", "http://n:1?x", "ftp://n", "http://token@n:1"] {
            let error = authority(bad).expect_err(bad);
            assert!(error.contains("--url"), "{error}");
        }
    }

    /// What the client makes of an answer, and what it has sent.
    async fn ask(answer: &'static str) -> (Result<Value, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("the client connects");
            let mut asked = vec![0; 1024];
            let read = stream.read(&mut asked).await.expect("the client asks");
            stream.write_all(answer.as_bytes()).await.expect("the client reads");
            String::from_utf8(asked[..read].to_vec()).expect("HTTP is text here")
        });
        let client = Client::new(&url, Some("s3cret".into())).expect("a good URL");
        let answered = client.send(Method::POST, "/x", Some(&Value::Bool(true))).await;
        (answered.map_err(|error| format!("{error:#}")), server.await.expect("no panic"))
    }

    #[tokio::test]
    async fn answers_are_json_or_errors_in_words() {
        let (answer, asked) = ask("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}").await;
        assert_eq!(answer, Ok(serde_json::json!({"a": 1})));
        assert!(asked.starts_with("POST /x HTTP/1.1\r\n") && asked.ends_with("\r\n\r\ntrue"), "{asked}");
        assert!(asked.contains("authorization: Bearer s3cret"), "{asked}");

        let problem = "HTTP/1.1 401 Unauthorized\r\n\r\n{\"detail\":\"this token is not known here\",\"code\":\"unauthenticated\"}";
        let expected =
            "this token is not known here; give one with --token or in STATEHOUSE_TOKEN (401, unauthenticated)";
        assert_eq!(ask(problem).await.0, Err(expected.to_owned()));

        let foreign = ask("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.0.expect_err("no JSON");
        assert!(foreign.ends_with("answered 200 OK and no JSON; is it a Statehouse node?"), "{foreign}");
        let cut = ask("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}").await.0.expect_err("cut off");
        assert!(cut.contains("broke the connection off"), "{cut}");
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        drop(listener);
        let error = Client::new(&url, None).expect("a good URL").get("/").await.expect_err("nobody listens");
        assert!(error.to_string().contains("is it running? name another with --url"), "{error:#}");
    }
}
