//! Paths and methods, and the pages they lead to.

use statehouse_abi::role;

use super::*;
use crate::api::caller::role_names;
use crate::api::roles::QUERY_ROLES;
use crate::config::{EVERY_ROLE, MONITOR};

#[test]
fn a_path_is_the_modules_or_the_hosts() {
    assert_eq!(module_path("/v1/wallet/accounts/a/b"), Some(("wallet", "accounts/a/b")));
    assert_eq!(module_path("/v1/wallet/"), Some(("wallet", "")));
    for host in ["/v1/wallet/batch", "/v1/wallet/commands", "/v1/wallet/events/x", "/v1/machines/x", "/v1/cluster/x"] {
        assert_eq!(module_path(host), None, "{host}");
    }
    for host in ["/v1/wallet", "/v1/", "/healthz", "/v2/wallet/x"] {
        assert_eq!(module_path(host), None, "{host}");
    }
}

#[test]
fn host_routes_are_found_by_method_and_path() {
    let find = |method, path| {
        find_host_route(&method, path)
            .map(|(route, captured)| (route.name, captured))
            .map_err(|problem| (problem.status(), problem.detail().to_owned()))
    };
    assert_eq!(find(Method::POST, "/v1/m/batch"), Ok(("Batch", vec!["m"])));
    assert_eq!(find(Method::GET, "/v1/m/commands/7"), Ok(("CommandStatus", vec!["m", "7"])));
    assert_eq!(find(Method::HEAD, "/healthz"), Ok(("Health", vec![])));
    assert_eq!(find(Method::GET, "/v1/m/batch"), Err((405, "use POST".into())));
    assert_eq!(find(Method::DELETE, "/readyz"), Err((405, "use GET, HEAD".into())));
    assert_eq!(find(Method::DELETE, "/v1/cluster/nodes/4"), Ok(("NodeRemove", vec!["4"])));
    assert_eq!(find(Method::GET, "/v1/cluster/init"), Err((405, "use POST".into())));
    assert_eq!(find(Method::GET, "/v1/m").map_err(|(status, _)| status), Err(404));
}

/// Every role, and what it is for.
const ROLES: [(u32, &str); 8] = [
    (role::CLIENT, "programs that send commands and read"),
    (role::TREASURY, "the same, and what the module keeps for it: in the wallet, deposits"),
    (role::COMPLIANCE, "reads, and sends the commands that `[auth.commands]` gives to it"),
    (role::AUDITOR, "reads everything, starts replays, takes snapshots"),
    (role::DEVELOPER, "reads everything, stages modules, starts replays and shadows"),
    (role::OPERATOR, "changes the cluster, modules, views and webhooks, and gives orders about commands in flight"),
    (role::ADMIN, "the same, and activates a module without a certificate"),
    (MONITOR, "sees the health and the metrics of the node, but no data of a machine; no module ever sees this role"),
];

const ROLES_OPENING: &str =
    "<!-- This page is made from the code by a test: UPDATE_EXPECT=1 writes it. Do not edit it. -->

# Roles and routes

A token has one or more of these roles; see [Authentication and TLS](../operate/auth-and-tls.md).

| role | for |
|---|---|
";
const ROUTES_OPENING: &str = "
## Commands and queries of a module

Commands need `client` or `treasury`, unless `[auth.commands.MACHINE]` names other roles. Queries
need any role except `monitor`. A module can restrict its commands and queries further; its own
description says how. A token that is bound to entities reads and sends only inside them.

## Routes of the host

`/openapi.json` of a running node lists these routes with their bodies and answers, and the routes
of its modules. A caller needs one of the roles that are listed here.

";

/// The page of the book about roles and routes is what the tables here say.
#[test]
fn the_page_about_roles_is_what_the_table_says() {
    let mut text = ROLES_OPENING.to_owned();
    let all = ROLES.iter().fold(0, |all, (bit, _)| all | bit);
    assert_eq!(all, EVERY_ROLE, "each role has a line");
    for (bit, what) in ROLES {
        text += &format!("| `{}` | {what} |\n", role_names(bit));
    }
    text += ROUTES_OPENING;
    text += "| route | roles | what it does |\n|---|---|---|\n";
    for route in HOST_ROUTES {
        let roles = match route.roles() {
            None => "none, and no token".to_owned(),
            Some(QUERY_ROLES) => "all but `monitor`".to_owned(),
            Some(roles) => format!("`{}`", role_names(roles).replace(", ", "` `")),
        };
        let HostRoute { method, path, summary, .. } = route;
        text += &format!("| `{method} {path}` | {roles} | {summary} |\n");
    }
    expect_test::expect_file!["../../../../book/src/reference/roles.md"].assert_eq(&text);
}
