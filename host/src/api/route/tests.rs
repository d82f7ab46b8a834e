//! Paths and methods, and the pages they lead to.

use super::*;

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
            .map(|(route, captured)| (route.page, captured))
            .map_err(|problem| (problem.status(), problem.detail().to_owned()))
    };
    assert_eq!(find(Method::POST, "/v1/m/batch"), Ok((Page::Batch, vec!["m"])));
    assert_eq!(find(Method::GET, "/v1/m/commands/7"), Ok((Page::CommandStatus, vec!["m", "7"])));
    assert_eq!(find(Method::HEAD, "/healthz"), Ok((Page::Health, vec![])));
    assert_eq!(find(Method::GET, "/v1/m/batch"), Err((405, "use POST".into())));
    assert_eq!(find(Method::DELETE, "/readyz"), Err((405, "use GET, HEAD".into())));
    assert_eq!(find(Method::DELETE, "/v1/cluster/nodes/4"), Ok((Page::NodeRemove, vec!["4"])));
    assert_eq!(find(Method::GET, "/v1/cluster/init"), Err((405, "use POST".into())));
    assert_eq!(find(Method::GET, "/v1/m").map_err(|(status, _)| status), Err(404));
}
