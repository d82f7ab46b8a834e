//! The link from one node to another: its faults, its randomness, and the order in which it delivers.
//!
//! A parcel is what happens on arrival. Parcels arrive in the order they were sent, unless one is held back to be
//! overtaken. What is under way when the link is cut does not arrive.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::SimNetwork;
use crate::ids::NodeId;

pub(super) type Parcel = Box<dyn FnOnce() + Send>;

pub(super) struct SimLink {
    from: NodeId,
    to: NodeId,
    pub is_cut: bool,
    pub delay: RangeInclusive<Duration>,
    pub reordered_permille: u32,
    pub calls_lost_permille: u32,
    pub calls_doubled_permille: u32,
    pub replies_lost_permille: u32,
    /// The randomness of this link alone, so that events elsewhere do not change it.
    chance: StdRng,
    /// Leads to the task that delivers in order; made with the first parcel.
    queue: Option<mpsc::UnboundedSender<(Instant, Parcel)>>,
}

impl SimLink {
    pub fn new(seed: u64, from: NodeId, to: NodeId) -> Self {
        let chance = StdRng::seed_from_u64(seed ^ from.0.rotate_left(32) ^ to.0);
        Self {
            from,
            to,
            is_cut: false,
            delay: Duration::ZERO..=Duration::ZERO,
            reordered_permille: 0,
            calls_lost_permille: 0,
            calls_doubled_permille: 0,
            replies_lost_permille: 0,
            chance,
            queue: None,
        }
    }

    pub fn heal(&mut self) {
        self.is_cut = false;
        self.delay = Duration::ZERO..=Duration::ZERO;
        self.reordered_permille = 0;
        self.calls_lost_permille = 0;
        self.calls_doubled_permille = 0;
        self.replies_lost_permille = 0;
    }

    pub fn loses_a_call(&mut self) -> bool {
        happens(&mut self.chance, self.calls_lost_permille)
    }

    pub fn doubles_a_call(&mut self) -> bool {
        happens(&mut self.chance, self.calls_doubled_permille)
    }

    pub fn loses_a_reply(&mut self) -> bool {
        happens(&mut self.chance, self.replies_lost_permille)
    }

    /// When something that is sent now arrives.
    pub fn arrival(&mut self) -> Instant {
        Instant::now() + self.chance.random_range(self.delay.clone())
    }

    /// Sends a request, which others may overtake.
    pub fn send_call(&mut self, network: SimNetwork, parcel: Parcel) {
        let is_held_back = happens(&mut self.chance, self.reordered_permille);
        if self.is_cut || !is_held_back {
            return self.send_reply(network, parcel);
        }
        self.send_late(network, parcel);
    }

    /// Sends it so late that everything sent within one more delay arrives first.
    pub fn send_late(&mut self, network: SimNetwork, parcel: Parcel) {
        if self.is_cut {
            return;
        }
        let (at, parcel) = (self.arrival() + *self.delay.end(), self.unless_cut(network, parcel));
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            parcel();
        });
    }

    /// Sends it in order.
    pub fn send_reply(&mut self, network: SimNetwork, parcel: Parcel) {
        if self.is_cut {
            return;
        }
        let (at, parcel) = (self.arrival(), self.unless_cut(network, parcel));
        let queue = self.queue.get_or_insert_with(|| {
            let (queue, mut parcels) = mpsc::unbounded_channel::<(Instant, Parcel)>();
            tokio::spawn(async move {
                while let Some((at, parcel)) = parcels.recv().await {
                    tokio::time::sleep_until(at).await;
                    parcel();
                }
            });
            queue
        });
        let sent = queue.send((at, parcel));
        assert!(sent.is_ok(), "the task of a way ends with it");
    }

    fn unless_cut(&self, network: SimNetwork, parcel: Parcel) -> Parcel {
        let (from, to) = (self.from, self.to);
        Box::new(move || {
            if !network.is_cut(from, to) {
                parcel();
            }
        })
    }
}

fn happens(chance: &mut StdRng, permille: u32) -> bool {
    0 < permille && chance.random_range(0..1000) < permille
}
