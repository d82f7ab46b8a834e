//! A client of an event stream: server-sent events of one connection, and a follower that continues at another node
//! when the connection ends.
//!
//! In: where to ask, and a cursor. Out: messages as they arrive, and what was seen, by partition. It knows the format
//! of such streams and that a CloudEvent has an `id`. Whether what was seen is right is for the test to say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpSocket;

use crate::hold::hold;
use crate::http::{Answer, Client, Request};

/// Longer than every heartbeat interval: a stream that is silent for longer hangs.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// The delay before an [`EventSource`] connects again.
const BACK_SOON: Duration = Duration::from_millis(5);

/// One message of a stream; a heartbeat has an id and nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Option<Value>,
}

impl Message {
    /// The CloudEvent's position.
    pub fn position(&self) -> String {
        self.text("id")
    }

    /// A member of the data that is a text.
    pub fn text(&self, member: &str) -> String {
        let text = self.data.as_ref().and_then(|data| data[member].as_str());
        text.unwrap_or_else(|| panic!("no text `{member}` in {self:?}")).to_owned()
    }
}

/// One connection from which messages are read.
pub struct Stream {
    body: Incoming,
    /// The received bytes that are no whole message yet.
    rest: Vec<u8>,
}

impl Stream {
    /// # Errors
    /// Any answer other than a stream; `None` where there was no answer.
    pub async fn open(node: SocketAddr, path: &str, last_event_id: Option<&str>) -> Result<Self, Option<Answer>> {
        Self::open_with(node, path, last_event_id.map(|id| ("last-event-id", id)).as_slice()).await
    }

    async fn open_with(node: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Option<Answer>> {
        let asked = async {
            let socket = TcpSocket::new_v4()?;
            let (sender, connection) = handshake(TokioIo::new(socket.connect(node).await?)).await?;
            tokio::spawn(connection);
            let mut sender = sender;
            let mut request = hyper::Request::get(path).header("host", node.to_string());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(SILENCE_MAX, asked).await.expect("a node answers or is gone");
        let (head, body) = answer.map_err(|_| None)?.into_parts();
        if head.status == 200 {
            assert_eq!(head.headers["content-type"], "text/event-stream");
            return Ok(Self { body, rest: Vec::new() });
        }
        let body = body.collect().await.map_err(|_| None)?.to_bytes();
        Err(Some(Answer { status: head.status.as_u16(), headers: head.headers, body }))
    }

    /// Opens a stream over the connection of this client, which must outlive the stream.
    ///
    /// # Errors
    /// Any answer other than a stream.
    pub async fn over(client: &mut Client, path: &str) -> Result<Self, Answer> {
        let request = Request { method: "GET", path, headers: Vec::new(), body: Vec::new() };
        let (head, body) = client.begin(request).await.expect("the host answers").into_parts();
        if head.status == 200 {
            return Ok(Self { body, rest: Vec::new() });
        }
        let body = body.collect().await.expect("the host answers").to_bytes();
        Err(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// The next message, heartbeats included; `None` when the stream has ended, in order or not.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = self.rest.windows(2).position(|two| two == b"\n\n") {
                let lines: Vec<u8> = self.rest.drain(..end + 2).collect();
                return Some(parse(&String::from_utf8(lines).expect("streams are UTF-8")));
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("a stream was silent for {SILENCE_MAX:?}"))?.ok()?;
            self.rest.extend_from_slice(&frame.into_data().ok()?);
        }
    }

    /// The next message with data.
    pub async fn next_event(&mut self) -> Option<Message> {
        loop {
            let message = self.next().await?;
            if message.data.is_some() {
                return Some(message);
            }
        }
    }

    /// Reads this many messages with data.
    pub async fn take(&mut self, count: usize) -> Vec<Message> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            taken.push(self.next_event().await.unwrap_or_else(|| panic!("the stream ended after {taken:?}")));
        }
        taken
    }
}

fn parse(lines: &str) -> Message {
    let mut message = Message::default();
    for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
        let (field, value) = line.split_once(": ").unwrap_or_else(|| panic!("`{line}` is no field"));
        match field {
            "id" => message.id = Some(value.to_owned()),
            "event" => message.event = Some(value.to_owned()),
            "data" => message.data = Some(serde_json::from_str(value).expect("data is JSON")),
            "retry" => {}
            other => panic!("`{other}` is no field of an event"),
        }
    }
    message
}

/// A browser's `EventSource` as the HTML standard defines it. It reconnects automatically after a lost connection and
/// after the end of a stream, and gives up for good at any status other than 200. It reconnects soon, and not after the
/// time that the server names.
pub struct EventSource {
    node: SocketAddr,
    path: String,
    stream: Option<Stream>,
    last_event_id: Option<String>,
    /// Positions of events in the order in which they arrived.
    pub seen: Vec<String>,
    /// Codes of `closed` messages.
    pub closed: Vec<String>,
}

impl EventSource {
    pub fn new(node: SocketAddr, path: &str) -> Self {
        let (stream, last_event_id) = (None, None);
        Self { node, path: path.to_owned(), stream, last_event_id, seen: Vec::new(), closed: Vec::new() }
    }

    /// Reads one message, or finds that there is no stream now.
    ///
    /// # Errors
    /// The answer at which the client gives up.
    pub async fn step(&mut self) -> Result<(), Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            empty => {
                let id = self.last_event_id.as_deref().map(|id| ("last-event-id", id));
                let headers: Vec<(&str, &str)> = [("accept", "text/event-stream")].into_iter().chain(id).collect();
                match Stream::open_with(self.node, &self.path, &headers).await {
                    Ok(stream) => empty.insert(stream),
                    Err(Some(answer)) => return Err(answer),
                    Err(None) => {
                        hold(BACK_SOON).await;
                        return Ok(());
                    }
                }
            }
        };
        let Some(message) = stream.next().await else {
            self.stream = None;
            hold(BACK_SOON).await;
            return Ok(());
        };
        match (message.event.as_deref(), &message.data) {
            (Some("closed"), _) => self.closed.push(message.text("code")),
            (_, Some(_)) => self.seen.push(message.position()),
            _ => {}
        }
        self.last_event_id = message.id.or(self.last_event_id.take());
        Ok(())
    }
}

/// A reader that never gives up: it continues after what it has read, at the node that is next in turn.
pub struct Follower {
    nodes: Vec<SocketAddr>,
    turn: usize,
    path: String,
    stream: Option<Stream>,
    pub cursor: Option<String>,
    /// Positions of events by partition, in the order in which they arrived.
    pub seen: BTreeMap<u64, Vec<String>>,
    /// How often it continued at another node.
    pub moves: usize,
}

impl Follower {
    /// `turn` says at which node it begins.
    pub fn new(nodes: Vec<SocketAddr>, turn: usize, path: &str) -> Self {
        let (path, seen) = (path.to_owned(), BTreeMap::new());
        Self { nodes, turn, path, stream: None, cursor: None, seen, moves: 0 }
    }

    /// Leaves the node that it reads from.
    pub fn leave(&mut self) {
        self.stream = None;
    }

    /// Reads one message, wherever it comes from; `None`: there was none this time.
    pub async fn step(&mut self) -> Option<Message> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            empty => {
                let node = self.nodes[self.turn % self.nodes.len()];
                self.turn += 1;
                self.moves += 1;
                match Stream::open(node, &self.path, self.cursor.as_deref()).await {
                    Ok(stream) => empty.insert(stream),
                    Err(Some(answer)) if answer.status != 503 && answer.status != 504 => {
                        panic!("{node} refuses {:?}: {answer:?}", self.cursor)
                    }
                    Err(_) => return None,
                }
            }
        };
        let Some(message) = stream.next().await else {
            self.stream = None;
            return None;
        };
        self.cursor = message.id.clone().or(self.cursor.take());
        if let (Some(data), None) = (&message.data, &message.event) {
            let partition = data["partition"].as_u64().expect("an event has its partition");
            self.seen.entry(partition).or_default().push(message.position());
        }
        Some(message)
    }

    /// Reads until it is at least as far as a cursor says. The node must be up.
    pub async fn read_to(&mut self, cursor: &str) {
        let end = places(cursor);
        let is_there = |cursor: &str| places(cursor).iter().zip(&end).all(|(at, end)| end <= at);
        while !self.cursor.as_deref().is_some_and(is_there) {
            self.step().await.expect("the node is there");
        }
    }
}

/// The entries that a cursor names, and how far it is in each.
fn places(cursor: &str) -> Vec<(u64, u64)> {
    let place = |position: &str| {
        let mut numbers = position.split(['.', '~']).skip(1).map(|part| part.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    cursor.split(',').map(|position| place(position).expect("a position has an index and a number")).collect()
}
