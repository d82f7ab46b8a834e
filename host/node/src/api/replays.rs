//! Replays that the node that is asked carries out over its own copy of the history: started, watched, read, and given
//! up.
//!
//! In: what is asked of a replay, in the words of the command line. Out: a [`ReplayPage`], the report as JSON or HTML,
//! the certificate. Each node knows the replays that it was asked for. It knows nothing of how anything is decided.

use axum::body::Body;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use statehouse_abi::describe::{Field, Schema, TextFormat};
use statehouse_abi::value::Value;

use super::handle::Api;
use super::pages;
use super::problem::{Code, Problem};
use super::reply::JSON;
use super::request_context::RequestContext;
use super::route::HostRequest;
use crate::audit::replay::{Class, ReplayMode};
use crate::clock::SystemClock;
use crate::ids::ModuleId;
use crate::limits::SLOT_COUNT;
use crate::rehearsal::jobs::{self, JobError, ReplayProgress, ReplayRecord, Replays, ResultFile};
use crate::rfc3339::print_time;

const WORD_CHARS_MAX: u32 = 256;
const FILTERS_MAX: u32 = 16;

/// A replay of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayPage {
    pub id: String,
    pub machine: String,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    pub candidate: ModuleId,
    pub mode: ReplayMode,
    pub from: Option<String>,
    pub to: Option<String>,
    pub partition: Option<u32>,
    #[serde(rename = "where")]
    pub filter: Vec<String>,
    pub approve: Vec<String>,
    pub by: String,
    pub created: String,
    /// How often it was resumed after the node had ended.
    pub resumed: u32,
    pub progress: ProgressPage,
    /// When it is done: 0 the same, 1 approved, 2 not approved, 3 inconclusive.
    pub exit_code: Option<u8>,
    pub verdict: Option<String>,
    pub differences: Option<u64>,
    /// Why it failed.
    pub problem: Option<String>,
    /// Why there is no certificate.
    pub certificate_problem: Option<String>,
    pub report: Option<String>,
    pub certificate: Option<String>,
}

/// How far a replay is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressPage {
    pub bytes: u64,
    pub bytes_done: u64,
    pub percent: u64,
    pub decisions: u64,
    pub decisions_per_second: u64,
    pub seconds: u64,
    pub seconds_left: Option<u64>,
}

pub async fn list(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let machine = machine_of(api, &request)?;
    let listed = blocking(api, move |replays| Ok(replays.list(&machine))).await?;
    Ok(pages::json(&listed.into_iter().map(|(record, progress)| page_of(record, progress)).collect::<Vec<_>>()))
}

/// # Errors
/// 4xx with what is wrong or missing.
pub async fn start(api: &Api, mut request: HostRequest<'_>) -> Result<Response, Problem> {
    let machine = machine_of(api, &request)?;
    request.check_media_type()?;
    let json = request.take_json().await?;
    let wanted = wanted(&request.read(&json)?)?;
    let RequestContext { request_id, caller, .. } = request.context;
    tracing::info!(caller = caller.name, %request_id, machine, ?wanted, "a replay is requested");
    let start = move |replays: &Replays| replays.start(&machine, wanted, &caller.name, &SystemClock);
    let page = page_of(blocking(api, start).await?, ReplayProgress::default());
    let location = format!("/v1/machines/{}/replays/{}", page.machine, page.id);
    let mut response = pages::json(&page);
    *response.status_mut() = request.route.answer.status;
    let location = HeaderValue::try_from(location).expect("names of machines and uuids are plain");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// # Errors
/// 404.
pub async fn show(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, id) = names_of(api, &request)?;
    let (record, progress) = blocking(api, move |replays| replays.find(&machine, &id)).await?;
    Ok(pages::json(&page_of(record, progress)))
}

/// # Errors
/// 404; 409 before the replay is done.
pub async fn report(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    if prefers_html(&request.parts.headers) {
        return file(api, request, ResultFile::Html, HeaderValue::from_static("text/html; charset=utf-8")).await;
    }
    file(api, request, ResultFile::Json, JSON).await
}

/// # Errors
/// As [`report`].
pub async fn certificate(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    file(api, request, ResultFile::Certificate, JSON).await
}

/// # Errors
/// 404.
pub async fn delete(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let (machine, id) = names_of(api, &request)?;
    let RequestContext { request_id, caller, .. } = request.context;
    tracing::info!(caller = caller.name, %request_id, machine, id, "a replay is cancelled");
    let record = blocking(api, move |replays| replays.delete(&machine, &id)).await?;
    Ok(pages::json(&page_of(record, ReplayProgress::default())))
}

/// Replays outlive requests, so their machine is looked for when they are asked for.
fn machine_of(api: &Api, request: &HostRequest<'_>) -> Result<String, Problem> {
    let machine = request.machine_name();
    api.find_machine(machine)?;
    Ok(machine.to_owned())
}

/// The machine and the id of the replay.
fn names_of(api: &Api, request: &HostRequest<'_>) -> Result<(String, String), Problem> {
    Ok((machine_of(api, request)?, request.segment("id").to_owned()))
}

/// Reads and writes files on a thread that may wait.
async fn blocking<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce(&Replays) -> Result<T, JobError> + Send + 'static,
) -> Result<T, Problem> {
    let replays = api.replays.clone();
    let done = tokio::task::spawn_blocking(move || work(&replays)).await;
    let done =
        done.map_err(|_| Problem::new(Code::Internal, "the host failed on this request; its log has the details"))?;
    done.map_err(Problem::from)
}

async fn file(
    api: &Api,
    request: HostRequest<'_>,
    file: ResultFile,
    content_type: HeaderValue,
) -> Result<Response, Problem> {
    let (machine, id) = names_of(api, &request)?;
    let bytes = blocking(api, move |replays| replays.file(&machine, &id, file)).await?;
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A browser asks for HTML before anything else, and a program does not.
fn prefers_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types =
        accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let known =
        types.find(|kind| kind.eq_ignore_ascii_case("text/html") || kind.eq_ignore_ascii_case("application/json"));
    known.is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
}

/// What a body asks for.
fn wanted(body: &Value) -> Result<jobs::ReplayRequest, Problem> {
    let text = |name: &str| body.find(name).and_then(Value::as_text).map(str::to_owned);
    let texts = |name: &str| match body.find(name) {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_text).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let candidate = text("candidate").unwrap_or_default().parse().map_err(|_| {
        let detail = "`candidate` is the id of a staged module, 64 hexadecimal digits; GET …/modules lists them";
        Problem::new(Code::InvalidChange, detail)
    })?;
    let partition = match body.find("partition") {
        Some(Value::Int(number)) => u32::try_from(*number).ok(),
        _ => None,
    };
    let is_cumulative = text("mode").as_deref() == Some(ReplayMode::Cumulative.name());
    Ok(jobs::ReplayRequest {
        candidate,
        mode: if is_cumulative { ReplayMode::Cumulative } else { ReplayMode::Isolated },
        from: text("from"),
        to: text("to"),
        partition,
        filter: texts("where"),
        approve: texts("approve"),
    })
}

/// The body of a request.
pub fn start_body() -> Schema {
    let text = || Schema::Text { min_chars: 1, max_chars: WORD_CHARS_MAX, format: TextFormat::Plain };
    let list = |max_items| Schema::Array { items: Box::new(text()), max_items };
    let field = |name: &str, schema, required, summary: &str| Field {
        name: name.to_owned(),
        schema,
        required,
        summary: summary.to_owned(),
    };
    let modes = [ReplayMode::Isolated, ReplayMode::Cumulative].map(|mode| mode.name().to_owned());
    let partition = Schema::Int { min: 0, max: i64::from(SLOT_COUNT) };
    Schema::Object {
        fields: vec![
            field("candidate", text(), true, "The id of a staged module"),
            field("mode", Schema::Enum { values: modes.into() }, false, "`isolated` (default) or `cumulative`"),
            field("from", text(), false, "Decide from this time or position on; what is before it is only applied"),
            field("to", text(), false, "Decide up to this time or position; times are RFC 3339"),
            field("partition", partition, false, "Replay only this partition"),
            field(
                "where",
                list(FILTERS_MAX),
                false,
                "Report only some differences, each key=value with the key account, id, code, command, after or \
                 before",
            ),
            field("approve", list(Class::ALL.len() as u32), false, "The approved differences, each as class=count"),
        ],
    }
}

fn page_of(record: ReplayRecord, progress: ReplayProgress) -> ReplayPage {
    let is_done = record.state == jobs::JobState::Done;
    let url = |file: &str| format!("/v1/machines/{}/replays/{}/{file}", record.machine, record.id);
    let (report, certificate) = (url("report"), url("certificate"));
    let jobs::ReplayRequest { candidate, mode, from, to, partition, filter, approve } = record.asked;
    let certificate = (is_done && record.certificate_problem.is_none()).then_some(certificate);
    ReplayPage {
        id: record.id,
        machine: record.machine,
        state: record.state.name().to_owned(),
        candidate,
        mode,
        from,
        to,
        partition,
        filter,
        approve,
        by: record.by,
        created: print_time(record.created),
        resumed: record.resumed,
        progress: ProgressPage::of(progress, is_done),
        exit_code: record.exit_code,
        verdict: record.verdict,
        differences: record.differences,
        problem: record.problem,
        certificate_problem: record.certificate_problem,
        report: is_done.then_some(report),
        certificate,
    }
}

impl ProgressPage {
    fn of(progress: ReplayProgress, is_done: bool) -> Self {
        let ReplayProgress { bytes, bytes_done, decisions, seconds, decisions_per_second, seconds_left } = progress;
        // Not all bytes of a log are entries, so only a replay that is done shows 100.
        let percent = if is_done { 100 } else { (bytes_done.saturating_mul(100) / bytes.max(1)).min(99) };
        let seconds_left = if is_done { Some(0) } else { seconds_left };
        Self { bytes, bytes_done, percent, decisions, decisions_per_second, seconds, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gets_html_and_a_program_json() {
        let check = |accept: &str, expected: bool| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).expect("a header value"))]);
            assert_eq!(prefers_html(&headers), expected, "{accept}");
        };
        check("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true);
        check("application/json, text/html", false);
        check("*/*", false);
        check("Text/HTML;q=1", true);
        assert!(!prefers_html(&HeaderMap::new()));
    }
}
