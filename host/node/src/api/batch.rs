//! Batches: up to 8,192 commands in one request, one `{status, body}` for each, in order.
//!
//! | format | request | answer |
//! |---|---|---|
//! | `application/x-ndjson` | lines of `{"command": name, "body": object}`; blank lines are skipped | lines of JSON |
//! | `application/cbor-seq` | a CBOR sequence (RFC 8742) of the same maps | a sequence of deterministic CBOR |
//!
//! The answer has the request's format unless `Accept` names the other. A command that cannot be read gets a problem;
//! the others are carried out. A batch promises no atomicity: each command stands alone.

use std::borrow::Cow;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use minicbor::Decoder;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::{check_media_type, read_large_body};
use super::command::{command_id, request};
use super::command_roles::CommandRoles;
use super::handle::Api;
use super::mount::{Mount, MountRoute};
use super::problem::{Code, Problem};
use super::reply::CommandReply;
use super::request_context::RequestContext;
use super::route::HostRequest;
use super::share::ShareKind;
use crate::ids::CommandId;
use crate::json::{self, read_cbor, read_json};
use crate::limits::{BATCH_BODY_BYTES_MAX, BATCH_COMMANDS_MAX, BODY_BYTES_MAX};
use crate::router::answer::CommandRequest;

pub const MEDIA_TYPES: [&str; 2] = ["application/x-ndjson", "application/cbor-seq"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Ndjson,
    CborSequence,
}

pub async fn post(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    let machine = api.find_machine(request.machine_name())?;
    let mount = api.mounts.of(&machine);
    let HostRequest { context, parts, body, .. } = request;
    let requester = api.requester(&context.caller, parts);
    api.shares.check_rejections(requester.network)?;
    api.shares.check(ShareKind::Batch, 1, &requester)?;
    let format = [Format::Ndjson, Format::CborSequence][check_media_type(&parts.headers, &MEDIA_TYPES)?];
    let answer_format = accepted_format(&parts.headers).unwrap_or(format);
    let (bytes, room) = read_large_body(api, body, BATCH_BODY_BYTES_MAX, &requester, context.deadline).await?;
    // The place is taken only now, so that a client that sends slowly keeps nobody out.
    let _place = api.shares.take(ShareKind::Batch, 1, &requester)?;
    drop(room);
    let request_id = context.request_id.clone();
    // Parsing and printing megabytes here would hold up other requests.
    let reading = {
        let (mount, roles) = (mount.clone(), api.mounts.command_roles.now());
        tokio::task::spawn_blocking(move || read(&mount, &roles, format, &bytes, &context))
    };
    let RequestBatch { requests, places } = reading.await.expect("reading a batch does not panic")?;
    let ids: Vec<CommandId> = requests.iter().map(|request| request.id).collect();
    let answers = if requests.is_empty() { Vec::new() } else { machine.submit(requests).await };
    assert_eq!(answers.len(), ids.len(), "the router gives one answer per request");
    api.shares.on_rejected(requester.network, answers.iter().filter(|answer| answer.is_new_rejection()).count());
    let printing = tokio::task::spawn_blocking(move || {
        let mut answers = answers.into_iter().zip(ids);
        let replies = places.into_iter().map(|place| match place {
            Some(problem) => CommandReply::from(problem),
            None => {
                let (answer, id) = answers.next().expect("one answer per request");
                CommandReply::new(answer, &mount.machine, &mount.describe, id)
            }
        });
        print(replies, answer_format, &request_id)
    });
    let mut response = Response::new(Body::from(printing.await.expect("printing a batch does not panic")));
    let media_type = HeaderValue::from_static(MEDIA_TYPES[answer_format as usize]);
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}

/// What a batch asks for.
pub struct RequestBatch {
    /// The commands that could be read.
    pub requests: Vec<CommandRequest>,
    /// One per command: its problem, or `None` for the next of the requests.
    pub places: Vec<Option<Problem>>,
}

fn accepted_format(headers: &HeaderMap) -> Option<Format> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    let mut types = accept.split(',').map(|part| part.split(';').next().unwrap_or(part).trim());
    types.find_map(|found| match MEDIA_TYPES.iter().position(|known| found.eq_ignore_ascii_case(known))? {
        0 => Some(Format::Ndjson),
        _ => Some(Format::CborSequence),
    })
}

/// # Errors
/// The batch as a whole cannot be read: it has no command, too many, or bytes that are not CBOR.
pub fn read(
    mount: &Mount,
    roles: &CommandRoles,
    format: Format,
    bytes: &Bytes,
    context: &RequestContext,
) -> Result<RequestBatch, Problem> {
    let items = match format {
        Format::Ndjson => split_lines(bytes),
        Format::CborSequence => split_sequence(bytes)?,
    };
    if items.is_empty() {
        return Err(Problem::new(Code::EmptyBatch, "send at least one command"));
    }
    if items.len() > BATCH_COMMANDS_MAX {
        return Err(Problem::new(Code::BodyTooLarge, format!("send at most {BATCH_COMMANDS_MAX} commands")));
    }
    let mut batch = RequestBatch { requests: Vec::with_capacity(items.len()), places: Vec::with_capacity(items.len()) };
    for item in items {
        let read = if item.len() > BODY_BYTES_MAX {
            Err(Problem::new(Code::BodyTooLarge, format!("a command has at most {BODY_BYTES_MAX} bytes")))
        } else {
            match format {
                Format::Ndjson => read_line(mount, item),
                Format::CborSequence => read_item(mount, item),
            }
        };
        let read = read.and_then(|(command, body)| {
            let id = command_id(&body, None)?;
            roles.check(&mount.machine, &mount.describe.commands[command].name, &context.caller)?;
            Ok(request(mount.command_name(command), body, id, context.clone()))
        });
        match read {
            Ok(request) => {
                batch.requests.push(request);
                batch.places.push(None);
            }
            Err(problem) => batch.places.push(Some(problem)),
        }
    }
    Ok(batch)
}

fn split_lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect()
}

fn split_sequence(bytes: &[u8]) -> Result<Vec<&[u8]>, Problem> {
    let mut decoder = Decoder::new(bytes);
    let mut items = Vec::new();
    while decoder.position() < bytes.len() {
        let start = decoder.position();
        decoder.skip().map_err(|error| {
            Problem::new(Code::MalformedBody, format!("item {} of the sequence is not CBOR: {error}", items.len()))
        })?;
        items.push(&bytes[start..decoder.position()]);
    }
    Ok(items)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCommand<'a> {
    #[serde(borrow)]
    command: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
}

fn read_line(mount: &Mount, line: &[u8]) -> Result<(usize, json::Body), Problem> {
    let line: JsonCommand = serde_json::from_slice(line).map_err(|error| {
        Problem::new(Code::MalformedBody, format!("the line is not {{\"command\", \"body\"}}: {error}"))
    })?;
    let (command, route) = find_command(mount, &line.command)?;
    Ok((command, read_json(&route.shape, &[], line.body.get().as_bytes())?))
}

fn read_item(mount: &Mount, item: &[u8]) -> Result<(usize, json::Body), Problem> {
    let (name, body) = split_item(item).map_err(|error| {
        Problem::new(Code::MalformedBody, format!("the item is not a map of `command` and `body`: {error}"))
    })?;
    let (command, route) = find_command(mount, name)?;
    Ok((command, read_cbor(&route.shape, body)?))
}

/// The name and the bytes of the body.
fn split_item(item: &[u8]) -> Result<(&str, &[u8]), minicbor::decode::Error> {
    let message = minicbor::decode::Error::message;
    let mut decoder = Decoder::new(item);
    let (mut command, mut body) = (None, None);
    if decoder.map()? != Some(2) {
        return Err(message("expected a map of definite length with two keys"));
    }
    for _ in 0..2 {
        match decoder.str()? {
            "command" if command.is_none() => command = Some(decoder.str()?),
            "body" if body.is_none() => {
                let start = decoder.position();
                decoder.skip()?;
                body = Some(&item[start..decoder.position()]);
            }
            _ => return Err(message("a key is unknown or given twice")),
        }
    }
    Ok((command.expect("two different keys were read"), body.expect("two different keys were read")))
}

fn find_command<'m>(mount: &'m Mount, name: &str) -> Result<(usize, &'m MountRoute), Problem> {
    mount.find_command(name).ok_or_else(|| {
        let known: Vec<_> = mount.describe.commands.iter().map(|command| command.name.as_str()).collect();
        Problem::new(
            Code::UnknownCommand,
            format!("`{name}` is not a command of this machine; its commands are {}", known.join(", ")),
        )
    })
}

/// Prints the replies in order.
pub fn print(replies: impl Iterator<Item = CommandReply>, format: Format, request_id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for reply in replies {
        let line = reply.line(request_id);
        match format {
            Format::Ndjson => {
                serde_json::to_writer(&mut bytes, &line).expect("keys are text, and writing to memory cannot fail");
                bytes.push(b'\n');
            }
            Format::CborSequence => {
                let cbor = line.to_value().to_cbor().expect("values of modules have passed through CBOR");
                bytes.extend_from_slice(&cbor);
            }
        }
    }
    bytes
}
