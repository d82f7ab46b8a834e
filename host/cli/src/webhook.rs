//! `statehouse webhook list | status | create | pause | resume | rotate | drop | dead-letters | redeliver | replay |
//! test`: events that are sent to a URL.
//!
//! In: a node's URL, a token, and which webhook. Out: tables or JSON. Any node can be asked. Exit code 0: done, or all
//! is well. Exit code 1 of `list` and `status`: a webhook is paused or fails; of `dead-letters`: there are some; of
//! `redeliver` and `test`: the receiver did not accept what was sent. It does not know how a message is signed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use statehouse_node::api::{DeadPage, WebhookPage, WebhookSentPage, WebhooksPage};

use crate::client::{ClientArgs, secret_of, variable};
use crate::module::block_on;
use crate::output::{print, print_json, table};

/// Create, show and change webhooks: signed requests that send a machine's events to a URL
#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Show a machine's webhooks, and how far each one has sent; exit code 1 if one is paused or fails
    List(WebhookTargetArgs),
    /// Show one webhook: what it sends, where, how far, and what stops it; exit code 1 if it is paused or fails
    Status(WebhookNamedArgs),
    /// Create a webhook that sends events to a URL
    ///
    /// The command prints the secret by which the receiver verifies the requests. It is printed only this once, and not
    /// at all if you give the secret yourself.
    Create(WebhookCreateArgs),
    /// Pause a webhook: nothing more is sent until it is resumed
    Pause(WebhookNamedArgs),
    /// Resume a paused webhook where it stopped
    Resume(WebhookNamedArgs),
    /// Replace a webhook's secret in two steps
    ///
    /// First, `rotate` adds a new secret: requests are signed with both. Once the receiver knows the new secret,
    /// `rotate --finish` drops the old one. If you rotate twice before --finish, the second new secret replaces the
    /// first.
    Rotate(RotateArgs),
    /// Drop a webhook, and its dead letters
    Drop(WebhookNamedArgs),
    /// Show the messages that were given up after three days of failed attempts (`retry_seconds`)
    ///
    /// Exit code 1 means that there are any.
    DeadLetters(WebhookNamedArgs),
    /// Send dead letters once more; exit code 1 if the receiver does not take one
    Redeliver(RedeliverArgs),
    /// Continue from another position, so that events are sent again
    ///
    /// Each event keeps its `id`. A request of several events (--batch) keeps its `webhook-id` only if the position is
    /// the end of such a request.
    Replay(WebhookReplayArgs),
    /// Send a test event, and show the receiver's answer; exit code 1 if the receiver does not take it
    Test(WebhookNamedArgs),
}

#[derive(Debug, Args)]
pub struct WebhookNamedArgs {
    /// The name of the webhook
    webhook: String,
    #[command(flatten)]
    of: WebhookTargetArgs,
}

#[derive(Debug, Args)]
pub struct WebhookCreateArgs {
    /// The name of the new webhook: lower-case letters, digits, `_` and `-`
    webhook: String,
    /// The URL that requests go to: https, or http on the node's own machine
    #[arg(long)]
    to: String,
    /// Where to begin: `now`, `start`, or a cursor of an event stream
    #[arg(long, default_value = "now")]
    from: String,
    /// Send only events about this entity; may be given several times
    #[arg(long = "key")]
    keys: Vec<String>,
    /// Send only events of this type, like `Debited` or `CommandRejected`; may be given several times
    #[arg(long = "type")]
    types: Vec<String>,
    /// Send only events of this partition; may be given several times
    #[arg(long = "partition")]
    partitions: Vec<u32>,
    /// The most events in one request; if it is more than 1, every request is an array
    #[arg(long, default_value_t = 1)]
    batch: u32,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    of: WebhookTargetArgs,
}

#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The name of the webhook
    webhook: String,
    /// Sign with the newest secret only, from now on
    #[arg(long, conflicts_with_all = ["secret", "secret_file"])]
    finish: bool,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    of: WebhookTargetArgs,
}

/// A secret that the receiver knows; without one the node makes it.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// A file with the secret, `whsec_…`; without it the node makes one. Or put the secret itself into the variable
    /// STATEHOUSE_WEBHOOK_SECRET
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The secret itself. Deprecated: every user of this machine can read it in the process list; use --secret-file or
    /// STATEHOUSE_WEBHOOK_SECRET
    #[arg(long, conflicts_with = "secret_file")]
    secret: Option<String>,
}

impl SecretArgs {
    fn read(&self) -> anyhow::Result<Option<String>> {
        match (&self.secret, &self.secret_file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, Some(path)) => {
                secret_of(path).map(Some).with_context(|| format!("--secret-file {}", path.display()))
            }
            (None, None) => Ok(variable("STATEHOUSE_WEBHOOK_SECRET")),
        }
    }
}

#[derive(Debug, Args)]
pub struct RedeliverArgs {
    /// The name of the webhook
    webhook: String,
    /// The dead letter, as `dead-letters` names it; the default is all, oldest first, until the receiver does not take
    /// one
    #[arg(long)]
    letter: Option<String>,
    #[command(flatten)]
    of: WebhookTargetArgs,
}

#[derive(Debug, Args)]
pub struct WebhookReplayArgs {
    /// The name of the webhook
    webhook: String,
    /// The position: `start`, `now`, or a cursor from `status` or an event stream
    #[arg(long)]
    from: String,
    #[command(flatten)]
    of: WebhookTargetArgs,
}

#[derive(Debug, Args)]
pub struct WebhookTargetArgs {
    /// The name of the machine
    #[arg(long, default_value = "wallet")]
    machine: String,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asked: ClientArgs,
}

pub fn run(command: &WebhookCommand) -> anyhow::Result<ExitCode> {
    match command {
        WebhookCommand::List(of) => Ok(code(list(of, of.get("")?)?)),
        WebhookCommand::Status(WebhookNamedArgs { webhook, of }) => {
            let page = of.get(&format!("/{webhook}"))?;
            Ok(code(show(of, page)? == "delivering"))
        }
        WebhookCommand::Create(args) => create(args),
        WebhookCommand::Pause(WebhookNamedArgs { webhook, of }) => {
            changed(of, of.post(&format!("/{webhook}/pause"), None)?)
        }
        WebhookCommand::Resume(WebhookNamedArgs { webhook, of }) => {
            changed(of, of.post(&format!("/{webhook}/resume"), None)?)
        }
        WebhookCommand::Rotate(RotateArgs { webhook, finish, secret, of }) => {
            let mut body = json!({ "finish": finish });
            // If no new secret is asked for, the one in the environment is not meant.
            if let Some(secret) = secret.read()?.filter(|_| !finish) {
                body["secret"] = json!(secret);
            }
            changed(of, of.post(&format!("/{webhook}/rotate"), Some(&body))?)
        }
        WebhookCommand::Drop(WebhookNamedArgs { webhook, of }) => {
            // The state of the other webhooks does not affect the success of this command.
            list(of, of.send(Method::DELETE, &format!("/{webhook}"), None)?)?;
            Ok(ExitCode::SUCCESS)
        }
        WebhookCommand::DeadLetters(WebhookNamedArgs { webhook, of }) => dead_letters(of, of.page(webhook)?),
        WebhookCommand::Redeliver(args) => redeliver(args),
        WebhookCommand::Replay(WebhookReplayArgs { webhook, from, of }) => {
            changed(of, of.post(&format!("/{webhook}/replay"), Some(&json!({ "from": from })))?)
        }
        WebhookCommand::Test(WebhookNamedArgs { webhook, of }) => {
            let sent = of.sent(of.post(&format!("/{webhook}/test"), None)?)?;
            show_sent(of, std::slice::from_ref(&sent))
        }
    }
}

const OTHER_VERSION: &str = "the node's answer is not that of this version; use the `statehouse` it runs";

impl WebhookTargetArgs {
    fn get(&self, rest: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, rest, None)
    }

    fn post(&self, rest: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.send(Method::POST, rest, body)
    }

    fn send(&self, method: Method, rest: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let path = format!("/v1/machines/{}/webhooks{rest}", self.machine);
        let client = self.asked.client()?;
        block_on(client.send(method, &path, body))
    }

    fn page(&self, webhook: &str) -> anyhow::Result<WebhookPage> {
        serde_json::from_value(self.get(&format!("/{webhook}"))?).context(OTHER_VERSION)
    }

    fn sent(&self, page: Value) -> anyhow::Result<WebhookSentPage> {
        serde_json::from_value(page).context(OTHER_VERSION)
    }
}

fn create(args: &WebhookCreateArgs) -> anyhow::Result<ExitCode> {
    let mut body = json!({
        "webhook": args.webhook,
        "url": args.to,
        "from": args.from,
        "keys": args.keys,
        "types": args.types,
        "partitions": args.partitions,
        "batch": args.batch,
    });
    if let Some(secret) = args.secret.read()? {
        body["secret"] = json!(secret);
    }
    changed(&args.of, args.of.post("", Some(&body))?)
}

/// Returns whether all of them deliver.
fn list(of: &WebhookTargetArgs, page: Value) -> anyhow::Result<bool> {
    let page: WebhooksPage = serde_json::from_value(page).context(OTHER_VERSION)?;
    if of.json {
        print_json(&page)?;
    } else {
        let mut webhooks = table(&["webhook", "url", "state", "entries behind", "dead letters", "problem"]);
        for webhook in &page.webhooks {
            webhooks.add_row([
                webhook.webhook.clone(),
                webhook.url.clone(),
                webhook.state.clone(),
                webhook.lag_entries.to_string(),
                webhook.dead_letters.len().to_string(),
                webhook.problem.clone().unwrap_or_default(),
            ]);
        }
        print(&format!("webhooks of {}\n{webhooks}\n", page.machine))?;
    }
    Ok(page.webhooks.iter().all(|webhook| webhook.state == "delivering"))
}

fn changed(of: &WebhookTargetArgs, page: Value) -> anyhow::Result<ExitCode> {
    show(of, page)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns its state.
fn show(of: &WebhookTargetArgs, page: Value) -> anyhow::Result<String> {
    let page: WebhookPage = serde_json::from_value(page).context(OTHER_VERSION)?;
    if of.json {
        print_json(&page)?;
    } else {
        print(&render(&page))?;
    }
    Ok(page.state)
}

fn code(is_well: bool) -> ExitCode {
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn render(page: &WebhookPage) -> String {
    let mut facts = table(&["webhook", &page.webhook]);
    let mut add = |name: &str, value: String| {
        facts.add_row([name.to_owned(), value]);
    };
    add("url", page.url.clone());
    add("state", page.state.clone());
    if let Some(problem) = &page.problem {
        add("problem", problem.clone());
    }
    if let Some(since) = &page.failing_since {
        add("failing since", format!("{since}, {} attempts", page.attempts));
    }
    for (name, of) in [("keys", &page.keys), ("types", &page.types)] {
        if !of.is_empty() {
            add(name, of.join("\n"));
        }
    }
    let partitions: Vec<String> = page.partitions.iter().map(ToString::to_string).collect();
    add("partitions", partitions.join(", "));
    add("events of one request", page.batch.to_string());
    add("delivered up to", page.cursor.replace(',', "\n"));
    add("entries behind", page.lag_entries.to_string());
    add("dead letters", format!("{} of {}", page.dead_letters.len(), page.dead_letters_total));
    add("secrets", page.secrets.join("\n"));
    add("changed", format!("by {} at {}", page.by, page.time));
    let mut text = format!("{facts}\n");
    if let Some(secret) = &page.secret {
        text.push_str(&format!(
            "the receiver verifies requests with this secret, which is not shown again:\n{secret}\n"
        ));
    }
    text
}

fn dead_letters(of: &WebhookTargetArgs, page: WebhookPage) -> anyhow::Result<ExitCode> {
    if of.json {
        print_json(&page.dead_letters)?;
    } else {
        let mut letters = table(&["letter", "first tried", "given up", "attempts", "problem"]);
        for DeadPage { letter, first_tried, given_up, attempts, problem, .. } in &page.dead_letters {
            letters.add_row([letter, first_tried, given_up, &attempts.to_string(), problem]);
        }
        print(&format!("dead letters of {}\n{letters}\n", page.webhook))?;
    }
    Ok(code(page.dead_letters.is_empty()))
}

fn redeliver(RedeliverArgs { webhook, letter, of }: &RedeliverArgs) -> anyhow::Result<ExitCode> {
    let letters = match letter {
        Some(letter) => vec![letter.clone()],
        None => of.page(webhook)?.dead_letters.into_iter().map(|letter| letter.letter).collect(),
    };
    let mut sent = Vec::with_capacity(letters.len());
    for letter in letters {
        let answer = of.sent(of.post(&format!("/{webhook}/redeliver"), Some(&json!({ "letter": letter })))?)?;
        let is_delivered = answer.is_delivered;
        sent.push(answer);
        if !is_delivered {
            break;
        }
    }
    show_sent(of, &sent)
}

fn show_sent(of: &WebhookTargetArgs, sent: &[WebhookSentPage]) -> anyhow::Result<ExitCode> {
    if of.json {
        print_json(&sent)?;
    } else {
        let mut rows = table(&["webhook-id", "taken", "status", "problem"]);
        for one in sent {
            rows.add_row([
                one.id.clone(),
                if one.is_delivered { "yes" } else { "no" }.to_owned(),
                one.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
                one.problem.clone().unwrap_or_default(),
            ]);
        }
        print(&format!("{rows}\n"))?;
    }
    Ok(code(sent.iter().all(|one| one.is_delivered)))
}
