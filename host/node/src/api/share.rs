//! Shares: how many of a node's places one caller, and one address, may have, so that nobody takes them all.
//!
//! In: what is wanted, and by whom. Out: a share that ends when it is dropped, or a problem: 503 if all places are
//! taken, 429 if only those of the asker are. It knows nothing of what the places are used for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::live::LiveLimits;
use super::places::{ClientNetwork, share_of};
use super::problem::{Code, Problem};
use crate::limits::{
    BODIES_BYTES_MAX, BODY_ROOM_BYTES, HTTP_BATCHES_MAX, REJECTIONS_PER_ADDRESS_PER_SECOND_MAX, UNATTENDED_MAX,
};
use crate::router::answer::Caller;

/// What a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShareKind {
    /// Requests that are being answered.
    Request,
    /// Batches that are read, carried out and printed.
    Batch,
    /// Commands under way that nobody waits for.
    Unattended,
    /// Readers of event streams.
    Reader,
    /// Room for bodies of megabytes, in units of [`BODY_ROOM_BYTES`].
    Body,
}

impl ShareKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Request => "requests",
            Self::Batch => "batches",
            Self::Unattended => "commands that nobody waits for",
            Self::Reader => "readers of events",
            Self::Body => "large bodies",
        }
    }
}

/// Who wants a place.
#[derive(Clone, Debug, Default)]
pub struct Requester {
    /// `None` if all callers are the same one.
    pub caller: Option<Arc<Caller>>,
    pub network: Option<ClientNetwork>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ShareOwner {
    All,
    /// The caller's address in memory; each share that counts here keeps the caller there.
    Caller(usize),
    Network(ClientNetwork),
}

impl Requester {
    fn all(&self) -> impl Iterator<Item = ShareOwner> + use<> {
        let caller = self.caller.as_ref().map(|caller| ShareOwner::Caller(Arc::as_ptr(caller) as usize));
        [Some(ShareOwner::All), caller, self.network.map(ShareOwner::Network)].into_iter().flatten()
    }
}

/// All places that are taken.
pub struct Shares {
    limits: Arc<LiveLimits>,
    /// INVARIANT: no count is 0, so there are no more of them than shares need.
    taken: Mutex<HashMap<(ShareKind, ShareOwner), usize>>,
    rejected: Mutex<RejectionCounts>,
}

/// Recorded rejections of the current second.
struct RejectionCounts {
    since: Instant,
    counts: HashMap<ClientNetwork, u32>,
}

impl Shares {
    pub fn new(limits: Arc<LiveLimits>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            taken: Mutex::default(),
            rejected: Mutex::new(RejectionCounts { since: Instant::now(), counts: HashMap::new() }),
        })
    }

    /// # Errors
    /// 503 if not enough are left, 429 if the asker has too many already.
    pub fn take(self: &Arc<Self>, kind: ShareKind, count: usize, requester: &Requester) -> Result<Share, Problem> {
        let mut share = Share { shares: self.clone(), kind, count: 0, requester: requester.clone() };
        share.take_more(count)?;
        Ok(share)
    }

    /// What [`Self::take`] would say now.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn check(&self, kind: ShareKind, count: usize, requester: &Requester) -> Result<(), Problem> {
        let taken = self.taken.lock();
        for whose in requester.all() {
            let max = self.max(kind, whose);
            if max < taken.get(&(kind, whose)).copied().unwrap_or(0) + count {
                return Err(refused(kind, whose, max));
            }
        }
        Ok(())
    }

    fn max(&self, kind: ShareKind, whose: ShareOwner) -> usize {
        let limits = self.limits.now();
        let all = match kind {
            ShareKind::Request => limits.http_requests,
            ShareKind::Batch => HTTP_BATCHES_MAX,
            ShareKind::Unattended => UNATTENDED_MAX,
            ShareKind::Reader => limits.event_readers,
            ShareKind::Body => BODIES_BYTES_MAX / BODY_ROOM_BYTES,
        };
        if whose == ShareOwner::All { all } else { share_of(all, limits.share_percent) }
    }

    /// Checks that commands from this network may be recorded as rejected this second.
    ///
    /// # Errors
    /// 429.
    pub fn check_rejections(&self, network: Option<ClientNetwork>) -> Result<(), Problem> {
        let Some(network) = network else { return Ok(()) };
        let mut rejected = self.rejected.lock();
        rejected.roll();
        if rejected.counts.get(&network).is_none_or(|count| *count < REJECTIONS_PER_ADDRESS_PER_SECOND_MAX) {
            return Ok(());
        }
        let detail = "not accepted, too many commands from your address were rejected; slow down";
        Err(Problem::new(Code::RejectionLimit, detail).with_retry_after(Duration::from_secs(1)))
    }

    /// Counts rejections that were recorded for commands from this network.
    pub fn on_rejected(&self, network: Option<ClientNetwork>, count: usize) {
        let Some(network) = network.filter(|_| count > 0) else { return };
        let mut rejected = self.rejected.lock();
        rejected.roll();
        let total = rejected.counts.entry(network).or_default();
        *total = total.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

impl RejectionCounts {
    fn roll(&mut self) {
        if Duration::from_secs(1) <= self.since.elapsed() {
            self.since = Instant::now();
            self.counts.clear();
        }
    }
}

fn refused(kind: ShareKind, whose: ShareOwner, max: usize) -> Problem {
    let kind = kind.name();
    let (code, detail) = match whose {
        ShareOwner::All => (
            Code::Overloaded,
            format!(
                "not accepted, this node has no room for more {kind} now; send it again later, or ask another node"
            ),
        ),
        ShareOwner::Caller(_) | ShareOwner::Network(_) => {
            let yours = if matches!(whose, ShareOwner::Caller(_)) { "token" } else { "address" };
            (
                Code::TooManyAtOnce,
                format!(
                    "not accepted, your {yours} already has the most {kind} that one may have on this node ({max}); \
                     send it again when some of them have ended"
                ),
            )
        }
    };
    Problem::new(code, detail).with_retry_after(Duration::from_secs(1))
}

/// Places that are taken, until this is dropped.
pub struct Share {
    shares: Arc<Shares>,
    kind: ShareKind,
    count: usize,
    requester: Requester,
}

impl Share {
    /// # Errors
    /// As [`Shares::take`]; what was taken before stays taken.
    pub fn take_more(&mut self, count: usize) -> Result<(), Problem> {
        let mut taken = self.shares.taken.lock();
        for whose in self.requester.all() {
            let max = self.shares.max(self.kind, whose);
            if max < taken.get(&(self.kind, whose)).copied().unwrap_or(0) + count {
                return Err(refused(self.kind, whose, max));
            }
        }
        for whose in self.requester.all() {
            *taken.entry((self.kind, whose)).or_default() += count;
        }
        self.count += count;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let mut taken = self.shares.taken.lock();
        for whose in self.requester.all() {
            let key = (self.kind, whose);
            let left = taken.get(&key).expect("what was taken is counted") - self.count;
            if left == 0 {
                taken.remove(&key);
            } else {
                taken.insert(key, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsConfig;

    fn shares(event_readers: usize) -> Arc<Shares> {
        Shares::new(LiveLimits::new(LimitsConfig { event_readers, ..LimitsConfig::default() }))
    }

    fn requester(caller: Option<&Arc<Caller>>, last: u8) -> Requester {
        let network = ClientNetwork::of(std::net::IpAddr::from([10, 0, 0, last]));
        Requester { caller: caller.cloned(), network: Some(network) }
    }

    fn caller() -> Arc<Caller> {
        Arc::new(Caller::unbound("till", 1))
    }

    /// Takes a place for each of these, and checks the results.
    #[track_caller]
    fn check(shares: &Arc<Shares>, wanted: &[&Requester], expected: &[Option<u16>]) -> Vec<Share> {
        let taken: Vec<_> = wanted.iter().map(|requester| shares.take(ShareKind::Reader, 1, requester)).collect();
        let found: Vec<_> = taken.iter().map(|taken| taken.as_ref().err().map(Problem::status)).collect();
        assert_eq!(found, expected);
        taken.into_iter().flatten().collect()
    }

    #[test]
    fn nobody_takes_all_places() {
        let shares = shares(4);
        let (till, other) = (caller(), caller());
        let [of_till, till_elsewhere, of_other] =
            [requester(Some(&till), 1), requester(Some(&till), 2), requester(Some(&other), 1)];
        let held = check(&shares, &[&of_till; 4], &[None, None, None, Some(429)]);
        check(&shares, &[&till_elsewhere], &[Some(429)]);
        check(&shares, &[&of_other], &[Some(429)]);
        let last = check(&shares, &[&requester(Some(&other), 3), &requester(None, 4)], &[None, Some(503)]);
        drop(held);
        check(&shares, &[&of_till, &till_elsewhere, &of_other], &[None; 3]);
        drop(last);
        assert!(shares.taken.lock().is_empty(), "nothing is left of those that have ended");
    }

    #[test]
    fn one_place_is_one_for_everybody() {
        let shares = shares(1);
        let held = check(&shares, &[&requester(None, 1), &requester(None, 2)], &[None, Some(503)]);
        drop(held);
        check(&shares, &[&requester(None, 2)], &[None]);
    }

    #[test]
    fn what_is_refused_takes_nothing() {
        let shares = shares(100);
        let mut share = shares.take(ShareKind::Body, 1, &Requester::default()).expect("there is room");
        assert_eq!(share.take_more(usize::MAX / 2).err().map(|problem| problem.status()), Some(503));
        assert_eq!(shares.check(ShareKind::Body, 1, &Requester::default()).err().map(|problem| problem.status()), None);
        drop(share);
        assert!(shares.taken.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn rejections_of_an_address_are_counted_by_the_second() {
        let shares = shares(1);
        let [one, other] = [requester(None, 1).network, requester(None, 2).network];
        shares.on_rejected(one, REJECTIONS_PER_ADDRESS_PER_SECOND_MAX as usize - 1);
        assert!(shares.check_rejections(one).is_ok());
        shares.on_rejected(one, 1);
        assert_eq!(shares.check_rejections(one).err().map(|problem| problem.status()), Some(429));
        assert!(shares.check_rejections(other).is_ok() && shares.check_rejections(None).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(shares.check_rejections(one).is_ok());
    }
}
