//! A client of a node's REST API: one request per connection, JSON, and errors that say what to do next.
//!
//! In: a method, a path, perhaps a body. Out: JSON. Nothing waits longer than the deadlines here, whatever the other
//! side does. It speaks http and https, and knows no route.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use statehouse_node::limits::DEADLINE_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::trust::{TlsArgs, Trust, late_advice};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Longer than the longest deadline of a request, so that the node's own answer is first.
const ANSWER_TIME_MAX: Duration = DEADLINE_MAX.saturating_add(Duration::from_secs(5));
/// A longer answer is not from a node.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// A header cannot carry a longer secret.
const SECRET_BYTES_MAX: u64 = 4 << 10;
const URL_DEFAULT: &str = "http://127.0.0.1:8080";
const URL_FORM: &str = "http://HOST:PORT or https://HOST:PORT";

/// Which node is asked, and who asks.
#[derive(Args, Debug)]
pub struct ClientArgs {
    /// The REST API of a node, http:// or https://; any node of the cluster can answer [env: STATEHOUSE_URL=] [default:
    /// http://127.0.0.1:8080]
    #[arg(long)]
    pub url: Option<String>,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// What lets a command in.
#[derive(Args, Clone, Debug, Default)]
pub struct AccessArgs {
    /// A file with a token that has the role for this command; needed if the cluster has tokens. Or put the token
    /// itself into the variable STATEHOUSE_TOKEN
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The token itself. Deprecated: every user of this machine can read it in the process list; use --token-file or
    /// STATEHOUSE_TOKEN
    #[arg(long, conflicts_with = "token_file")]
    pub token: Option<String>,
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl ClientArgs {
    /// # Errors
    /// See [`Client::new`].
    pub fn client(&self) -> anyhow::Result<Client> {
        // Clap does not read the variable: for its conflict rules a variable counts like a flag.
        let url = self.url.clone().or_else(|| variable("STATEHOUSE_URL"));
        Client::new(url.as_deref().unwrap_or(URL_DEFAULT), &self.access)
    }
}

impl AccessArgs {
    fn token(&self) -> anyhow::Result<Option<String>> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(path)) => secret_of(path).map(Some).with_context(|| format!("--token-file {}", path.display())),
            (None, None) => Ok(variable("STATEHOUSE_TOKEN")),
        }
    }
}

/// A variable of the environment, if it is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The single line of a file.
///
/// # Errors
/// The file cannot be read, or does not have exactly one line.
pub fn secret_of(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    let secret = text.trim();
    ensure!(!secret.is_empty(), "it is empty; it must have one line");
    ensure!(text.len() as u64 <= SECRET_BYTES_MAX && !secret.contains('\n'), "it must have one line, and no more");
    Ok(secret.to_owned())
}

/// The type and the bytes of a request's body.
type RequestContent = (&'static str, Bytes);

/// The node to ask.
#[derive(Debug)]
pub struct Client {
    /// The URL without a path.
    url: String,
    host: String,
    port: u16,
    token: Option<String>,
    /// Set for https.
    trust: Option<Trust>,
}

impl Client {
    /// # Errors
    /// `url` is not of the form `http[s]://host[:port]`, or a file of `access` is not valid.
    pub fn new(url: &str, access: &AccessArgs) -> anyhow::Result<Self> {
        let uri: hyper::Uri = url.parse().with_context(|| format!("--url {url} is no URL; give {URL_FORM}"))?;
        let (scheme, port) = match uri.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            _ => bail!("--url {url}: nodes are asked by http or https; give {URL_FORM}"),
        };
        ensure!(
            matches!(uri.path(), "" | "/") && uri.query().is_none(),
            "--url {url}: give {URL_FORM} of a node, without a path"
        );
        let authority = uri.authority().with_context(|| format!("--url {url} names no host"))?;
        ensure!(!authority.as_str().contains('@'), "--url {url}: give the token with --token-file, not in the URL");
        let (host, port) = (authority.host().to_owned(), authority.port_u16().unwrap_or(port));
        let trust = if scheme == "https" { Some(Trust::new(&access.tls)?) } else { None };
        Ok(Self { url: format!("{scheme}://{host}:{port}"), host, port, token: access.token()?, trust })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// Gets a response that is not JSON.
    pub async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let (status, bytes) = self.exchange_in_time(Method::GET, path, None).await?;
        ensure!(status.is_success(), "{}{path} answered {status}", self.url);
        String::from_utf8(bytes.into()).with_context(|| format!("{}{path} is no text", self.url))
    }

    /// Sends one request. If the answer is not a success, the error has the node's own message.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.send_content(method, path, body.map(|body| ("application/json", body.to_string().into()))).await
    }

    /// The same, with a body of another type.
    pub async fn send_content(
        &self,
        method: Method,
        path: &str,
        body: Option<RequestContent>,
    ) -> anyhow::Result<Value> {
        let (status, bytes) = self.exchange_in_time(method, path, body).await?;
        let json: Option<Value> = serde_json::from_slice(&bytes).ok();
        match json {
            Some(json) if status.is_success() => Ok(json),
            Some(problem) if problem["detail"].is_string() => Err(refused(status, &problem)),
            _ => bail!("{} answered {status} and no JSON; is it a Statehouse node?", self.url),
        }
    }

    async fn exchange_in_time(
        &self,
        method: Method,
        path: &str,
        body: Option<RequestContent>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        timeout(ANSWER_TIME_MAX, self.exchange(method, path, body)).await.map_err(|_| {
            let waited = ANSWER_TIME_MAX.as_secs();
            anyhow!("{} did not answer in {waited} s; look at its log, or ask another node", self.url)
        })?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<RequestContent>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let (url, mut sender) = (&self.url, self.connect().await?);
        let mut request =
            Request::builder().method(&method).uri(path).header(HOST, format!("{}:{}", self.host, self.port));
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
                    // A form on a web page cannot send this header, which is why a node requires it.
                    request = request.header(CONTENT_TYPE, "application/json");
                }
                Bytes::new()
            }
        };
        let request = request.body(Full::new(body)).context("the token has characters that a header cannot carry")?;
        let broke_off = || format!("{url} closed the connection; ask again, or ask another node");
        let answer = sender.send_request(request).await.map_err(|error| {
            let advice = late_advice(&error).map(|advice| format!("{url}: {advice}"));
            anyhow!(error).context(advice.unwrap_or_else(broke_off))
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!(error)).with_context(broke_off)?;
        Ok((status, body.to_bytes()))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let url = &self.url;
        let unreachable = || format!("no node answers at {url}; is it running? name another with --url");
        let address = (self.host.trim_start_matches('[').trim_end_matches(']'), self.port);
        let connect = timeout(CONNECT_TIME_MAX, TcpStream::connect(address));
        let stream = connect.await.with_context(unreachable)?.with_context(unreachable)?;
        let Some(trust) = &self.trust else { return speak(stream).await };
        let opened = timeout(CONNECT_TIME_MAX, trust.open(stream, &self.host)).await.with_context(unreachable)?;
        speak(opened.with_context(|| url.clone())?).await
    }
}

/// Begins HTTP on a connection.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // The connection ends with the sender, and the request reports the connection's error.
    tokio::spawn(connection);
    Ok(sender)
}

/// The message of a problem, and additional advice.
fn refused(status: StatusCode, problem: &Value) -> anyhow::Error {
    let text = |member: &str| problem[member].as_str().unwrap_or_default();
    let next = match status {
        StatusCode::UNAUTHORIZED => "; give one with --token-file or in STATEHOUSE_TOKEN",
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
        let url =
            |url| Client::new(url, &AccessArgs::default()).map(|client| client.url).map_err(|error| error.to_string());
        assert_eq!(url("http://127.0.0.1:8080"), Ok("http://127.0.0.1:8080".into()));
        assert_eq!(url("http://[::1]:8080/"), Ok("http://[::1]:8080".into()));
        assert_eq!(url("http://node-1"), Ok("http://node-1:80".into()));
        for bad in ["wss://n:1", "n:1", "http://n:1/v1", "http://", "http://n:1?x", "ftp://n", "http://token@n:1"] {
            let error = url(bad).expect_err(bad);
            assert!(error.contains("--url"), "{error}");
        }
    }

    #[test]
    fn a_token_may_come_from_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("token");
        let token = |text: &str| {
            std::fs::write(&file, text).expect("a file");
            let access = AccessArgs { token_file: Some(file.clone()), ..AccessArgs::default() };
            access.token().map_err(|error| format!("{error:#}"))
        };
        assert_eq!(token("s3cret\n"), Ok(Some("s3cret".into())));
        let error = token(" \n").expect_err("an empty file");
        assert!(error.starts_with("--token-file ") && error.ends_with("it is empty; it must have one line"), "{error}");
        assert!(token("one\ntwo\n").is_err() && token(&"x".repeat(5000)).is_err());
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
        let access = AccessArgs { token: Some("s3cret".into()), ..AccessArgs::default() };
        let client = Client::new(&url, &access).expect("a good URL");
        let answered = client.send(Method::POST, "/x", Some(&Value::Bool(true))).await;
        (answered.map_err(|error| format!("{error:#}")), server.await.expect("no panic"))
    }

    #[tokio::test]
    async fn answers_are_json_or_errors_in_words() {
        let (answer, asked) = ask("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}").await;
        assert_eq!(answer, Ok(serde_json::json!({"a": 1})));
        assert!(asked.starts_with("POST /x HTTP/1.1\r\n") && asked.ends_with("\r\n\r\ntrue"), "{asked}");
        assert!(asked.contains("authorization: Bearer s3cret"), "{asked}");

        let problem = "HTTP/1.1 401 Unauthorized\r\n\r\n{\"detail\":\"this token is not known \
                       here\",\"code\":\"unauthenticated\"}";
        let expected =
            "this token is not known here; give one with --token-file or in STATEHOUSE_TOKEN (401, unauthenticated)";
        assert_eq!(ask(problem).await.0, Err(expected.to_owned()));

        let foreign = ask("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.0.expect_err("no JSON");
        assert!(foreign.ends_with("answered 200 OK and no JSON; is it a Statehouse node?"), "{foreign}");
        let cut = ask("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}").await.0.expect_err("cut off");
        assert!(cut.contains("closed the connection"), "{cut}");
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        drop(listener);
        let error =
            Client::new(&url, &AccessArgs::default()).expect("a good URL").get("/").await.expect_err("nobody listens");
        assert!(error.to_string().contains("is it running? name another with --url"), "{error:#}");
    }
}
