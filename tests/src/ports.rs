//! Ports that stay free while nobody listens on them, for nodes that are killed and come back at the same address.
//!
//! They are below the range that operating systems use for outgoing connections, so no connection takes one while its
//! node is down. Another program may still take one; the node then says so when it starts.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

use rand::Rng;

/// Linux uses ports from 32768 on for outgoing connections, other systems later ones.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS_MAX: usize = 1_000;

/// An address on which nobody listens, and which this process has not given out before.
pub fn free_address() -> SocketAddr {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().expect("choosing a port does not panic");
    for _ in 0..ATTEMPTS_MAX {
        let port = rand::rng().random_range(PORTS);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && taken.insert(port) {
            return address;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

#[test]
fn no_port_is_given_out_twice() {
    let given: BTreeSet<SocketAddr> = (0..50).map(|_| free_address()).collect();
    assert_eq!(given.len(), 50);
}
