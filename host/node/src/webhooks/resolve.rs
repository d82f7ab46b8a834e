//! Names of receivers become addresses that may be connected to.
//!
//! In: a host. Out: those of its addresses that are public, or that the configuration allows. The connection goes to
//! one of these very addresses, so a name that resolves to something else a moment later gains nothing. It knows no
//! ports and no URLs.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config::Receivers;

pub struct CheckedResolver(pub Arc<Receivers>);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let receivers = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            // The caller sets the port.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            let is_named = receivers.names(host);
            let allowed: Vec<SocketAddr> =
                found.iter().copied().filter(|address| is_named || receivers.allows(address.ip())).collect();
            if allowed.is_empty() {
                let addresses: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
                let addresses = addresses.join(", ");
                return Err(format!("{host} is {addresses}: neither public nor in `webhooks.allow`").into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
