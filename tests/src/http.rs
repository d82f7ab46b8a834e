//! A small HTTP client: one connection, JSON, and the difference between an answer and none.
//!
//! It never sends a request twice on its own: whether a lost request is sent again is the test's decision. It knows
//! what problems look like (RFC 9457), and no route.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::HeaderMap;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::secure::Trust;

/// Above the longest deadline that a request may name: a longer wait is a hang.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);
const PROBLEM: &str = "urn:statehouse:problem:";

/// A client with a connection of its own, made when needed.
pub struct Client {
    address: SocketAddr,
    /// After this time a request is given up as lost. `None`: a request that hangs past every deadline fails the test.
    patience: Option<Duration>,
    /// Which certificates the client accepts from the host, where the host speaks TLS.
    trust: Option<Trust>,
    token: Option<String>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// A request ended without an answer: what it asked for may or may not have happened.
#[derive(Debug)]
pub struct LostAnswer(pub String);

pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: Vec<(&'a str, &'a str)>,
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    pub fn to(address: SocketAddr) -> Self {
        Self { address, patience: None, trust: None, token: None, connection: None }
    }

    /// A client of a host that may be paused or cut off: what is not answered in time is lost.
    pub fn impatient(address: SocketAddr, patience: Duration) -> Self {
        Self { patience: Some(patience), ..Self::to(address) }
    }

    /// The same client, over https.
    pub fn over(self, trust: &Trust) -> Self {
        Self { trust: Some(trust.clone()), ..self }
    }

    /// The same client, with a token.
    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// Whether the client has no connection on which the host would take a request.
    pub fn is_closed(&self) -> bool {
        self.connection.as_ref().is_none_or(SendRequest::is_closed)
    }

    /// Drops the connection: the next request goes over a new one.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, LostAnswer> {
        self.send(Request { method: "GET", path, headers: Vec::new(), body: Vec::new() }).await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Result<Answer, LostAnswer> {
        self.post_with(path, body, Vec::new()).await
    }

    pub async fn post_with(
        &mut self,
        path: &str,
        body: &Value,
        headers: Vec<(&str, &str)>,
    ) -> Result<Answer, LostAnswer> {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.send(Request { method: "POST", path, headers: all, body: body.to_string().into_bytes() }).await
    }

    pub async fn send(&mut self, request: Request<'_>) -> Result<Answer, LostAnswer> {
        let patience = self.patience.unwrap_or(ANSWER_TIME_MAX);
        match tokio::time::timeout(patience, self.exchange(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.connection = None;
                Err(LostAnswer(format!("{error:#}")))
            }
            Err(_) if self.patience.is_some() => {
                // The answer may still arrive, and the next request must not take it for its own.
                self.connection = None;
                Err(LostAnswer(format!("no answer within {patience:?}")))
            }
            Err(_) => panic!("no answer within {ANSWER_TIME_MAX:?}: a request hangs past every deadline"),
        }
    }

    async fn exchange(&mut self, request: Request<'_>) -> anyhow::Result<Answer> {
        let (head, body) = self.begin(request).await?.into_parts();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.collect().await?.to_bytes() })
    }

    /// Sends a request whose answer may never end. The answer arrives over this client's connection.
    pub async fn begin(&mut self, request: Request<'_>) -> anyhow::Result<hyper::Response<Incoming>> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            self.connection = Some(match &self.trust {
                Some(trust) => speak(trust.connect(self.address).await?).await?,
                None => {
                    let stream = TcpStream::connect(self.address).await?;
                    stream.set_nodelay(true)?;
                    speak(stream).await?
                }
            });
        }
        let sender = self.connection.as_mut().expect("connected just above");
        sender.ready().await?;
        let mut builder = hyper::Request::builder().method(request.method).uri(request.path);
        builder = builder.header("host", self.address.to_string());
        if let Some(token) = &self.token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        Ok(sender.send_request(builder.body(Full::from(request.body))?).await?)
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> hyper::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // This task ends with the connection. Its error is the one that the request meets.
    tokio::spawn(connection);
    Ok(sender)
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// A text member of the body; panics when there is none.
    pub fn text(&self, member: &str) -> String {
        let json = self.json();
        json[member].as_str().unwrap_or_else(|| panic!("no text `{member}` in {json}")).to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the outcome was recorded by an earlier request.
    pub fn is_replayed(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }

    /// The code in the problem's `type`; panics when the answer is no problem of RFC 9457.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status, "a problem repeats its status: {json}");
        assert!(json["title"].is_string(), "a problem has a title: {json}");
        let kind = json["type"].as_str().unwrap_or_else(|| panic!("no `type` in {json}"));
        kind.strip_prefix(PROBLEM).unwrap_or_else(|| panic!("`{kind}` is no problem of ours")).to_owned()
    }
}
