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

use crate::api::{DeadPage, WebhookPage, WebhookSentPage, WebhooksPage};
use crate::cli::client::{Asked, secret_of, variable};
use crate::cli::module::block_on;
use crate::cli::output::{print, print_json, table};

/// Events that are sent to somebody, signed
#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Show a machine's webhooks, and how far each is; exit code 1 where one is paused or fails
    List(Of),
    /// Show one webhook: what it sends where, how far it is, what keeps it; exit code 1 where it is paused or fails
    Status(NamedArgs),
    /// Have events sent to a URL; prints the secret that verifies them, once, unless you give it
    Create(CreateArgs),
    /// Send nothing more until it is resumed
    Pause(NamedArgs),
    /// Continue where it was paused
    Resume(NamedArgs),
    /// Sign by a new secret as well as by the old one, which `--finish` ends once the receiver knows the new one; a second rotation before that takes
    /// the place of the first
    Rotate(RotateArgs),
    /// End a webhook, and forget its dead letters
    Drop(NamedArgs),
    /// Show the messages that were given up
    DeadLetters(NamedArgs),
    /// Send dead letters once more
    Redeliver(RedeliverArgs),
    /// Continue from another place: what was sent before is sent again. Each event has the `id` it had. With `--batch`, requests have the
    /// `webhook-id` they had only after the end of one of them
    Replay(ReplayArgs),
    /// Send an event that stands for nothing, and show the receiver's answer
    Test(NamedArgs),
}

#[derive(Debug, Args)]
pub struct NamedArgs {
    /// Name of the webhook
    webhook: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name: small letters, digits, `_` and `-`
    webhook: String,
    /// Where requests go: https, or http on the node's own machine
    #[arg(long)]
    to: String,
    /// `now`, `start`, or a cursor as event streams have it
    #[arg(long, default_value = "now")]
    from: String,
    /// Only what is about this entity; may be given several times
    #[arg(long = "key")]
    keys: Vec<String>,
    /// Only events of this type, like `Debited` or `CommandRejected`; may be given several times
    #[arg(long = "type")]
    types: Vec<String>,
    /// Only of this partition; may be given several times
    #[arg(long = "partition")]
    partitions: Vec<u32>,
    /// Events of one request at most; with more than 1 each request is an array
    #[arg(long, default_value_t = 1)]
    batch: u32,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Name of the webhook
    webhook: String,
    /// Sign by the newest secret alone from now on
    #[arg(long, conflicts_with_all = ["secret", "secret_file"])]
    finish: bool,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    of: Of,
}

/// A secret that the receiver knows; without one the node makes it.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// A file with a secret that the receiver knows, `whsec_…`; without it one is made. The variable STATEHOUSE_WEBHOOK_SECRET has
    /// the secret itself
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The secret itself. Deprecated: everybody on this machine reads it in the list of processes; use --secret-file or
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
    /// Name of the webhook
    webhook: String,
    /// The letter, as `dead-letters` names it; without it all of them, oldest first, until one is not taken
    #[arg(long)]
    letter: Option<String>,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Name of the webhook
    webhook: String,
    /// `start`, `now`, or a cursor as `status` and event streams have it
    #[arg(long)]
    from: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
pub struct Of {
    /// Name of the machine
    #[arg(long, default_value = "wallet")]
    machine: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asked: Asked,
}

pub fn run(command: &WebhookCommand) -> anyhow::Result<ExitCode> {
    match command {
        WebhookCommand::List(of) => Ok(code(list(of, of.get("")?)?)),
        WebhookCommand::Status(NamedArgs { webhook, of }) => {
            let page = of.get(&format!("/{webhook}"))?;
            Ok(code(show(of, page)? == "delivering"))
        }
        WebhookCommand::Create(args) => create(args),
        WebhookCommand::Pause(NamedArgs { webhook, of }) => changed(of, of.post(&format!("/{webhook}/pause"), None)?),
        WebhookCommand::Resume(NamedArgs { webhook, of }) => changed(of, of.post(&format!("/{webhook}/resume"), None)?),
        WebhookCommand::Rotate(RotateArgs { webhook, finish, secret, of }) => {
            let mut body = json!({ "finish": finish });
            // If no new secret is asked for, the one in the environment is not meant.
            if let Some(secret) = secret.read()?.filter(|_| !finish) {
                body["secret"] = json!(secret);
            }
            changed(of, of.post(&format!("/{webhook}/rotate"), Some(&body))?)
        }
        WebhookCommand::Drop(NamedArgs { webhook, of }) => {
            // The state of the other webhooks does not affect the success of this command.
            list(of, of.send(Method::DELETE, &format!("/{webhook}"), None)?)?;
            Ok(ExitCode::SUCCESS)
        }
        WebhookCommand::DeadLetters(NamedArgs { webhook, of }) => dead_letters(of, of.page(webhook)?),
        WebhookCommand::Redeliver(args) => redeliver(args),
        WebhookCommand::Replay(ReplayArgs { webhook, from, of }) => {
            changed(of, of.post(&format!("/{webhook}/replay"), Some(&json!({ "from": from })))?)
        }
        WebhookCommand::Test(NamedArgs { webhook, of }) => {
            let sent = of.sent(of.post(&format!("/{webhook}/test"), None)?)?;
            show_sent(of, std::slice::from_ref(&sent))
        }
    }
}

const OTHER_VERSION: &str = "the node's answer is not that of this version; use the `statehouse` it runs";

impl Of {
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

fn create(args: &CreateArgs) -> anyhow::Result<ExitCode> {
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
fn list(of: &Of, page: Value) -> anyhow::Result<bool> {
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

fn changed(of: &Of, page: Value) -> anyhow::Result<ExitCode> {
    show(of, page)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns its state.
fn show(of: &Of, page: Value) -> anyhow::Result<String> {
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
        text.push_str(&format!("the receiver verifies by this secret, which is not shown again:\n{secret}\n"));
    }
    text
}

fn dead_letters(of: &Of, page: WebhookPage) -> anyhow::Result<ExitCode> {
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

fn show_sent(of: &Of, sent: &[WebhookSentPage]) -> anyhow::Result<ExitCode> {
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
