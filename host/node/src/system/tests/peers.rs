//! Who is heard on the peer network. A removed node, a stranger and a liar are not heard. A node that was down while
//! all others were replaced finds the new ones.
//!
//! In: messages in the name of nodes that are gone, that never were, or that are not the sender. Out: refusals with a
//! reason, and groups whose term and leader are unchanged.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};

use super::*;
use crate::consensus::{AppendReply, PeerError, PeerReply, PeerRequest};
use crate::ids::{LogIndex, Term};
use crate::log::{EntryId, Vote};
use crate::peer::{Call, GroupName, Network, Offer, Service, ServiceError, Topic};
use crate::system::logic::SYSTEM;

/// A service that answers nobody.
struct Mute;

impl Service for Mute {
    fn is_known(&self, _: NodeId) -> bool {
        false
    }

    fn raft(&self, _: NodeId, _: GroupName, _: PeerRequest) -> BoxFuture<'static, Result<PeerReply, ServiceError>> {
        async { Err(mute()) }.boxed()
    }

    fn appends(
        &self,
        _: NodeId,
        _: GroupName,
        _: BoxStream<'static, PeerRequest>,
    ) -> BoxStream<'static, Result<AppendReply, ServiceError>> {
        stream::iter([Err(mute())]).boxed()
    }

    fn call(&self, _: NodeId, _: Call, _: Duration) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        async { Err(mute()) }.boxed()
    }

    fn fetch(
        &self,
        _: NodeId,
        _: Call,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<Bytes, ServiceError>>, ServiceError>> {
        async { Err(mute()) }.boxed()
    }
}

fn mute() -> ServiceError {
    ServiceError::Failed("it says nothing".to_owned())
}

pub fn groups() -> [GroupName; 2] {
    [GroupName::new(SYSTEM, PartitionId(0)), GroupName::new(MACHINE, PartitionId(0))]
}

/// A message of each kind that takes part in a group, in the name of `vote`.
fn raft_messages(vote: Vote) -> Vec<PeerRequest> {
    let far = Some(EntryId { term: Term(0), node: NodeId(1), index: LogIndex(1_000_000) });
    vec![
        PeerRequest::Append {
            vote: Vote { committed: true, ..vote },
            previous: None,
            entries: vec![],
            committed: None,
        },
        PeerRequest::Vote { vote, last: far, transfer: true },
        PeerRequest::PreVote { vote, last: far },
        PeerRequest::Transfer { vote: Vote { committed: true, ..vote }, to: NODES[0], last: None },
    ]
}

/// Asks a node for everything that a node of the cluster may ask, and checks that every request is refused with these
/// words.
pub async fn check_all_refused(network: &dyn Network, to: NodeId, vote: Vote, words: &str) {
    let refused = |error: &PeerError| matches!(error, PeerError::Refused { .. }) && error.to_string().contains(words);
    for group in groups() {
        for message in raft_messages(vote) {
            let answer = network.raft(to, &group, message.clone(), PATIENCE).await;
            assert!(answer.as_ref().err().is_some_and(refused), "{group}, {message:?}: {answer:?}");
        }
        let appends = stream::iter([raft_messages(vote).remove(0)]).boxed();
        let answer = network.appends(to, &group, appends).next().await;
        assert!(matches!(&answer, Some(Err(error)) if refused(error)), "{group}: {answer:?}");
        for topic in Topic::ALL.into_iter().filter(|topic| !topic.is_open_to_strangers()) {
            let body = Offer { vote, snapshot: Bytes::new() }.encode();
            let call = || Call { topic, group: Some(group.clone()), body: body.clone() };
            let answer = network.call(to, call(), PATIENCE).await;
            assert!(answer.as_ref().err().is_some_and(refused), "{group}, {topic:?}: {answer:?}");
            let fetched = network.fetch(to, call(), PATIENCE).await.map(drop);
            assert!(fetched.as_ref().err().is_some_and(refused), "{group}, {topic:?} fetched: {fetched:?}");
        }
    }
}

/// The term, the vote and the leader of every group on a node.
pub fn terms(node: &Node) -> BTreeMap<GroupName, (Term, Option<Vote>, Option<NodeId>)> {
    let of = |partition: &Partition| (partition.group().metrics().term, partition.log().vote(), partition.leader());
    node.context.replicas().into_iter().map(|(group, partition)| (group, of(&partition))).collect()
}

pub fn vote(term: u64, node: NodeId) -> Vote {
    Vote { term: Term(term), node: Some(node), committed: false }
}

impl Cluster {
    /// Waits until these nodes, and no others, vote in every group, according to the leaders.
    async fn vote_everywhere(&self, nodes: &[NodeId]) {
        let led = || nodes.iter().flat_map(|node| self.running_replicas(*node)).filter(|replica| replica.is_leader());
        let is_so = |replica: &Arc<Partition>| {
            let metrics = replica.group().metrics();
            metrics.learners.is_empty() && sorted(metrics.voters) == nodes
        };
        let count = 1 + PARTITIONS as usize;
        eventually("these nodes vote", || {
            let led: Vec<_> = led().collect();
            (led.len() == count && led.iter().all(is_so)).then_some(())
        })
        .await;
    }

    /// Has a node remove another one. It tries again when a busy machine kept one of the others from answering in time.
    async fn removed(&self, by: NodeId, node: NodeId) {
        let mut looks = tokio::time::interval(LOOK);
        let removing = async {
            while let Err(error) = self.node(by).cluster().remove(node, soon()).await {
                assert!(error.to_string().contains("answer"), "{error}");
                looks.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, removing).await.expect("a majority stays and answers");
    }

    fn running_replicas(&self, node: NodeId) -> Vec<Arc<Partition>> {
        let life = self.members[&node].life.as_ref();
        life.map(|life| life.context.replicas().into_iter().map(|(_, replica)| replica).collect()).unwrap_or_default()
    }

    /// Waits until a node has heard that another one was removed.
    async fn knows_removed(&self, node: NodeId, removed: NodeId) {
        let knows = || self.node(node).context.directory().retired.contains(&removed).then_some(());
        eventually("a removal is known", knows).await;
    }
}

fn sorted(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort_unstable();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_a_stranger_and_a_liar_are_refused_whatever_they_ask() {
    let mut cluster = Cluster::found().await;
    let [one, two, gone] = NODES;
    let mut load = cluster.load();
    load.more(10).await;

    // A liar is a node of the cluster that speaks for another node, or of a term that nobody has reached.
    cluster.crash(gone).await;
    let liar = cluster.network.join(gone, Arc::new(Mute));
    let mut settled = BTreeMap::new();
    for node in [one, two] {
        cluster.leader(&[one, two]).await;
        settled.insert(node, terms(cluster.node(node)));
        for group in groups() {
            for lie in [vote(u64::MAX, gone), vote(1 << 40, gone), vote(9, NodeId(77)), vote(9, one)] {
                for message in raft_messages(lie) {
                    let answer = liar.raft(node, &group, message.clone(), PATIENCE).await;
                    let is_not_taken = |error: &PeerError| error.to_string().contains("is refused");
                    assert!(answer.as_ref().err().is_some_and(is_not_taken), "{group}, {message:?}: {answer:?}");
                }
            }
        }
    }
    cluster.removed(one, gone).await;
    cluster.vote_everywhere(&[one, two]).await;
    for node in [one, two] {
        cluster.knows_removed(node, gone).await;
        check_all_refused(liar.as_ref(), node, vote(u64::MAX, gone), "node 3 was removed").await;
        for topic in [Topic::Clock, Topic::Status, Topic::Join] {
            let call = Call { topic, group: None, body: Bytes::new() };
            let answer = liar.call(node, call, PATIENCE).await;
            assert!(matches!(answer, Err(PeerError::Refused { .. })), "{topic:?}: {answer:?}");
        }
    }
    let stranger = NodeId(77);
    let unknown = cluster.network.join(stranger, Arc::new(Mute));
    for node in [one, two] {
        check_all_refused(unknown.as_ref(), node, vote(u64::MAX, stranger), "node 77 is not in this cluster").await;
    }
    for node in [one, two] {
        for (group, (term, ..)) in terms(cluster.node(node)) {
            let before = settled[&node].get(&group).map_or(Term(0), |(term, ..)| *term);
            assert!(term.0 < before.0 + 1000, "{group} on node {node} went from term {before} to {term}");
        }
    }
    load.more(10).await;
    let attempts = load.stop().await;
    cluster.judge(&attempts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_down_while_both_others_were_replaced_finds_the_new_ones() {
    let mut cluster = Cluster::found().await;
    let [one, two, down] = NODES;
    let mut load = cluster.load();
    load.more(10).await;
    cluster.crash(down).await;
    let [four, five, six] = [NodeId(4), NodeId(5), NodeId(6)];
    for new in [four, five] {
        cluster.add_member(new).await;
        cluster.node(one).cluster().add(new, address(new), soon()).await.expect("it is taken in");
    }
    cluster.vote_everywhere(&[one, two, down, four, five]).await;
    cluster.removed(four, one).await;
    // Nobody would hear `two` any more, and the two remaining nodes could not even agree that it does not vote.
    let refused = cluster.node(four).cluster().remove(two, soon()).await.expect_err("two of four stay and answer");
    assert!(refused.to_string().contains("no majority"), "{refused}");
    cluster.vote_everywhere(&[two, down, four, five]).await;
    cluster.add_member(six).await;
    cluster.node(four).cluster().add(six, address(six), soon()).await.expect("it is taken in");
    cluster.vote_everywhere(&[two, down, four, five, six]).await;
    cluster.removed(four, two).await;
    cluster.vote_everywhere(&[down, four, five, six]).await;
    let attempts = load.stop().await;
    for old in [one, two] {
        cluster.crash(old).await;
    }

    cluster.start(down).await;
    cluster.served().await;
    assert_eq!(
        cluster.node(down).context.directory().nodes.keys().copied().collect::<Vec<_>>(),
        [down, four, five, six]
    );
    // The node counts for the majority: another one may go down.
    cluster.crash(five).await;
    let mut load = Load::start(cluster.doors.clone(), cluster.bank.accounts.clone(), cluster.seed + 1);
    load.more(10).await;
    cluster.start(five).await;
    let attempts = attempts.into_iter().chain(load.stop().await).collect::<Vec<_>>();
    cluster.judge(&attempts).await;
}

/// The node answers and is a voter, but its halted replica agrees to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_replica_stands_still_is_not_counted_among_those_that_stay() {
    let cluster = Cluster::found().await;
    let [one, halted, going] = NODES;
    let leader = cluster.leader(&NODES).await;
    let replica = cluster.replica(halted);
    replica.halt_diverged(replica.progress().journal.index, leader);
    eventually("it stands still", || (!replica.is_running()).then_some(())).await;
    let refused = cluster.node(one).cluster().remove(going, soon()).await.expect_err("one of three would decide");
    assert!(refused.to_string().contains("no majority"), "{refused}");
    let view = cluster.node(one).cluster().view();
    assert_eq!(view.nodes.len(), 3, "nothing is recorded");
}

/// Either removal alone leaves a majority of the running nodes; both together do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_removals_at_two_nodes_at_once_only_what_leaves_a_majority_passes() {
    let mut cluster = Cluster::found().await;
    let [one, two, three] = NODES;
    let [four, five] = [NodeId(4), NodeId(5)];
    for new in [four, five] {
        cluster.add_member(new).await;
        cluster.node(one).cluster().add(new, address(new), soon()).await.expect("it is taken in");
    }
    cluster.vote_everywhere(&[one, two, three, four, five]).await;
    cluster.rises(&[one, two, three, four, five]).await;
    cluster.crash(five).await;
    let (asked, other) = (cluster.node(three).cluster(), cluster.node(four).cluster());
    let answers: [_; 2] = tokio::join!(asked.remove(one, soon()), other.remove(two, soon())).into();
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    let [error] = &refused[..] else { panic!("one passes: {refused:?}") };
    assert!(error.to_string().contains("no majority"), "{error}");
    // The remaining nodes still decide.
    let left = cluster.node(four).context.directory().nodes.clone();
    let gone: Vec<NodeId> = [one, two].into_iter().filter(|node| !left.contains_key(node)).collect();
    assert_eq!((gone.len(), left.len()), (1, 4));
    cluster.crash(gone[0]).await;
    let mut load = cluster.load();
    load.more(10).await;
    let attempts = load.stop().await;
    cluster.start(five).await;
    cluster.judge(&attempts).await;
}
