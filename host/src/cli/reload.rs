//! SIGHUP: the configuration file is read again, and what may change while a node runs does.
//!
//! ```text
//! SIGHUP ─▶ file, tokens, certificates: read and checked ─┬ all of it makes sense ─▶ tokens, certificates, limits are replaced
//!                                                         └ anything is wrong      ─▶ nothing is, and the log says what
//! ```
//! In: the file that the node was started with. Out: requests from then on are judged by the new one; none is lost. What needs a restart is named
//! in the log. It knows nothing of how any of it is used.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::api::{Acceptor, Callers, LiveLimits, Replaced, Tls, Tokens};
use crate::config::Config;

/// What can be replaced, and the configuration that it is of.
pub struct Reload {
    pub path: PathBuf,
    /// What is in force.
    pub config: Config,
    pub callers: Arc<Callers>,
    pub acceptor: Acceptor,
    pub limits: Arc<LiveLimits>,
}

/// What a reload has done.
struct Done {
    tokens: Replaced,
    /// What is other in the file than here, and stays as it is here.
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
            // A disk, or a network behind it, may take its time.
            let read = tokio::task::spawn_blocking(move || {
                self.once();
                self
            });
            match read.await {
                Ok(again) => self = again,
                Err(error) => {
                    tracing::error!(%error, "reading the configuration again has failed; from now on only a restart does");
                    return;
                }
            }
        }
    }

    fn once(&mut self) {
        let (path, outcome) = (self.path.display().to_string(), self.replace());
        let result = if outcome.is_ok() { "done" } else { "refused" };
        match outcome {
            Ok(Done { tokens: Replaced { kept, added, removed }, needs_restart }) => {
                let (added, removed) = (added.join(" "), removed.join(" "));
                tracing::info!(
                    path,
                    tokens_kept = kept,
                    tokens_added = added,
                    tokens_removed = removed,
                    "the configuration was read again"
                );
                if !needs_restart.is_empty() {
                    let what = needs_restart.join(" ");
                    tracing::warn!(
                        what,
                        "what is other in the configuration now needs a restart, and stays as it was until then"
                    );
                }
            }
            Err(error) => {
                tracing::error!(
                    path,
                    "the configuration was not taken, and everything stays as it was: {error:#}; correct it and send SIGHUP again"
                );
            }
        }
        metrics::counter!("statehouse_reloads_total", "result" => result).increment(1);
    }

    fn replace(&mut self) -> anyhow::Result<Done> {
        let new = Config::load(&self.path)?;
        let tokens = Tokens::new(&new.auth.tokens, self.config.http.listen)?;
        let tls = match (&self.config.http.tls, &new.http.tls) {
            (Some(_), Some(tls)) => Some(Tls::read(tls).context("`http.tls`")?),
            _ => None,
        };
        // All of it makes sense: nothing fails from here on.
        if let Some(tls) = tls {
            self.acceptor.replace(tls);
            self.config.http.tls = new.http.tls.clone();
        }
        self.limits.replace(new.limits.clone());
        self.config.limits = new.limits.clone();
        self.config.auth.tokens = new.auth.tokens.clone();
        self.config.auth.open = new.auth.open;
        let tokens = self.callers.replace(tokens);
        Ok(Done { tokens, needs_restart: others(&self.config, &new) })
    }
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
