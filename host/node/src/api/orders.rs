//! Orders about a command in flight: `POST /v1/{machine}/commands/{id}/abort` and `…/settle`.
//!
//! In: the command's id, why, and the home entity if several commands have the id. Out: where the order is recorded; a
//! `GET` of the command then shows what follows from it. It does not know what the protocol allows.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use statehouse_abi::describe::{Field, Schema, TextFormat};
use statehouse_abi::value::Value;

use super::handle::Api;
use super::pages;
use super::problem::{Code, Problem};
use super::route::HostRequest;
use super::url::query_pairs;
use crate::ids::{CommandId, PartitionId};
use crate::limits::ORDER_WHY_CHARS_MAX;
use crate::saga::{Order, OrderKind};

/// A recorded order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPage {
    pub id: String,
    /// `abort` or `settle`.
    pub order: String,
    /// Who gave it.
    pub by: String,
    pub why: String,
    /// The partition that coordinates the command, and the entry of its journal that records the order.
    pub partition: PartitionId,
    pub index: u64,
}

/// # Errors
/// 400; 409 if the protocol does not allow it; 503 if nothing is recorded; 504 if nobody knows.
pub async fn abort(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    record(api, request, OrderKind::Abort, "abort").await
}

/// # Errors
/// As [`abort`].
pub async fn settle(api: &Api, request: HostRequest<'_>) -> Result<Response, Problem> {
    record(api, request, OrderKind::Settle, "settle").await
}

async fn record(
    api: &Api,
    mut request: HostRequest<'_>,
    kind: OrderKind,
    name: &'static str,
) -> Result<Response, Problem> {
    let machine = api.find_machine(request.machine_name())?;
    let id = request.segment("id").parse();
    let id: CommandId = id.map_err(|_| Problem::new(Code::BadPath, "a command's id is a hyphenated uuid"))?;
    let pairs = query_pairs(request.parts.uri.query().unwrap_or_default())
        .ok_or_else(|| Problem::new(Code::BadParameter, "the query string is not percent-encoded UTF-8"))?;
    if let Some((name, _)) = pairs.iter().find(|(name, _)| name != "home") {
        return Err(Problem::new(Code::UnknownParameter, format!("only `home` is known here, not `{name}`")));
    }
    let home = pairs.first().map(|(_, home)| home.as_ref());
    let json = request.take_json().await?;
    request.check_media_type()?;
    let body = request.read(&json)?;
    let why = body.find("why").and_then(Value::as_text).expect("the schema asks for a text");
    let (by, request_id) = (&request.context.caller.name, &request.context.request_id);
    tracing::info!(
        caller = by, %request_id, %id, order = name, why,
        "an operator gives an order about a command in flight"
    );
    let recorded = machine.order(Order::new(id, kind, by, why), home, request.context.deadline).await?;
    Ok(pages::json(&OrderPage {
        id: id.to_string(),
        order: name.to_owned(),
        by: by.clone(),
        why: why.to_owned(),
        partition: recorded.partition,
        index: recorded.index.0,
    }))
}

/// The body of an order.
pub fn order_body() -> Schema {
    let schema = Schema::Text { min_chars: 1, max_chars: ORDER_WHY_CHARS_MAX, format: TextFormat::Plain };
    let summary = "The reason, which is recorded for ever for those who read the history".to_owned();
    Schema::Object { fields: vec![Field { name: "why".to_owned(), schema, required: true, summary }] }
}
