//! A receiver of webhooks: a server that answers as a test tells it to, keeps what arrives, and checks it as a
//! receiver should.
//!
//! In: requests of a host. Out: each with its headers and body, in the order of arrival. Signatures are compared with
//! those that the library of Standard Webhooks makes. It knows CloudEvents as JSON with an `id` and a
//! `partition`, and nothing of hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hyper::body::Bytes;
use serde_json::Value;
use standardwebhooks::{Webhook, WebhookError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::hold::hold;

/// How a request is answered.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Status(u16),
    /// A status, and the number of seconds after which the sender may come back.
    After(u16, u64),
    /// 200 after a while.
    Slow(Duration),
    /// 307 to another path of the same receiver.
    Moved,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether its time was that of its arrival.
    pub is_fresh: bool,
    /// Whether it was answered with 2xx.
    pub is_taken: bool,
}

impl ReceivedRequest {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The one event of the body, or all events of an array.
    pub fn events(&self) -> Vec<Value> {
        match serde_json::from_slice(&self.body).expect("bodies are JSON") {
            Value::Array(events) => {
                assert_eq!(self.header("content-type"), "application/cloudevents-batch+json");
                events
            }
            event => {
                assert_eq!(self.header("content-type"), "application/cloudevents+json");
                vec![event]
            }
        }
    }

    /// Whether this secret had signed the request just before it arrived. The library's own check is not used: it
    /// compares the time of the signature with now, which may be minutes later.
    pub fn is_signed_by(&self, secret: &str) -> bool {
        let signed: i64 = self.header("webhook-timestamp").parse().expect("seconds");
        let signature = Webhook::new(secret).and_then(|webhook| webhook.sign(self.id(), signed, &self.body));
        let signature = signature.expect("a secret signs");
        self.is_fresh && self.header("webhook-signature").split(' ').any(|of_one_secret| of_one_secret == signature)
    }
}

type Answers = Box<dyn FnMut(&ReceivedRequest) -> Reply + Send>;

struct Inner {
    received: Vec<ReceivedRequest>,
    answers: Answers,
}

/// A running receiver, which ends when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Starts a receiver that answers 200 to everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let inner = Inner { received: Vec::new(), answers: Box::new(|_| Reply::Status(200)) };
        let inner = Arc::new(Mutex::new(inner));
        let app = axum::Router::new().fallback(on_request).with_state(inner.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.expect("it serves until it is aborted");
        });
        Self { address, inner, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}/in?from=statehouse", self.address)
    }

    /// Sets how requests are answered from now on.
    pub fn answer(&self, answers: impl FnMut(&ReceivedRequest) -> Reply + Send + 'static) {
        lock(&self.inner).answers = Box::new(answers);
    }

    /// All requests that have arrived, in order.
    pub fn received(&self) -> Vec<ReceivedRequest> {
        lock(&self.inner).received.clone()
    }

    /// The ids of the events that were taken, by partition, each at the place where it was taken first. Panics where
    /// an event came again as something else, or where a request was not signed.
    pub fn taken(&self, secret: &str) -> BTreeMap<u64, Vec<String>> {
        let mut taken: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let mut messages: BTreeMap<String, Bytes> = BTreeMap::new();
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        for received in self.received() {
            assert!(received.is_signed_by(secret), "{received:?}");
            let body = messages.entry(received.id().to_owned()).or_insert_with(|| received.body.clone());
            assert_eq!(*body, received.body, "the same id stands for the same message");
            for event in received.events() {
                let position = event["id"].as_str().expect("an event has an id").to_owned();
                let message = known.entry(position.clone()).or_insert_with(|| received.id().to_owned());
                assert_eq!(message, received.id(), "an event that comes again has the same webhook-id");
                let of_partition = taken.entry(event["partition"].as_u64().expect("a partition")).or_default();
                if received.is_taken && !of_partition.contains(&position) {
                    of_partition.push(position);
                }
            }
        }
        taken
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().expect("a test's answers do not panic")
}

async fn on_request(State(inner): State<Arc<Mutex<Inner>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let reply = {
        let mut inner = lock(&inner);
        // The library looks at the time before it looks at the signature, which nobody can know yet.
        let checked = Webhook::from_bytes(Vec::new()).and_then(|nobody| nobody.verify(&body, &headers));
        let is_fresh = matches!(checked, Err(WebhookError::InvalidSignature));
        let mut received = ReceivedRequest { path: uri.path().to_owned(), headers, body, is_fresh, is_taken: false };
        let reply = (inner.answers)(&received);
        received.is_taken = matches!(reply, Reply::Status(200..300) | Reply::Slow(_));
        inner.received.push(received);
        reply
    };
    let status = |status| StatusCode::from_u16(status).expect("a status").into_response();
    match reply {
        Reply::Status(code) => status(code),
        Reply::After(code, seconds) => {
            let mut response = status(code);
            response.headers_mut().insert("retry-after", HeaderValue::from(seconds));
            response
        }
        Reply::Slow(time) => {
            hold(time).await;
            status(200)
        }
        Reply::Moved => {
            let mut response = status(307);
            response.headers_mut().insert("location", HeaderValue::from_static("/elsewhere"));
            response
        }
    }
}
