//! Places of connections: how many there may be, and which one is closed when none is left.
//!
//! ```text
//! accepted ─▶ its address has too many? ─▶ all too many, or few descriptors left? ─▶ a place
//!                     └──────────── an idle one is closed: first one that was never let in, then the one quiet longest
//! ```
//! In: connections, and what happens on them. Out: a place, or none. It knows nothing of sockets or of HTTP.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::live::LiveLimits;
use crate::limits::{CONNECTIONS_SHED_AT_ONCE, DESCRIPTORS_KEPT_MAX, DESCRIPTORS_KEPT_MIN, HTTP_IDLE_MAX};

/// How long no idle connection is looked for after none was found: a search costs more than a refusal.
const SHED_PAUSE: Duration = Duration::from_millis(50);

/// The network that an address stands for: an IPv6 client chooses the lower half of its address itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(u128);

impl ClientNetwork {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u128::from(u32::from(address))),
            IpAddr::V6(address) => Self(u128::from(address) >> 64 << 64),
        }
    }
}

/// What the process's file descriptors are used for, as far as it concerns connections.
pub struct Descriptors {
    /// `None`: unlimited.
    limit: Option<usize>,
    connections: AtomicUsize,
    /// Descriptors that are not a client's connection, when they were counted last.
    others: AtomicUsize,
}

impl Descriptors {
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let descriptors = Self { limit, connections: AtomicUsize::new(0), others: AtomicUsize::new(0) };
        descriptors.count_others();
        Arc::new(descriptors)
    }

    /// How many descriptors connections never take: the log, the store and the other nodes may need more at any moment.
    pub fn kept(&self) -> usize {
        self.limit.map_or(0, |limit| (limit / 4).clamp(DESCRIPTORS_KEPT_MIN, DESCRIPTORS_KEPT_MAX))
    }

    /// How many connections there may be now.
    pub fn connections_max(&self) -> usize {
        let taken = self.kept() + self.others.load(Ordering::Relaxed);
        self.limit.map_or(usize::MAX, |limit| limit.saturating_sub(taken))
    }

    /// Counts what else is open. It reads a folder with as many names as there are descriptors.
    pub fn count_others(&self) {
        // Without such a folder, nothing but connections is taken to be open.
        let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
        let connections = self.connections.load(Ordering::Relaxed);
        self.others.store(open.count().saturating_sub(connections), Ordering::Relaxed);
    }
}

/// What happens on one connection.
pub struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
    /// When the last request ended, or the connection was made: milliseconds of [`Places`].
    quiet_since: AtomicU64,
    /// Whether the caller of a request on it was let in.
    is_known: AtomicBool,
    given_up: Notify,
    shed: Notify,
    one_ended: Notify,
    start: Instant,
}

impl Activity {
    fn new(start: Instant) -> Arc<Self> {
        let activity = Self {
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            quiet_since: AtomicU64::new(0),
            is_known: AtomicBool::new(false),
            given_up: Notify::new(),
            shed: Notify::new(),
            one_ended: Notify::new(),
            start,
        };
        activity.note_quiet();
        Arc::new(activity)
    }

    pub fn on_begun(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    pub fn on_ended(&self) {
        self.note_quiet();
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.one_ended.notify_one();
    }

    /// Notes that the caller of a request on it was let in.
    pub fn on_known(&self) {
        if !self.is_known.load(Ordering::Relaxed) {
            self.is_known.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that an answer was given up: the connection ends, unless other requests are under way on it.
    pub fn on_given_up(&self) {
        self.given_up.notify_one();
    }

    fn note_quiet(&self) {
        self.quiet_since.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// `None` while a request is under way; otherwise the order of closing: first a connection that was never let in,
    /// then the one that was quiet longest.
    fn rank(&self) -> Option<(bool, u64)> {
        let is_idle = self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed);
        is_idle.then(|| (self.is_known.load(Ordering::Relaxed), self.quiet_since.load(Ordering::Relaxed)))
    }

    /// Ready when the connection has to end.
    pub async fn over(&self) {
        tokio::select! {
            () = self.idle() => {}
            () = self.quiet_after(&self.given_up) => {}
            () = self.quiet_after(&self.shed) => {}
        }
    }

    /// Ready once `retired` is cancelled and nothing is under way on the connection.
    pub async fn retired(&self, retired: &CancellationToken) {
        retired.cancelled().await;
        while self.rank().is_none() {
            self.one_ended.notified().await;
        }
    }

    /// Ready once `told` was notified and nothing is under way.
    async fn quiet_after(&self, told: &Notify) {
        loop {
            told.notified().await;
            if self.rank().is_some() {
                return;
            }
        }
    }

    /// Ready once nothing was under way, begun or ended for a whole period. This bounds headers that trickle in, a
    /// client that is gone, and an answer that is not read.
    async fn idle(&self) {
        let mut before = u64::MAX;
        loop {
            tokio::time::sleep(HTTP_IDLE_MAX).await;
            let (ended, begun) = (self.ended.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed));
            if begun == ended && (begun == before || begun == 0) {
                return;
            }
            before = begun;
        }
    }
}

/// The connections of one listener.
pub struct Places {
    limits: Arc<LiveLimits>,
    descriptors: Arc<Descriptors>,
    book: Mutex<PlaceBook>,
    start: Instant,
}

#[derive(Default)]
struct PlaceBook {
    number_next: u64,
    all: PlaceGroup,
    by_network: HashMap<ClientNetwork, PlaceGroup>,
}

#[derive(Clone)]
struct PlaceMember {
    network: ClientNetwork,
    activity: Arc<Activity>,
}

/// Connections among which one is chosen to be closed.
#[derive(Default)]
struct PlaceGroup {
    open: HashMap<u64, PlaceMember>,
    /// The next ones to close, found in one search, each with its rank at that time: it may have been used since.
    next: VecDeque<(u64, (bool, u64))>,
    barren_until: Option<Instant>,
}

impl Places {
    pub fn new(limits: Arc<LiveLimits>, descriptors: Arc<Descriptors>) -> Arc<Self> {
        Arc::new(Self { limits, descriptors, book: Mutex::default(), start: Instant::now() })
    }

    /// Takes a place for an accepted connection, perhaps that of another one, which is told to close.
    pub fn take(self: &Arc<Self>, network: ClientNetwork) -> Option<ConnectionPlace> {
        let limits = self.limits.now();
        let count_max = limits.http_connections.min(self.descriptors.connections_max()).max(1);
        let mut book = self.book.lock();
        let of_network = book.by_network.get(&network).map_or(0, |group| group.open.len());
        if share_of(count_max, limits.share_percent) <= of_network && !book.shed(Some(network)) {
            return None;
        }
        // There may be several too many if the bound was lowered.
        while count_max <= book.all.open.len() {
            if !book.shed(None) {
                return None;
            }
        }
        // Connections that were told to close still have their descriptors for a moment.
        let open = self.descriptors.connections.load(Ordering::Relaxed);
        if self.descriptors.connections_max().saturating_add(self.descriptors.kept() / 4) <= open {
            return None;
        }
        let activity = Activity::new(self.start);
        let number = book.number_next;
        book.number_next += 1;
        let member = PlaceMember { network, activity: activity.clone() };
        book.all.open.insert(number, member.clone());
        book.by_network.entry(network).or_default().open.insert(number, member);
        self.descriptors.connections.fetch_add(1, Ordering::Relaxed);
        Some(ConnectionPlace { places: self.clone(), number, network, activity })
    }

    /// Closes an idle connection, if there is one: the system has no descriptor for the next connection.
    pub fn make_room(&self) {
        self.book.lock().shed(None);
    }

    pub fn descriptors(&self) -> &Arc<Descriptors> {
        &self.descriptors
    }
}

/// A share is at least one, so that a bound of one still admits one.
pub fn share_of(count_max: usize, percent: usize) -> usize {
    (count_max.saturating_mul(percent).div_ceil(100)).clamp(1, count_max.max(1))
}

impl PlaceBook {
    /// Tells one idle connection to close, of this network or of all, and frees its place. Returns whether there was
    /// one.
    fn shed(&mut self, network: Option<ClientNetwork>) -> bool {
        let group = match network {
            Some(network) => self.by_network.get_mut(&network),
            None => Some(&mut self.all),
        };
        let Some((number, member)) = group.and_then(PlaceGroup::choose) else { return false };
        member.activity.shed.notify_one();
        metrics::counter!("statehouse_http_connections_shed_total").increment(1);
        self.forget(number, member.network);
        true
    }

    fn forget(&mut self, number: u64, network: ClientNetwork) {
        self.all.open.remove(&number);
        if let Some(group) = self.by_network.get_mut(&network) {
            group.open.remove(&number);
            if group.open.is_empty() {
                self.by_network.remove(&network);
            }
        }
    }
}

impl PlaceGroup {
    fn choose(&mut self) -> Option<(u64, PlaceMember)> {
        loop {
            while let Some((number, rank)) = self.next.pop_front() {
                let member = self.open.get(&number).filter(|member| member.activity.rank() == Some(rank));
                if let Some(member) = member {
                    return Some((number, member.clone()));
                }
            }
            let now = Instant::now();
            if self.barren_until.is_some_and(|until| now < until) {
                return None;
            }
            let mut idle: Vec<((bool, u64), u64)> =
                self.open.iter().filter_map(|(number, member)| Some((member.activity.rank()?, *number))).collect();
            if idle.is_empty() {
                self.barren_until = Some(now + SHED_PAUSE);
                return None;
            }
            let count = idle.len().div_ceil(8).min(CONNECTIONS_SHED_AT_ONCE);
            if count < idle.len() {
                idle.select_nth_unstable(count);
                idle.truncate(count);
            }
            idle.sort_unstable();
            self.next.extend(idle.into_iter().map(|(rank, number)| (number, rank)));
        }
    }
}

/// A connection's place, until it is dropped.
pub struct ConnectionPlace {
    places: Arc<Places>,
    number: u64,
    pub network: ClientNetwork,
    pub activity: Arc<Activity>,
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.places.descriptors.connections.fetch_sub(1, Ordering::Relaxed);
        self.places.book.lock().forget(self.number, self.network);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsConfig;

    fn network(last: u8) -> ClientNetwork {
        ClientNetwork::of(IpAddr::from([10, 0, 0, last]))
    }

    fn places(count_max: usize, share_percent: usize, descriptors: Option<u64>) -> Arc<Places> {
        let limits = LimitsConfig { http_connections: count_max, share_percent, ..LimitsConfig::default() };
        Places::new(LiveLimits::new(limits), Descriptors::new(descriptors))
    }

    /// Whether the connection was told to close.
    fn is_told(place: &ConnectionPlace) -> bool {
        let mut over = std::pin::pin!(place.activity.quiet_after(&place.activity.shed));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        over.as_mut().poll(&mut context).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lowered_bound_closes_what_is_idle_when_the_next_one_comes() {
        let limits =
            |http_connections| LimitsConfig { http_connections, share_percent: 100, ..LimitsConfig::default() };
        let live = LiveLimits::new(limits(4));
        let places = Places::new(live.clone(), Descriptors::new(None));
        let held: Vec<ConnectionPlace> = (0..4).map(|at| places.take(network(at)).expect("there is a place")).collect();
        held[3].activity.on_begun();
        live.replace(limits(2));
        let next = places.take(network(9)).expect("the idle ones have gone");
        let told: Vec<bool> = held.iter().map(is_told).collect();
        assert_eq!(told, [true, true, true, false]);
        next.activity.on_begun();
        assert!(places.take(network(9)).is_none(), "two are there, and both are busy");
        live.replace(limits(3));
        assert!(places.take(network(9)).is_some(), "one more may be there now");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_goes_and_a_busy_one_stays() {
        let places = places(2, 100, None);
        let [busy, idle] = [0, 0].map(|at| places.take(network(at)).expect("there is a place"));
        busy.activity.on_begun();
        let third = places.take(network(1)).expect("the idle one's place");
        assert!(is_told(&idle) && !is_told(&busy));
        third.activity.on_begun();
        assert!(places.take(network(2)).is_none(), "nobody is idle");
        drop(busy);
        assert!(places.take(network(2)).is_some(), "one has gone by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_go_before_those_who_were_let_in_and_then_who_was_quiet_longest() {
        let places = places(4, 100, None);
        let take = || places.take(network(0)).expect("there is a place");
        let mut held = Vec::new();
        for is_known in [true, true, false, false] {
            let place = take();
            tokio::time::advance(Duration::from_millis(5)).await;
            if is_known {
                place.activity.on_begun();
                place.activity.on_known();
                place.activity.on_ended();
            }
            held.push(place);
        }
        // The first one does something again, so that the second one is quiet longer.
        tokio::time::advance(Duration::from_millis(5)).await;
        held[0].activity.on_begun();
        held[0].activity.on_ended();
        for gone in [2, 3, 1, 0] {
            let told: Vec<bool> = held.iter().map(is_told).collect();
            assert!(!told[gone], "{gone} is still there");
            let place = take();
            place.activity.on_begun();
            assert!(is_told(&held[gone]), "{gone} goes now: {told:?}");
            // The new one is busy, so it is not told to close.
            held[gone] = place;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_pushes_out_its_own_connections_first() {
        let places = places(4, 75, None);
        let other = places.take(network(1)).expect("there is a place");
        let [first, second, third] = [0; 3].map(|at| places.take(network(at)).expect("there is a place"));
        let fourth = places.take(network(0)).expect("that of the first");
        assert!(is_told(&first) && !is_told(&other));
        for place in [&second, &third, &fourth] {
            place.activity.on_begun();
        }
        assert!(places.take(network(0)).is_none(), "it has its share, and all of it is busy");
        assert!(!is_told(&other), "somebody else's place is not touched");
    }

    #[tokio::test(start_paused = true)]
    async fn descriptors_bound_what_the_configuration_allows() {
        let descriptors = Descriptors::new(Some(1024));
        let max = descriptors.connections_max();
        assert!((1..768).contains(&max), "{max} of 1024, for there is more than connections");
        let limits = LimitsConfig { share_percent: 100, ..LimitsConfig::default() };
        let places = Places::new(LiveLimits::new(limits), descriptors.clone());
        let mut held = Vec::new();
        while let Some(place) = places.take(network(0)) {
            place.activity.on_begun();
            held.push(place);
        }
        assert_eq!(held.len(), max);
        held.clear();
        assert_eq!(descriptors.connections.load(Ordering::Relaxed), 0);
        assert!(places.book.lock().by_network.is_empty(), "nothing is left of those that are gone");
    }

    #[test]
    fn an_address_of_ipv6_stands_for_its_network() {
        let of = |text: &str| ClientNetwork::of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn a_share_is_at_least_one_and_at_most_all() {
        assert_eq!([1, 2, 3, 4, 16].map(|count| share_of(count, 75)), [1, 2, 3, 3, 12]);
        assert_eq!((share_of(10, 100), share_of(10, 1), share_of(0, 75)), (10, 1, 1));
    }
}
