//! What requests become: routes, fields, freshness, batches.

use axum::http::Method;
use statehouse_abi::value::Value;

use super::*;
use crate::api::batch::{self, Format};
use crate::api::command::command_id;
use crate::api::command_roles::CommandRoles;
use crate::api::mount::RouteTarget;
use crate::api::query::read_options;
use crate::ids::{CommandId, Micros};
use crate::json::read_json;
use crate::machine::journal::Moment;
use crate::router::answer::Consistency;

/// The target and the fields of the path, or the status and detail.
#[track_caller]
fn check_route(method: Method, path: &str, expected: Result<(RouteTarget, &[&str]), (u16, &str)>) {
    let mount = mount();
    let found = mount.find(&method, path);
    let found = found.map(|(route, given)| (route.target, given.into_iter().map(|(_, text)| text).collect::<Vec<_>>()));
    let found = found.map_err(|problem| (problem.status(), problem.detail().to_owned()));
    let expected = expected.map(|(target, given)| (target, given.iter().map(|text| text.to_string()).collect()));
    assert_eq!(found, expected.map_err(|(status, detail)| (status, detail.to_owned())), "{method} {path}");
}

#[test]
fn routes_come_from_the_declarations() {
    check_route(Method::POST, "balance_transfer", Ok((RouteTarget::Command(0), &[])));
    check_route(Method::POST, "accounts/a%3Ab/freeze", Ok((RouteTarget::Command(1), &["a:b"])));
    check_route(Method::GET, "accounts/alice", Ok((RouteTarget::Query(0), &["alice"])));
    check_route(Method::HEAD, "accounts/alice/history", Ok((RouteTarget::Query(1), &["alice"])));
    check_route(Method::GET, "balance_transfer", Err((405, "use POST")));
    check_route(Method::DELETE, "accounts/alice", Err((405, "use GET, HEAD")));
    check_route(Method::GET, "accounts/%FF", Err((400, "`%FF` is not percent-encoded UTF-8")));
    let missing = "`/v1/purse/balance_transfer/` is no route; /openapi.json lists them all";
    check_route(Method::POST, "balance_transfer/", Err((404, missing)));
}

#[test]
fn a_declaration_that_cannot_be_mounted_is_left_out() {
    let mut describe = describe();
    describe.commands[0].path = "batch/x".into();
    describe.commands[1].path = "accounts/{nobody}/freeze".into();
    describe.queries[0].path = "/accounts/all".into();
    let mount = Mount::new("purse", ModuleId::ZERO, Arc::new(describe));
    assert!(mount.find(&Method::POST, "batch/x").is_err());
    assert!(mount.find(&Method::POST, "accounts/a/freeze").is_err());
    // Its parameter is not in the path any more, so the path has no capture and comes first.
    let (route, _) = mount.find(&Method::GET, "accounts/all").expect("mounted without its slash");
    assert_eq!(route.target, RouteTarget::Query(0));
}

#[test]
fn the_id_is_the_bodys_or_the_headers_or_new() {
    let mount = mount();
    let (_, route) = mount.find_command("balance_transfer").expect("declared");
    let json =
        format!(r#"{{"from_account":"a","to_account":"b","amount":"1","currency":"USD","transaction_id":"{ID}"}}"#);
    let with_id = read_json(&route.shape, &[], json.as_bytes()).expect("a good body");
    let (_, route) = mount.find_command("freeze").expect("declared");
    let without = read_json(&route.shape, &[], br#"{"account":"a"}"#).expect("a good body");
    let id: CommandId = ID.parse().expect("a uuid");
    let other = CommandId([7; 16]);
    assert_eq!(command_id(&with_id, None).ok(), Some(id));
    assert_eq!(command_id(&with_id, Some(id)).ok(), Some(id));
    assert_eq!(command_id(&with_id, Some(other)).map_err(|problem| problem.status()), Err(400));
    assert_eq!(command_id(&without, Some(other)).ok(), Some(other));
    assert_ne!(command_id(&without, None).ok(), command_id(&without, None).ok());
}

/// Freshness, moment, cursor and limit.
type OptionValues = (Consistency, Option<Moment>, Option<String>, u32);

/// What a query string asks of the query with this index, or the status and detail.
fn options(query: usize, text: &str) -> Result<OptionValues, (u16, String)> {
    let mount = mount();
    let declared = &mount.describe.queries[query];
    let path = declared.path.replace("{account}", "alice").replace("{transaction_id}", ID);
    let (route, given) = mount.find(&Method::GET, &path).map_err(|problem| (problem.status(), String::new()))?;
    let options = read_options(declared, &route.shape, given, text);
    let options = options.map_err(|problem| (problem.status(), problem.detail().to_owned()))?;
    assert!(options.params.find(&mount.describe.queries[query].entity_param.clone().expect("declared")).is_some());
    Ok((options.consistency, options.at, options.cursor.map(|cursor| cursor.to_string()), options.limit))
}

#[test]
fn reads_say_how_fresh_and_where() {
    let at_least = Consistency::AtLeast("0.42.0~1a2b3c4d".parse().expect("a position"));
    assert_eq!(options(0, ""), Ok((Consistency::Linearizable, None, None, 100)));
    assert_eq!(options(0, "consistency=stale"), Ok((Consistency::Stale, None, None, 100)));
    assert_eq!(options(2, "at_least=0.42.0~1a2b3c4d"), Ok((at_least, None, None, 100)));
    let midnight = Some(Moment::Time(Micros(1_769_817_600_000_000)));
    assert_eq!(options(0, "at=2026-01-31T01:00:00+01:00"), Ok((Consistency::Linearizable, midnight, None, 100)));
    let cursor = Some("0.42.3~1a2b3c4d".to_owned());
    let page = options(1, "cursor=0.42.3~1a2b3c4d&limit=7");
    assert_eq!(page, Ok((Consistency::Linearizable, None, cursor, 7)));
    let bad =
        |query, text: &str, detail: &str| assert_eq!(options(query, text), Err((400, detail.to_owned())), "{text}");
    bad(0, "limit=7", "`limit` is unknown here; leave it out");
    bad(1, "at=x", "`at` is unknown here; leave it out");
    bad(
        0,
        "at=yesterday",
        "`at` must be an RFC 3339 time like 2026-01-31T00:00:00Z, or a position like 0.42.0~1a2b3c4d",
    );
    bad(0, "at=0.1~zz", "`at` must be a position like 0.42.0~1a2b3c4d");
    bad(0, "consistency=eventual", "`consistency` must be `linearizable` or `stale`");
    bad(0, "consistency=stale&at_least=0.1.0~00000000", "`at_least` excludes `consistency`");
    bad(0, "consistency=stale&consistency=stale", "`consistency` is given twice");
    bad(1, "limit=0", "`limit` must be a number from 1 to 1000");
    bad(1, "limit=+5", "`limit` must be a number from 1 to 1000");
    bad(0, "account=bob", "`/account`: this field is given twice");
    bad(0, "x=%zz", "the query string is not percent-encoded UTF-8");
}

/// For each command of a batch, the index of its name or its problem's status.
fn read_batch(format: Format, bytes: &[u8]) -> Result<Vec<Result<usize, u16>>, u16> {
    let declared = mount().describe.commands.clone();
    let index = |name: &str| declared.iter().position(|command| command.name == name).expect("it was found by name");
    let batch = batch::read(&mount(), &CommandRoles::default(), format, &bytes.to_vec().into(), &context())
        .map_err(|problem| problem.status())?;
    let mut requests = batch.requests.iter();
    let places = batch.places.iter().map(|place| match place {
        Some(problem) => Err(problem.status()),
        None => Ok(index(&requests.next().expect("one request per good command").command)),
    });
    Ok(places.collect())
}

#[test]
fn a_bad_line_is_its_own_problem() {
    let lines = [
        r#"{"command":"freeze","body":{"account":"a"}}"#,
        r#"{"body":{"account":"a"},"command":"freeze"}"#,
        r#"{"command":"melt","body":{"account":"a"}}"#,
        r#"{"command":"freeze","body":{"account":7}}"#,
        r#"{"command":"freeze","body":{"account":"a"},"more":1}"#,
        r#"{"command":"freeze"}"#,
        "",
        "freeze",
    ];
    let expected = vec![Ok(1), Ok(1), Err(400), Err(400), Err(400), Err(400), Err(400)];
    assert_eq!(read_batch(Format::Ndjson, lines.join("\r\n").as_bytes()), Ok(expected));
    let large = format!(r#"{{"command":"freeze","body":{{"account":"{}"}}}}"#, "x".repeat(70_000));
    assert_eq!(read_batch(Format::Ndjson, large.as_bytes()), Ok(vec![Err(413)]));
    assert_eq!(read_batch(Format::Ndjson, b" \n\n"), Err(400));
    assert_eq!(read_batch(Format::Ndjson, &b"{}\n".repeat(8193)), Err(413));
}

#[test]
fn a_cbor_sequence_is_read_like_lines() {
    let body = || Value::map([("account", Value::text("a"))]);
    let item = |command: &str, body: Value| {
        Value::map([("command", Value::text(command)), ("body", body)]).to_cbor().expect("a small value")
    };
    let good = item("freeze", body());
    let sequence = [good.clone(), item("melt", body()), item("freeze", Value::Null), vec![0x01], good.clone()].concat();
    let expected = vec![Ok(1), Err(400), Err(400), Err(400), Ok(1)];
    assert_eq!(read_batch(Format::CborSequence, &sequence), Ok(expected));
    assert_eq!(read_batch(Format::CborSequence, &good[..good.len() - 1]), Err(400));
    assert_eq!(read_batch(Format::CborSequence, b""), Err(400));
}
