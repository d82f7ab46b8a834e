//! The API around the router: what requests become, and what answers become, on a small wallet-like module.
//!
//! A machine is only described here, never run; what needs one is tested with the whole host.

mod answers;
mod cluster;
mod requests;
mod routes;
mod serving;

use std::sync::Arc;
use std::time::Duration;

use statehouse_abi::describe::{
    CommandDecl, Describe, EventDecl, Field, QueryDecl, QuerySource, RejectionDecl, Schema, TextFormat,
};
use tokio::time::Instant;

use super::mount::Mount;
use super::request_context::RequestContext;
use crate::ids::ModuleId;
use crate::router::answer::Caller;

pub const ID: &str = "018f0000-0000-7000-8000-000000000001";

fn field(name: &str, max_chars: u32, format: TextFormat) -> Field {
    let schema = Schema::Text { min_chars: 1, max_chars, format };
    Field { name: name.into(), schema, required: true, summary: String::new() }
}

fn object(fields: &[Field]) -> Schema {
    Schema::Object { fields: fields.to_vec() }
}

/// Two commands, with and without an id field, and a query of each kind.
pub fn describe() -> Describe {
    let account = field("account", 64, TextFormat::Name);
    let id = field("transaction_id", 36, TextFormat::Uuid);
    let transfer = [
        field("from_account", 64, TextFormat::Name),
        field("to_account", 64, TextFormat::Name),
        field("amount", 40, TextFormat::Decimal),
        field("currency", 3, TextFormat::Currency),
        id.clone(),
    ];
    let command = |name: &str, path: &str, body: Schema, id_field: Option<&str>| CommandDecl {
        name: name.into(),
        method: "POST".into(),
        path: path.into(),
        body,
        id_field: id_field.map(str::to_owned),
        success: 200,
        response: Schema::Any,
        summary: format!("The command {name}"),
    };
    let query = |name: &str, path: &str, params: &[Field], source: QuerySource| QueryDecl {
        name: name.into(),
        path: path.into(),
        params: object(params),
        entity_param: Some(params[0].name.clone()),
        source,
        response: Schema::Any,
        summary: format!("The query {name}"),
    };
    Describe {
        name: "purse".into(),
        version: "1.0.0".into(),
        schema: 1,
        accepts: vec![],
        commands: vec![
            command("balance_transfer", "balance_transfer", object(&transfer), Some("transaction_id")),
            command("freeze", "accounts/{account}/freeze", object(std::slice::from_ref(&account)), None),
        ],
        queries: vec![
            query("account", "accounts/{account}", std::slice::from_ref(&account), QuerySource::Rows),
            query("history", "accounts/{account}/history", &[account], QuerySource::History),
            query("transaction", "transactions/{transaction_id}", &[id], QuerySource::Command),
        ],
        rejections: vec![RejectionDecl { code: "funds".into(), status: 422, title: "Too little money".into() }],
        events: vec![EventDecl { name: "debited".into(), summary: String::new() }],
        invariants: vec![],
    }
}

pub fn mount() -> Mount {
    Mount::new("purse", ModuleId::ZERO, Arc::new(describe()))
}

pub fn context() -> RequestContext {
    let caller = Arc::new(Caller::unbound("till", 1));
    RequestContext { request_id: "r-1".into(), caller, deadline: Instant::now() + Duration::from_secs(5) }
}
