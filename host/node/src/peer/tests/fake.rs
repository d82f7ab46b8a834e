//! A service that does what the request says, and remembers what it heard.
//!
//! The partition of a stream of appends, and the body of a call, choose what happens; see [`Fake`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::consensus::{AppendReply, PeerReply, PeerRequest};
use crate::ids::NodeId;
use crate::peer::{Call, GroupName, Service, ServiceError};

/// Appends to this group are answered one by one.
pub const EACH: u32 = 0;
/// Appends to this group are answered three at a time: the first answer leaves after the third request has come.
pub const BY_THREES: u32 = 3;
/// The first append to this group is answered, the second fails.
pub const FAILING: u32 = 9;

/// | body | what a call does | what a fetch does |
/// |---|---|---|
/// | `fail` | fails with words | fails with words |
/// | `no group` | says that the group is not here | the same |
/// | `hang` | never answers, and tells when it is given up | opens, gives one piece, and hangs |
/// | `break` | | gives one piece and fails |
/// | any other | gives the body back | gives its words, one a piece |
pub struct Fake {
    pub raft_heard: Mutex<Vec<(NodeId, GroupName, PeerRequest)>>,
    pub raft_reply: Mutex<PeerReply>,
    pub calls_heard: Mutex<Vec<(NodeId, Call, Duration)>>,
    pub appends_heard: Arc<Mutex<Vec<PeerRequest>>>,
    gave_up: mpsc::UnboundedSender<()>,
    /// One word for each `hang` that somebody gave up.
    pub given_up: tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        let (gave_up, given_up) = mpsc::unbounded_channel();
        Arc::new(Self {
            raft_heard: Mutex::default(),
            raft_reply: Mutex::new(PeerReply::Transfer { accepted: true }),
            calls_heard: Mutex::default(),
            appends_heard: Arc::default(),
            gave_up,
            given_up: given_up.into(),
        })
    }
}

/// Sends a signal when it is dropped.
struct DropSignal(mpsc::UnboundedSender<()>);

impl Drop for DropSignal {
    fn drop(&mut self) {
        // Nobody listens any more once the test is over.
        let _ = self.0.send(());
    }
}

fn failed() -> ServiceError {
    ServiceError::Failed("the disk is on fire".to_owned())
}

fn last_of(request: PeerRequest) -> AppendReply {
    let PeerRequest::Append { previous, entries, .. } = request else { panic!("not an append: {request:?}") };
    AppendReply::Partial(entries.last().map(|entry| entry.id).or(previous))
}

impl Service for Fake {
    fn raft(
        &self,
        from: NodeId,
        group: GroupName,
        request: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerReply, ServiceError>> {
        self.raft_heard.lock().push((from, group, request));
        let reply = self.raft_reply.lock().clone();
        async { Ok(reply) }.boxed()
    }

    fn appends(
        &self,
        _from: NodeId,
        group: GroupName,
        requests: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, ServiceError>> {
        let heard = self.appends_heard.clone();
        let requests = requests.inspect(move |request| heard.lock().push(request.clone()));
        match group.partition.0 {
            BY_THREES => requests.chunks(3).flat_map(stream::iter).map(|request| Ok(last_of(request))).boxed(),
            FAILING => {
                let replies = requests.enumerate();
                replies.map(|(n, request)| if n == 0 { Ok(last_of(request)) } else { Err(failed()) }).boxed()
            }
            _ => requests.map(|request| Ok(last_of(request))).boxed(),
        }
    }

    fn call(&self, from: NodeId, call: Call, deadline: Duration) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        self.calls_heard.lock().push((from, call.clone(), deadline));
        let gave_up = self.gave_up.clone();
        async move {
            match &call.body[..] {
                b"fail" => Err(failed()),
                b"no group" => Err(ServiceError::NoGroup(call.group.expect("the test names one"))),
                b"hang" => {
                    let _held = DropSignal(gave_up);
                    std::future::pending().await
                }
                _ => Ok(call.body),
            }
        }
        .boxed()
    }

    fn fetch(
        &self,
        _from: NodeId,
        call: Call,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError>> {
        let first = stream::iter([Ok(Bytes::from_static(b"first"))]);
        let pieces = match &call.body[..] {
            b"fail" => Err(failed()),
            b"no group" => Err(ServiceError::NoGroup(call.group.expect("the test names one"))),
            b"hang" => Ok(first.chain(stream::pending()).boxed()),
            b"break" => Ok(first.chain(stream::iter([Err(failed())])).boxed()),
            words => {
                let words: Vec<_> =
                    words.split(|byte| *byte == b' ').map(|word| Ok(call.body.slice_ref(word))).collect();
                Ok(stream::iter(words).boxed())
            }
        };
        async { pieces }.boxed()
    }
}
