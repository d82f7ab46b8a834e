//! Where requests of webhooks may go: anywhere in public, and to what `webhooks.allow` names.
//!
//! In: an address that a host was resolved to, and the host. Out: whether this node may connect to it. Without the
//! list, a caller who may create webhooks could make the node send requests to what only the node can reach: itself,
//! its internal network, a cloud's metadata. It resolves nothing, and knows nothing of requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::HOST_NAME_BYTES_MAX;

/// What may be connected to besides public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receivers {
    hosts: Vec<String>,
    networks: Vec<AddressRange>,
}

/// An address with how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddressRange {
    address: IpAddr,
    bits: u8,
}

impl Receivers {
    /// What `dev` and examples need: receivers on this machine.
    pub const ON_THIS_MACHINE: [&str; 3] = ["localhost", "127.0.0.0/8", "::1"];

    /// Host names, addresses, and networks like `10.0.0.0/8`.
    ///
    /// # Errors
    /// The first entry that is none of them.
    pub fn parse<'t>(entries: impl IntoIterator<Item = &'t str>) -> Result<Self, String> {
        let mut receivers = Self::default();
        for entry in entries {
            if let Some(network) = AddressRange::parse(entry) {
                receivers.networks.push(network);
            } else if is_host_name(entry) {
                receivers.hosts.push(entry.to_ascii_lowercase());
            } else {
                return Err(entry.to_owned());
            }
        }
        Ok(receivers)
    }

    /// Whether a host is named itself, so that it may be anywhere.
    pub fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host.trim_end_matches('.')))
    }

    /// Whether an address may be connected to, no matter which host name led to it.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = plain(address);
        is_public(address) || self.networks.iter().any(|network| network.contains(address))
    }
}

impl AddressRange {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(bits_max);
        (bits <= bits_max).then_some(Self { address, bits })
    }

    fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                u32::from(own) ^ u32::from(other) <= u32::MAX.checked_shr(self.bits.into()).unwrap_or(0)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                u128::from(own) ^ u128::from(other) <= u128::MAX.checked_shr(self.bits.into()).unwrap_or(0)
            }
            _ => false,
        }
    }
}

fn is_host_name(text: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    // Numbers with dots are addresses, if they are anything.
    (1..=HOST_NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_name_byte)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// An IPv4 address in whatever clothes it comes.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let segments = six.segments();
    let four = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match segments {
        // Mapped, and translated by NAT64 and 6to4, which bring a connection to the IPv4 address.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            four(high, low).into()
        }
        _ => address,
    }
}

/// Whether an address is one of the whole internet's, as far as blocks have a purpose of their own.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let [a, b, c, _] = four.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_special = a == 0 || a >= 240 || (a, b, c) == (192, 0, 0) || (a == 198 && matches!(b, 18 | 19));
            let is_local = four.is_loopback() || four.is_private() || four.is_link_local() || four.is_multicast();
            !(is_local || is_shared || is_special)
        }
        // All that is given to networks and hosts as public addresses begins with 001.
        IpAddr::V6(six) => is_global_unicast(six),
    }
}

fn is_global_unicast(six: Ipv6Addr) -> bool {
    let [first, second, ..] = six.segments();
    // Teredo brings a connection to an IPv4 address that nobody has looked at.
    first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &[&str], address: &str, expected: bool) {
        let receivers = Receivers::parse(allowed.iter().copied()).expect("good entries");
        assert_eq!(receivers.allows(address.parse().expect("an address")), expected, "{allowed:?} {address}");
    }

    #[test]
    fn only_public_addresses_are_allowed_unless_others_are_named() {
        for public in
            ["93.184.215.14", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"]
        {
            check(&[], public, true);
        }
        let private = [
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.7",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.0.192",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "100::1",
        ];
        for address in private {
            check(&[], address, false);
            check(&["hooks.example.com"], address, false);
        }
    }

    #[test]
    fn networks_are_named_by_their_bits() {
        check(&["10.1.0.0/16"], "10.1.255.255", true);
        check(&["10.1.0.0/16"], "::ffff:10.1.2.3", true);
        check(&["10.1.0.0/16"], "10.2.0.0", false);
        check(&["127.0.0.1"], "127.0.0.1", true);
        check(&["127.0.0.1"], "127.0.0.2", false);
        check(&["0.0.0.0/0"], "127.0.0.1", true);
        check(&["0.0.0.0/0"], "::1", false);
        check(&["fd00::/8"], "fdff::1", true);
        check(&["::/0"], "fe80::1", true);
        check(&Receivers::ON_THIS_MACHINE, "127.9.9.9", true);
        check(&Receivers::ON_THIS_MACHINE, "10.0.0.1", false);
    }

    #[test]
    fn hosts_are_named_whole() {
        let receivers = Receivers::parse(["Hooks.internal", "10.0.0.0/8"]).expect("good entries");
        assert!(receivers.names("hooks.INTERNAL") && receivers.names("hooks.internal."));
        assert!(!receivers.names("a.hooks.internal") && !receivers.names("internal") && !receivers.names("10.0.0.1"));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::1/129", "https://a", "a b", "*.internal", "a/8", "1.2.3.4.5"] {
            assert_eq!(Receivers::parse([wrong]), Err(wrong.to_owned()));
        }
    }
}
