//! Every row of the table of routes at the real router: who is let in is who the book says, and OpenAPI has them all.
//!
//! In: the table, the page of the book about roles, a node without machines. It sends nothing that could be carried
//! out: no machine has the name that is asked for, and the body of each request breaks off.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::Value as Json;
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::api::caller::role_names;
use crate::api::openapi::document;
use crate::api::route::{HOST_ROUTES, HostRoute, RouteHandler, find_host_route};
use crate::api::{ApiOptions, Callers, LiveLimits, Origins, server};
use crate::clock::SystemClock;
use crate::config::{LimitsConfig, Role, TokenConfig, WebhooksConfig};
use crate::disk::RealDisk;
use crate::features;
use crate::ids::NodeId;
use crate::limits;
use crate::rehearsal::jobs::Replays;
use crate::rfc3339::parse_time;
use crate::system::{Node, NodeOptions};

const ROLES: [Role; 8] = [
    Role::Client,
    Role::Treasury,
    Role::Compliance,
    Role::Auditor,
    Role::Developer,
    Role::Operator,
    Role::Admin,
    Role::Monitor,
];
/// Neither a machine nor an id.
const NOWHERE: &str = "nowhere";

fn name_of(role: Role) -> String {
    role_names(Role::bits(&[role]))
}

/// A node that nobody else is asked about, with a token for each role: the role's name.
async fn served(folder: &TempDir) -> (Node, axum::Router) {
    let node = Node::open(NodeOptions {
        data: folder.path().to_owned(),
        node: NodeId(1),
        machines: Vec::new(),
        disk: Arc::new(RealDisk),
        clock: Arc::new(SystemClock),
        paranoid: false,
        log_keep_bytes: None,
        snapshot_every_bytes: None,
        snapshot_keep: None,
        scrub_bytes_per_second: limits::SCRUB_BYTES_PER_SECOND,
        feature_level_max: features::HIGHEST,
        archive: None,
        hot_bytes_max: limits::HOT_TABLE_BYTES_MAX,
        peer: None,
        http: None,
    });
    let node = node.await.expect("a new folder");
    let token = |role: Role| {
        let blake3 = blake3::hash(name_of(role).as_bytes()).to_hex().to_string();
        TokenConfig { name: name_of(role), roles: vec![role], entities: None, blake3 }
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let options = ApiOptions {
        cluster: node.cluster(),
        callers: Arc::new(Callers::new(&ROLES.map(token), address).expect("good tokens")),
        origins: Origins::new(address, &address.to_string(), Vec::new()),
        command_roles: Arc::default(),
        replays: Arc::new(Replays::open(folder.path(), parse_time).expect("a new folder")),
        limits: LiveLimits::new(LimitsConfig::default()),
        webhooks: WebhooksConfig::default(),
        views_instead: Arc::default(),
        metrics: None,
    };
    let (service, _) = server(node.router().clone(), options);
    (node, service)
}

/// A path of this route that names nothing.
fn path_of(route: &HostRoute) -> String {
    let segment = |segment: &str| if segment.starts_with('{') { NOWHERE.to_owned() } else { segment.to_owned() };
    route.path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// Status and code of the answer to a request with this token.
async fn asked_with(service: &axum::Router, route: &HostRoute, token: Option<&str>) -> (u16, String) {
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("the client breaks off"))]);
    let mut request = Request::builder().method(route.method.clone()).uri(path_of(route));
    request = request.header("content-type", route.body.media_types()[0]);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::from_stream(broken)).expect("a request");
    let answer = service.clone().oneshot(request).await.expect("it always answers");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("an answer that ends").to_bytes();
    let body: Json = serde_json::from_slice(&body).unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

/// The roles of each route, as the page of the book has them; `None`: no token is needed.
fn documented() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../book/src/reference/roles.md");
    let page = std::fs::read_to_string(page).expect("the book has the page");
    let methods = [Method::GET, Method::POST, Method::DELETE].map(|method| format!("| `{method} "));
    let rows = page.lines().filter(|line| methods.iter().any(|method| line.starts_with(method)));
    let row = |line: &str| {
        let mut cells = line.split('|').skip(1).map(|cell| cell.trim().to_owned());
        let (route, roles) = (cells.next().expect("a cell"), cells.next().expect("a cell"));
        let all = ROLES.map(name_of).into_iter();
        let roles = match roles.as_str() {
            "none, and no token" => None,
            "all but `monitor`" => Some(all.filter(|role| role != "monitor").collect()),
            listed => Some(all.filter(|role| listed.contains(&format!("`{role}`"))).collect()),
        };
        (route.trim_matches('`').to_owned(), roles)
    };
    rows.map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roles_of_the_book_are_those_that_the_router_asks_for() {
    let folder = TempDir::new().expect("a temporary folder");
    let (node, service) = served(&folder).await;
    let documented = documented();
    assert_eq!(documented.len(), HOST_ROUTES.len(), "the page has each route once");
    for route in HOST_ROUTES {
        let of = format!("{} {}", route.method, route.path);
        let roles = documented.get(&of).unwrap_or_else(|| panic!("{of} is not on the page"));
        let (status, code) = asked_with(&service, route, None).await;
        match roles {
            None => assert_eq!(status, 200, "{of}: anybody may ask ({code})"),
            Some(_) => assert_eq!((status, code.as_str()), (401, "unauthenticated"), "{of}"),
        }
        for role in ROLES.map(name_of) {
            let (status, code) = asked_with(&service, route, Some(&role)).await;
            let is_let_in = roles.as_ref().is_none_or(|roles| roles.contains(&role));
            assert_eq!(code != "forbidden", is_let_in, "{of} as {role}: {status} {code}");
            assert!(is_let_in || status == 403, "{of} as {role}: {status} {code}");
            assert!(!["internal", "not_found", "method_not_allowed"].contains(&code.as_str()), "{of}: {status} {code}");
        }
    }
    node.close().await.expect("the node ends in order");
}

#[test]
fn every_route_is_found_and_described() {
    let nothing: [(String, Arc<Describe>); 0] = [];
    let document = serde_json::to_value(document(nothing.into_iter())).expect("a document is JSON");
    let operations = document["paths"].as_object().expect("paths").values();
    let count: usize = operations.map(|path| path.as_object().expect("methods").len()).sum();
    assert_eq!(count, HOST_ROUTES.len(), "each route is described once, and nothing else is");
    let mut names = BTreeSet::new();
    for route in HOST_ROUTES {
        assert!(names.insert(route.name) && !route.summary.is_empty(), "{}", route.name);
        let path = path_of(route);
        let (found, _) = find_host_route(&route.method, &path).unwrap_or_else(|_| panic!("{path} leads nowhere"));
        assert_eq!(found.name, route.name, "{path}");
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        assert_eq!(operation["operationId"], route.name);
        assert_eq!(operation["summary"], route.summary);
        let is_open = matches!(route.handler, RouteHandler::Open(_));
        assert_eq!(operation["security"].is_null(), is_open, "{}", route.name);
        assert!(operation["responses"][route.answer.status.as_str()].is_object(), "{}", route.name);
        assert!(operation["responses"]["default"].is_object(), "{}", route.name);
        let is_json = route.body.schema().is_some();
        assert_eq!(operation["requestBody"]["content"]["application/json"].is_object(), is_json, "{}", route.name);
    }
}

#[test]
fn a_deadline_that_is_longer_than_usual_is_described() {
    for route in HOST_ROUTES {
        let is_long = route.deadline != limits::DEADLINE_DEFAULT;
        let is_described = route.parameters.contains(&crate::api::route::RouteParameter::Deadline);
        assert!(is_described || !is_long, "{}", route.name);
    }
}
