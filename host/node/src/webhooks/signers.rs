//! The secrets of a webhook that some node has, remembered from one request to the next.
//!
//! In: the fingerprints that are wanted, what a search of the cluster has found, the time. Out: who signs, or that a
//! search is needed. A secret that is lost for good costs a search now and then, and not one for each request. It
//! searches nothing itself.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::sign::Secret;

/// How soon a secret that no node had is searched for again, while the newest one signs.
const SEARCH_AGAIN: Duration = Duration::from_secs(5);

/// A secret by its fingerprint.
pub type NamedSecret = ([u8; 32], Secret);

#[derive(Default)]
pub struct Signers(Mutex<Option<Search>>);

/// What was wanted, what was found, and when.
struct Search {
    wanted: Vec<[u8; 32]>,
    found: Vec<NamedSecret>,
    time: Instant,
}

impl Signers {
    /// Who signs; `None` if a search is needed, which the caller then makes.
    pub fn known(&self, wanted: &[[u8; 32]], now: Instant) -> Option<Vec<Secret>> {
        let mut search = self.0.lock();
        let search = search.as_mut().filter(|search| search.wanted == wanted)?;
        if search.found.len() < wanted.len() && search.time + SEARCH_AGAIN <= now {
            // One caller searches, and the others continue.
            search.time = now;
            return None;
        }
        Some(secrets(&search.found))
    }

    /// Who signs after a search; `None` if the newest secret was not found, without which nothing is sent.
    pub fn on_searched(&self, wanted: Vec<[u8; 32]>, found: Vec<NamedSecret>, now: Instant) -> Option<Vec<Secret>> {
        let mut search = self.0.lock();
        *search = None;
        if !has_newest(&wanted, &found) {
            return None;
        }
        let secrets = secrets(&found);
        *search = Some(Search { wanted, found, time: now });
        Some(secrets)
    }
}

/// Whether what was found begins with the newest.
pub fn has_newest(wanted: &[[u8; 32]], found: &[NamedSecret]) -> bool {
    found.first().is_some_and(|(of, _)| Some(of) == wanted.first())
}

fn secrets(found: &[NamedSecret]) -> Vec<Secret> {
    found.iter().map(|(_, secret)| secret.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(known: Option<Vec<Secret>>, expected: Option<&[&Secret]>) {
        let bytes =
            |secrets: Vec<&Secret>| secrets.into_iter().map(|secret| secret.bytes().to_vec()).collect::<Vec<_>>();
        let known = known.as_ref().map(|known| bytes(known.iter().collect()));
        assert_eq!(known, expected.map(|expected| bytes(expected.to_vec())));
    }

    /// Each attempt used to search all nodes, with up to two seconds for each that is silent.
    #[test]
    fn a_lost_secret_is_searched_now_and_then() {
        let (new, old) = (Secret::generate(), Secret::generate());
        let (signers, wanted, begun) = (Signers::default(), [[2; 32], [1; 32]], Instant::now());
        let later = begun + SEARCH_AGAIN;
        let search = |found: &[NamedSecret], now| signers.on_searched(wanted.to_vec(), found.to_vec(), now);
        check(signers.known(&wanted, begun), None);
        check(search(&[([2; 32], new.clone())], begun), Some(&[&new]));
        check(signers.known(&wanted, later - Duration::from_millis(1)), Some(&[&new]));
        check(signers.known(&wanted, later), None);
        check(signers.known(&wanted, later), Some(&[&new]));
        check(signers.known(&[[3; 32], [2; 32]], later), None);
        check(search(&[([2; 32], new.clone()), ([1; 32], old.clone())], later), Some(&[&new, &old]));
        check(signers.known(&wanted, later + 9 * SEARCH_AGAIN), Some(&[&new, &old]));
        check(search(&[([1; 32], old.clone())], later), None);
        check(signers.known(&wanted, later), None);
    }
}
