//! Readers of events while leaders are killed. At whichever node they continue, each partition's stream has no gap,
//! nothing twice, and one order.
//!
//! One of them never reads. There are a few dozen in `make test`, and a thousand in `make chaos`.

use std::collections::BTreeMap;
use std::time::Duration;

use statehouse_kernel::ids::NodeId;
use statehouse_tests::feed::{Follower, Stream};
use statehouse_tests::hold::hold;
use statehouse_tests::trial::{SHAPE, Trial, partitions};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::{alone, rounds};

const EVENTS: &str = "/v1/wallet/events";
/// After this many messages a reader leaves its node, even one that is well.
const LEAVE_EVERY: usize = 400;

/// Positions of events by partition.
type SeenPositions = BTreeMap<u64, Vec<String>>;

#[tokio::test(flavor = "multi_thread")]
async fn readers_follow_through_fail_overs_without_a_gap() {
    let _alone = alone().await;
    let mut trial = Trial::start().await;
    let nodes: Vec<_> = trial.cluster.addresses().into_iter().map(|(_, address)| address).collect();
    let mut deaf = TcpStream::connect(nodes[0]).await.expect("the node listens");
    deaf.write_all(format!("GET {EVENTS}?after=start HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
        .await
        .expect("it listens");
    let (end, ended) = watch::channel(None::<SeenPositions>);
    let readers: Vec<_> = (0..rounds(24, 1000))
        .map(|number| {
            let follower = Follower::new(nodes.clone(), number, &format!("{EVENTS}?after=start"));
            tokio::spawn(follow(follower, number, ended.clone()))
        })
        .collect();
    for partition in partitions(SHAPE) {
        let leader = trial.cluster.leader(partition).await;
        trial.cluster.kill(leader);
        trial.progress().await;
        trial.cluster.restart(leader).await;
        trial.cluster.ready_on(leader).await;
        trial.progress().await;
    }
    let (mut expected, mut upto) = (SeenPositions::new(), None);
    for id in trial.cluster.running() {
        let shown = read_all(&trial, id, upto).await;
        check_same(&format!("node {id}"), &shown.seen, &expected);
        (expected, upto) = (shown.seen, shown.cursor);
    }
    end.send_replace(Some(expected.clone()));
    let mut moves = 0;
    for (number, reader) in readers.into_iter().enumerate() {
        let follower = reader.await.unwrap_or_else(|panic| panic!("reader {number}: {panic}"));
        check_same(&format!("reader {number}"), &follower.seen, &expected);
        moves += follower.moves;
    }
    println!("{moves} connections, {} events each", expected.values().map(Vec::len).sum::<usize>());
    drop(deaf);
    trial.finish().await;
}

/// Asserts that what was seen begins with all that was expected. The clients continue meanwhile.
fn check_same(who: &str, seen: &SeenPositions, expected: &SeenPositions) {
    for (partition, expected) in expected {
        let seen = seen.get(partition).map_or(&[] as &[String], Vec::as_slice);
        let differs = expected.iter().zip(seen).position(|(expected, seen)| expected != seen);
        assert_eq!(differs, None, "{who} has seen something else than the journal of partition {partition} has");
        assert!(expected.len() <= seen.len(), "{who} has not seen all of partition {partition}");
    }
}

/// Reads until it has seen as much as there is.
async fn follow(mut follower: Follower, number: usize, ended: watch::Receiver<Option<SeenPositions>>) -> Follower {
    let mut messages = number;
    loop {
        let expected = ended.borrow().clone();
        let is_done = |expected: &SeenPositions| {
            expected
                .iter()
                .all(|(partition, all)| follower.seen.get(partition).is_some_and(|seen| all.len() <= seen.len()))
        };
        if expected.as_ref().is_some_and(is_done) {
            return follower;
        }
        match follower.step().await {
            Some(_) => messages += 1,
            // The node is down, or has ended the stream.
            None => hold(Duration::from_millis(20)).await,
        }
        if messages.is_multiple_of(LEAVE_EVERY) {
            messages += 1;
            follower.leave();
        }
    }
}

/// All that a node shows, at least up to a cursor or up to now. The node may lag the one that gave the cursor.
async fn read_all(trial: &Trial, id: NodeId, upto: Option<String>) -> Follower {
    let address = trial.cluster.http(id);
    let newest = Stream::open(address, EVENTS, None).await.expect("it begins").next().await;
    let newest = newest.and_then(|first| first.id).expect("a stream begins with its cursor");
    let mut follower = Follower::new(vec![address], 0, &format!("{EVENTS}?after=start"));
    follower.read_to(&upto.unwrap_or(newest)).await;
    follower
}
