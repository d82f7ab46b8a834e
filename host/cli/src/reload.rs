//! SIGHUP: the configuration file is read again, and the settings that may change while a node runs take effect.
//!
//! ```text
//! SIGHUP ─▶ file, tokens, certificates: read, checked ─┬ valid   ─▶ replace tokens, roles, certificates, limits
//!                                                      └ invalid ─▶ replace nothing, and log the reason
//! ```
//! In: the file with which the node was started. Out: later requests are judged by the new settings, and none is lost.
//! The certificates are those that clients see and those by which nodes know each other. Settings that need a restart
//! are named in the log. It does not know how a setting is used.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use statehouse_node::api::{Acceptor, Callers, CommandRoles, LiveCommandRoles, LiveLimits, Tls, TokenChanges, Tokens};
use statehouse_node::config::{Config, PeerTlsConfig};
use statehouse_node::system::CertificateRenewal;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::serve::peer_files;

/// The parts that can be replaced, and the configuration in force.
pub struct Reload {
    pub path: PathBuf,
    /// The configuration in force.
    pub config: Config,
    pub callers: Arc<Callers>,
    pub acceptor: Acceptor,
    pub limits: Arc<LiveLimits>,
    pub command_roles: Arc<LiveCommandRoles>,
    /// `None` if nodes know each other without certificates, or if there is one node.
    pub peers: Option<CertificateRenewal>,
}

/// What a reload has done.
struct ReloadReport {
    tokens: TokenChanges,
    commands_changed: bool,
    /// Connections of other nodes that were closed, because no authority vouches for them any more.
    peers_closed: usize,
    /// Sections of the file that differ from the configuration in force, and stay as they are.
    needs_restart: Vec<&'static str>,
}

impl Reload {
    /// Reads the file again whenever the process is told to, until it stops.
    pub async fn run(mut self, mut hangups: Signal, stop: CancellationToken) {
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => {}
                () = stop.cancelled() => return,
            }
            // Reading may take time, because of a disk or a network file system.
            let read = tokio::task::spawn_blocking(move || {
                self.once();
                self
            });
            match read.await {
                Ok(again) => self = again,
                Err(error) => {
                    tracing::error!(
                        %error,
                        "reading the configuration again has failed; from now on only a restart reads it"
                    );
                    return;
                }
            }
        }
    }

    fn once(&mut self) {
        let (path, outcome) = (self.path.display().to_string(), self.replace());
        let result = if outcome.is_ok() { "done" } else { "refused" };
        match outcome {
            Ok(ReloadReport {
                tokens: TokenChanges { kept, added, removed },
                commands_changed,
                peers_closed,
                needs_restart,
            }) => {
                let (added, removed) = (added.join(" "), removed.join(" "));
                tracing::info!(
                    path,
                    tokens_kept = kept,
                    tokens_added = added,
                    tokens_removed = removed,
                    commands_changed,
                    peers_closed,
                    "the configuration was read again"
                );
                if !needs_restart.is_empty() {
                    let what = needs_restart.join(" ");
                    tracing::warn!(
                        what,
                        "these sections of the configuration have changed and need a restart; until then the old \
                         values stay"
                    );
                }
            }
            Err(error) => {
                tracing::error!(
                    path,
                    "the configuration was refused, and everything stays as it was: {error:#}; correct it and send \
                     SIGHUP again"
                );
            }
        }
        metrics::counter!("statehouse_reloads_total", "result" => result).increment(1);
    }

    fn replace(&mut self) -> anyhow::Result<ReloadReport> {
        let new = Config::load(&self.path)?;
        let tokens = Tokens::new(&new.auth.tokens, self.config.http.listen)?;
        let command_roles = CommandRoles::new(&new.auth)?;
        let peers = match (&self.peers, peer_tls(&new)) {
            (Some(renewal), Some(tls)) => Some((renewal, renewal.read(peer_files(tls))?)),
            _ => None,
        };
        let tls = match (&self.config.http.tls, &new.http.tls) {
            (Some(_), Some(tls)) => Some(Tls::read(tls).context("`http.tls`")?),
            _ => None,
        };
        // Everything is valid: nothing fails from here on.
        if let Some(tls) = tls {
            self.acceptor.replace(tls);
            self.config.http.tls = new.http.tls.clone();
        }
        let peers_closed = peers.map_or(0, |(renewal, read)| renewal.replace(&read));
        if let (Some(_), Some(peer), Some(tls)) = (&self.peers, &mut self.config.peer, peer_tls(&new)) {
            peer.tls = Some(tls.clone());
        }
        self.limits.replace(new.limits.clone());
        self.config.limits = new.limits.clone();
        self.config.auth.tokens = new.auth.tokens.clone();
        self.config.auth.open = new.auth.open;
        self.config.auth.commands = new.auth.commands.clone();
        // Before the tokens: a new token must not give access to a command that is now reserved for others.
        let commands_changed = self.command_roles.replace(command_roles);
        let tokens = self.callers.replace(tokens);
        Ok(ReloadReport { tokens, commands_changed, peers_closed, needs_restart: others(&self.config, &new) })
    }
}

fn peer_tls(config: &Config) -> Option<&PeerTlsConfig> {
    config.peer.as_ref()?.tls.as_ref()
}

/// The sections in which two configurations differ.
fn others(config: &Config, new: &Config) -> Vec<&'static str> {
    let sections = [
        ("node", config.node == new.node),
        ("http", config.http == new.http),
        ("machines", config.machines == new.machines),
        ("auth", config.auth == new.auth),
        ("log", config.log == new.log),
        ("snapshots", config.snapshots == new.snapshots),
        ("peer", config.peer == new.peer),
        ("cluster", config.cluster == new.cluster),
        ("webhooks", config.webhooks == new.webhooks),
        ("archive", config.archive == new.archive),
    ];
    sections.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}
