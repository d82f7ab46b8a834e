//! The page about problem codes: code, status and title from the table in `api/problem.rs`, and what to do about each.
//!
//! In: the lines of that table. Out: Markdown, by status. The test fails for a code without advice, and for advice
//! without a code. It does not know the codes of modules, which are in their own descriptions.

use std::collections::BTreeMap;

use expect_test::expect_file;

use super::{MADE, assert_same, source, wrap};

const OPENING: &str = "Every error is a problem as in RFC 9457, with `Content-Type: application/problem+json`. It \
    has `type` (`urn:statehouse:problem:CODE`), `title`, `status`, `detail`, `instance` (the id of the request) and \
    `code`. Programs should use `code`. `detail` is for people, and says what to do. Some problems have further \
    members, such as `field` and `pointer` for a place in the body. A module's refusals and rejections have codes of \
    their own; those that are recorded have `Status: \"rejected\"`.";

const RETRY: &str = "Codes with 429, 503 and 507 mean that the command was *not accepted*: nothing happened, and it \
    may be sent again with the same id, after `Retry-After` if the answer has one. A 504 `outcome_unknown` means \
    that the outcome is not known yet: send the command again with the same id.";

/// The meaning of a code, and what to do.
const ADVICE: [(&str, &str); 78] = [
    ("malformed_body", "The body is not JSON. `detail` has the place. Correct it."),
    ("unknown_field", "The schema has no such field. Leave it out, or check its name in `/openapi.json`."),
    ("duplicate_field", "A name occurs twice in an object. Leave one out."),
    ("missing_field", "A required field is not there. Add it."),
    ("field_in_path", "The field is given by the path. Leave it out of the body."),
    ("wrong_type", "The value has another type than the schema says. Amounts are texts, for instance."),
    ("not_integer", "Numbers are integers here. Send amounts as texts."),
    ("out_of_range", "The number is below the minimum or above the maximum of the schema."),
    ("bad_length", "The text is too short or too long for the schema."),
    ("not_listed", "Only the values that the schema lists are allowed."),
    ("bad_uuid", "A UUID has 36 characters, with hyphens."),
    ("bad_name", "Names have letters, digits, `.`, `_`, `:`, `-` and a leading `@` only."),
    ("too_many_items", "A list or a map has more items than the schema allows."),
    ("too_deep", "Lists and objects are nested too deeply."),
    ("https_required", "The address speaks TLS. Use `https://`."),
    ("bad_path", "A part of the path is malformed, such as the id of a command."),
    ("bad_parameter", "A parameter of the URL is malformed; `field` names it."),
    ("unknown_parameter", "The route has no such parameter. Leave it out."),
    ("bad_header", "A header is malformed, or contradicts the body; `detail` says which."),
    ("unknown_command", "The machine has no such command. `/openapi.json` lists them."),
    ("empty_batch", "The batch has no command."),
    ("unauthenticated", "Send `Authorization: Bearer TOKEN` with a token that this node knows."),
    ("forbidden", "The token has none of the roles that the route needs. Use another token, or ask an admin."),
    ("entity_forbidden", "The token is bound to entities, and this one is not among them. The answer names it."),
    (
        "foreign_host",
        "A node without tokens answers only to its own names. Add the name to `auth.hosts`, or configure tokens.",
    ),
    ("foreign_origin", "A node without tokens answers no web page of another origin. Configure tokens."),
    ("not_found", "There is no such route. `/openapi.json` lists them all."),
    ("unknown_machine", "There is no machine of this name."),
    ("unknown_node", "No node of this number is in the cluster."),
    ("unknown_partition", "The machine has no such partition; they are numbered from 0."),
    ("unknown_module", "No such module is staged. `statehouse module log` lists what is."),
    ("unknown_replay", "The node has no such replay. It keeps the newest ones only."),
    ("unknown_view", "There is no such view. `statehouse view list` shows them."),
    ("unknown_webhook", "There is no such webhook. `statehouse webhook list` shows them."),
    ("method_not_allowed", "The route has other methods; the header `Allow` lists them."),
    (
        "body_timeout",
        "The body did not arrive before the deadline. Send it faster, or with a longer `Statehouse-Deadline`.",
    ),
    ("slow_reader", "The last event of a stream whose reader took nothing for too long. Continue from the cursor."),
    ("cluster_exists", "The node belongs to a cluster already."),
    ("node_id_used", "The number was used before. Add the node under a number that no node ever had."),
    ("no_peer", "The configuration of the node has no `[peer]`, so it cannot be part of a cluster."),
    ("node_refused", "Another node refused the change; `detail` has its reason."),
    (
        "step_refused",
        "The module, view or webhook cannot take this step now. `detail` says what is missing, and which command \
        supplies it.",
    ),
    (
        "not_in_flight",
        "No command with this id is in flight, so an order about it has no effect. Ask `commands/{id}` what became \
        of it.",
    ),
    ("several_homes", "Commands with several homes have this id. Name the one you mean with `home`."),
    ("participant_unavailable", "A participant has no leader that a majority answers. Restore that partition first."),
    ("order_refused", "The protocol does not allow this order now; `reason` has the rule."),
    ("replay_unfinished", "The replay is not finished. Ask again later."),
    ("replays_full", "The node keeps as many replays as it can. Delete one."),
    (
        "id_ambiguous",
        "Several commands have this id, or another caller sent the one that has it. Name its `home`; `homes` lists \
        those you may see.",
    ),
    ("position_gone", "The position or cursor is of another history, or of an end that was lost. Begin without it."),
    ("history_released", "This node has deleted the journal that far back. Ask another node, or use an archive."),
    (
        "outcome_released",
        "A command with this id was decided, and the entry is not on this node any more. Ask another node, or audit \
        an archive.",
    ),
    ("body_too_large", "The body is larger than the route allows; `detail` has the limit."),
    ("wrong_content_type", "Send the `Content-Type` that `detail` names, also for a POST without a body."),
    ("wrong_content_encoding", "Send the body as it is, without compression."),
    ("id_reused", "The id belongs to a command with other content; `fields` differ. Use a new id."),
    (
        "invalid_change",
        "The change makes no sense, or would leave a partition without a majority. `detail` has the reason.",
    ),
    ("rejection_limit", "Too many of your commands were rejected. Send fewer commands that cannot succeed."),
    (
        "too_many_at_once",
        "You, or your address, take as many places as one caller may take. Send less at the same time, or raise \
         `limits.share_percent`.",
    ),
    ("internal", "A bug of the host. Report it with the log."),
    ("module_fault", "The module failed on a query or a rendering. Report it to the author of the module."),
    (
        "not_ready",
        "The node does not serve everything yet; `detail` lists what is missing. See the \
        [runbook](../operate/runbook.md).",
    ),
    ("view_not_served", "The view is being built, or has stopped. `statehouse view status` says why."),
    ("no_cluster", "The node belongs to no cluster yet. Nothing changed."),
    ("node_unreachable", "A node that the change needs does not answer. Nothing changed."),
    (
        "secret_not_kept",
        "Too few nodes have stored the secret of the webhook. Nothing changed. Start the nodes that are down.",
    ),
    ("overloaded", "The queue of the partition is full. Slow down."),
    (
        "expired",
        "The deadline passed before the command was decided. It was not executed, and will not be. Send it again \
        with a longer deadline.",
    ),
    (
        "no_leader",
        "The partition has no leader. If it lasts, see the \
        [runbook](../operate/runbook.md#a-partition-without-a-leader).",
    ),
    ("halted", "The partition is halted on this node. Ask another node. An operator must look at the log."),
    ("removed", "The node was removed from its cluster. Ask another node."),
    ("draining", "A rollback waits until commands between partitions are over. Send it again."),
    ("not_activated", "The partition cannot switch to its module. An operator must look at `statehouse module log`."),
    ("shutting_down", "The node is being stopped. Send it again, or to another node."),
    (
        "outcome_unknown",
        "The deadline passed while the command was under way. Send it again with the same id, or ask the URL in \
        `resolve`.",
    ),
    ("read_timeout", "The read did not finish before the deadline. Nothing changed. Read again."),
    (
        "change_unfinished",
        "The change is not finished. It may be sent again; `cluster status` or `module log` shows its progress.",
    ),
    ("storage_full", "The disk is full, or the node has no file descriptors left. Reads still work. Make room."),
];

#[test]
fn the_page_has_every_code_and_what_to_do() {
    let mut codes = codes();
    // This answer is given before there is a request, so it is in another file.
    assert!(source("api/tls.rs").contains(r#"\"title\":\"HTTPS required\",\"status\":400"#));
    codes.push(("https_required".to_owned(), 400, "HTTPS required".to_owned()));
    let advice: BTreeMap<&str, &str> = ADVICE.into_iter().collect();
    let names = codes.iter().map(|(code, ..)| code.clone()).collect();
    assert_same("problem codes", names, advice.keys().map(|code| (*code).to_owned()).collect());
    let mut by_status: BTreeMap<u16, Vec<(String, String)>> = BTreeMap::new();
    for (code, status, title) in codes {
        by_status.entry(status).or_default().push((code, title));
    }
    let mut text = format!("{MADE}\n\n# Problem codes\n\n{}\n\n{}\n", wrap(OPENING, "", ""), wrap(RETRY, "", ""));
    for (status, codes) in by_status {
        text += &format!("\n## {status}\n\n| code | title | what to do |\n|---|---|---|\n");
        for (code, title) in codes {
            text += &format!("| `{code}` | {title} | {} |\n", advice[code.as_str()]);
        }
    }
    expect_file!["../../../book/src/reference/problems.md"].assert_eq(&text);
}

/// Code, status and title of each line of the table.
fn codes() -> Vec<(String, u16, String)> {
    let text = source("api/problem.rs");
    let rows = text.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => (\""));
    let rows = rows.filter_map(|(_, row)| {
        let mut parts = row.split('"');
        let (code, status, title) = (parts.next()?, parts.next()?, parts.next()?);
        Some((code.to_owned(), status.trim_matches([',', ' ']).parse().ok()?, title.to_owned()))
    });
    rows.collect()
}
