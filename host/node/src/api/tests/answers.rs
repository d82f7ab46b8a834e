//! What answers become: statuses, headers, problems, lines of a batch, OpenAPI.

use axum::http::HeaderMap;
use axum::response::Response;
use expect_test::{Expect, expect, expect_file};
use http_body_util::BodyExt;
use statehouse_abi::cold::{Refusal, Rejection};
use statehouse_abi::value::Value;

use super::*;
use crate::api::batch::{self, Format};
use crate::api::openapi::document;
use crate::api::problem::{Code, Problem};
use crate::api::reply::CommandReply;
use crate::ids::{CommandId, Fingerprint, Micros, Position};
use crate::json::read_json;
use crate::router::answer::{Answer, Obstacle, RecordedOutcome, Unavailability, UnavailableReason};

fn id() -> CommandId {
    ID.parse().expect("a uuid")
}

fn position() -> Position {
    "0.42.1~1a2b3c4d".parse().expect("a position")
}

fn recorded(status: u16, is_replayed: bool, body: Value) -> RecordedOutcome {
    RecordedOutcome { position: position(), time: Micros(0), is_replayed, status, body }
}

fn unavailable(reason: UnavailableReason) -> Answer {
    Answer::Unavailable(Unavailability { reason, retry_after: Duration::from_millis(1200) })
}

fn rejection() -> Answer {
    let rejection = Rejection { code: "funds".into(), detail: "alice has 0.50 USD".into() };
    let rendered = Value::map([("balance", Value::text("0.50")), ("status", Value::text("never replaced"))]);
    Answer::Rejected(recorded(422, true, rendered), rejection)
}

/// Status, headers that matter, and body.
async fn shown(response: Response) -> String {
    let header = |headers: &HeaderMap, name: &str| {
        let value = headers.get(name)?.to_str().expect("a header of ours is text").to_owned();
        Some(format!("{name}: {value}\n"))
    };
    let (parts, body) = response.into_parts();
    let names =
        ["content-type", "statehouse-position", "idempotent-replayed", "retry-after", "allow", "www-authenticate"];
    let headers: String = names.iter().filter_map(|name| header(&parts.headers, name)).collect();
    let body = body.collect().await.expect("a body in memory").to_bytes();
    format!("{}\n{headers}{}", parts.status.as_u16(), String::from_utf8_lossy(&body))
}

async fn check(answer: Answer, expected: Expect) {
    let reply = CommandReply::new(answer, "purse", &describe(), id());
    expected.assert_eq(&shown(reply.into_response("r-1")).await);
}

#[tokio::test]
async fn done_is_what_the_module_rendered() {
    let body = Value::map([("Status", Value::text("success")), ("count", Value::Int(1 << 60))]);
    check(
        Answer::Done(recorded(201, false, body.clone())),
        expect![[r#"
            201
            content-type: application/json
            statehouse-position: 0.42.1~1a2b3c4d
            {"count":1152921504606846976,"Status":"success"}"#]],
    )
    .await;
    check(
        Answer::Done(recorded(204, true, body)),
        expect![[r#"
            204
            statehouse-position: 0.42.1~1a2b3c4d
            idempotent-replayed: true
        "#]],
    )
    .await;
}

#[tokio::test]
async fn refusals_of_every_kind_are_problems() {
    check(rejection(), expect![[r#"
        422
        content-type: application/problem+json
        statehouse-position: 0.42.1~1a2b3c4d
        idempotent-replayed: true
        {"type":"urn:statehouse:problem:funds","title":"Too little money","status":422,"detail":"alice has 0.50 USD","instance":"r-1","code":"funds","Status":"rejected","Transaction_id":"018f0000-0000-7000-8000-000000000001","position":"0.42.1~1a2b3c4d","balance":"0.50"}"#]]).await;
    let refusal =
        Refusal { code: "amount".into(), status: 400, detail: "no exponents".into(), field: Some("amount".into()) };
    check(Answer::Refused(refusal), expect![[r#"
        400
        content-type: application/problem+json
        {"type":"urn:statehouse:problem:amount","title":"The module refuses this","status":400,"detail":"no exponents","instance":"r-1","code":"amount","field":"amount","pointer":"/amount","Transaction_id":"018f0000-0000-7000-8000-000000000001"}"#]]).await;
    check(Answer::Conflict { fields: vec!["amount".into()], position: position() }, expect![[r#"
        422
        content-type: application/problem+json
        statehouse-position: 0.42.1~1a2b3c4d
        {"type":"urn:statehouse:problem:id_reused","title":"The id was used for another command","status":422,"detail":"this id belongs to a command with other content; it differs in amount; use a new id","instance":"r-1","code":"id_reused","fields":["amount"],"Transaction_id":"018f0000-0000-7000-8000-000000000001","position":"0.42.1~1a2b3c4d"}"#]]).await;
    let fingerprint = Fingerprint([0xab; 32]);
    check(Answer::Unknown { home: "@bank/é".into(), expires: Micros(7), fingerprint }, expect![[r#"
        504
        content-type: application/problem+json
        retry-after: 1
        {"type":"urn:statehouse:problem:outcome_unknown","title":"The outcome is not known yet","status":504,"detail":"the deadline passed while the command was under way; send the same id again, or ask `resolve`","instance":"r-1","code":"outcome_unknown","Transaction_id":"018f0000-0000-7000-8000-000000000001","resolve":"/v1/purse/commands/018f0000-0000-7000-8000-000000000001?home=@bank%2F%C3%A9&expires=7&fingerprint=abababababababababababababababababababababababababababababababab"}"#]]).await;
    check(unavailable(UnavailableReason::StorageFull), expect![[r#"
        507
        content-type: application/problem+json
        retry-after: 2
        {"type":"urn:statehouse:problem:storage_full","title":"The disk is full","status":507,"detail":"not accepted, the disk is full, or this node has no file descriptors left, as its log says; reads still work","instance":"r-1","code":"storage_full","Transaction_id":"018f0000-0000-7000-8000-000000000001"}"#]]).await;
    let unauthenticated = Problem::new(Code::Unauthenticated, "send a token").into_response("r-1");
    expect![[r#"
        401
        content-type: application/problem+json
        www-authenticate: Bearer realm="statehouse"
        {"type":"urn:statehouse:problem:unauthenticated","title":"The caller is unknown","status":401,"detail":"send a token","instance":"r-1","code":"unauthenticated"}"#]].assert_eq(&shown(unauthenticated).await);
}

#[test]
fn every_reason_has_its_status() {
    let status = |reason| CommandReply::new(unavailable(reason), "purse", &describe(), id()).status();
    assert_eq!(status(UnavailableReason::Overloaded), 503);
    assert_eq!(status(UnavailableReason::RejectionLimit), 429);
    assert_eq!(status(UnavailableReason::StorageFull), 507);
    assert_eq!(status(UnavailableReason::NoLeader), 503);
    let obstacles = [
        Obstacle::LeaderSilent,
        Obstacle::NoMajority,
        Obstacle::LeadershipMoving,
        Obstacle::ModuleChanging,
        Obstacle::OtherCopy,
        Obstacle::OtherBranches,
        Obstacle::Closed,
        Obstacle::NotHere,
        Obstacle::Behind,
    ];
    let mut details = std::collections::BTreeSet::new();
    for reason in obstacles.map(UnavailableReason::NotNow).into_iter().chain([UnavailableReason::NoLeader]) {
        let problem = Problem::from(Unavailability { reason, retry_after: Duration::from_secs(1) });
        assert_eq!((problem.status(), problem.code()), (503, "no_leader"), "{reason:?}");
        assert!(details.insert(problem.detail().to_owned()), "{reason:?} has words of its own");
    }
    assert_eq!(status(UnavailableReason::Halted), 503);
    assert_eq!(status(UnavailableReason::Removed), 503);
    assert_eq!(status(UnavailableReason::ShuttingDown), 503);
}

#[test]
fn a_fault_in_a_body_is_a_problem_with_its_place() {
    let mount = mount();
    let (_, route) = mount.find_command("freeze").expect("declared");
    let error = read_json(&route.shape, &[], br#"{"account":5}"#).expect_err("a number");
    let problem = serde_json::to_string(&Problem::from(error).instance("r-1")).expect("a problem is JSON");
    expect![[r#"{"type":"urn:statehouse:problem:wrong_type","title":"A value has the wrong type","status":400,"detail":"`/account`: expected text, found a number","instance":"r-1","code":"wrong_type","field":"account","pointer":"/account"}"#]].assert_eq(&problem);
}

#[test]
fn a_batch_is_answered_line_by_line() {
    let replies = || {
        let done = Answer::Done(recorded(200, false, Value::map([("ok", Value::Bool(true))])));
        [done, rejection()].into_iter().map(|answer| CommandReply::new(answer, "purse", &describe(), id()))
    };
    let lines = String::from_utf8(batch::print(replies(), Format::Ndjson, "r-1")).expect("JSON is text");
    expect![[r#"
        {"status":200,"body":{"ok":true}}
        {"status":422,"body":{"type":"urn:statehouse:problem:funds","title":"Too little money","status":422,"detail":"alice has 0.50 USD","instance":"r-1","code":"funds","Status":"rejected","Transaction_id":"018f0000-0000-7000-8000-000000000001","position":"0.42.1~1a2b3c4d","balance":"0.50"}}
    "#]].assert_eq(&lines);
    let sequence = batch::print(replies(), Format::CborSequence, "r-1");
    let done = Value::map([("status", Value::Int(200)), ("body", Value::map([("ok", Value::Bool(true))]))]);
    let first = done.to_cbor().expect("a small value");
    assert_eq!(&sequence[..first.len()], first);
    let second = Value::from_cbor(&sequence[first.len()..]).expect("deterministic");
    let body = second.find("body").expect("a body");
    assert_eq!(body.find("status"), Some(&Value::Int(422)));
    assert_eq!(body.find("Status"), Some(&Value::text("rejected")));
}

#[test]
fn openapi_is_golden() {
    let document = document([("purse".to_owned(), Arc::new(describe()))].into_iter());
    let json = serde_json::to_string_pretty(&document).expect("a document is JSON");
    expect_file!["openapi.json"].assert_eq(&format!("{json}\n"));
}
