//! `module inspect`: what a module is and what it declares, as tables or as JSON.
//!
//! It prints what the module says about itself after the host has accepted it, and judges nothing.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde_json::{Value as Json, json};
use statehouse_abi::describe::{Describe, QueryDecl, QuerySource, Schema};
use statehouse_engine::guest::{Module, WasmFacts, validate};
use statehouse_kernel::ids::ModuleId;

use super::build::load;
use crate::output::{print, print_json};

/// Show a module's id, size and memory, and what it declares
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// A .wasm file
    file: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let wasm = fs::read(&args.file).with_context(|| format!("{} cannot be read", args.file.display()))?;
    let module = load(&wasm, &args.file)?;
    let found = validate(&wasm).unwrap_or_default();
    if args.json {
        print_json(&to_json(module.describe(), module.wasm(), &found))?;
    } else {
        show(&module, &found)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(module: &Module, found: &WasmFacts) -> std::io::Result<()> {
    let described = module.describe();
    let accepts: Vec<String> = described.accepts.iter().map(u32::to_string).collect();
    table(
        &[
            if module.source().is_some() { "view" } else { "module" },
            &format!("{} {}", described.name, described.version),
        ],
        vec![
            vec!["id".to_owned(), module.id().to_string()],
            vec!["schema".to_owned(), described.schema.to_string()],
            vec!["accepts".to_owned(), if accepts.is_empty() { "-".to_owned() } else { accepts.join(", ") }],
            vec!["size".to_owned(), format!("{} bytes", module.wasm().len())],
            vec!["functions".to_owned(), found.function_count.to_string()],
            vec!["memory at start".to_owned(), format!("{} bytes", found.memory_bytes_min)],
            vec!["compiler".to_owned(), found.compiler.clone().unwrap_or_else(|| "-".to_owned())],
            vec!["exports".to_owned(), found.exports.join(" ")],
        ],
    )?;
    let root = format!("/v1/{}", module.source().unwrap_or(&described.name));
    let commands = described.commands.iter().map(|command| {
        let route = format!("{} {root}/{}", command.method, command.path);
        vec![command.name.clone(), route, fields(&command.body), command.summary.clone()]
    });
    table(&["command", "route", "body", "summary"], commands.collect())?;
    let queries = described.queries.iter().map(|query| {
        vec![query.name.clone(), format!("GET {root}/{}", query.path), source(query).to_owned(), query.summary.clone()]
    });
    table(&["query", "route", "from", "summary"], queries.collect())?;
    let rejections = described
        .rejections
        .iter()
        .map(|rejection| vec![rejection.code.clone(), rejection.status.to_string(), rejection.title.clone()]);
    table(&["rejection", "status", "title"], rejections.collect())?;
    let events = described.events.iter().map(|event| vec![event.name.clone(), event.summary.clone()]);
    table(&["event", "summary"], events.collect())?;
    let invariants =
        described.invariants.iter().map(|invariant| vec![invariant.name.clone(), invariant.summary.clone()]);
    table(&["invariant", "summary"], invariants.collect())
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> std::io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header).add_rows(rows);
    print(&format!("{table}\n"))
}

fn source(query: &QueryDecl) -> &'static str {
    match query.source {
        QuerySource::Rows => "rows",
        QuerySource::History => "history",
        QuerySource::Command => "command",
    }
}

/// The members of an object; a `?` marks one that may be left out.
fn fields(schema: &Schema) -> String {
    let Schema::Object { fields } = schema else { return "-".to_owned() };
    let names = fields.iter().map(|field| format!("{}{}", field.name, if field.required { "" } else { "?" }));
    names.collect::<Vec<_>>().join(", ")
}

/// Everything that a module declares.
pub(super) fn to_json(described: &Describe, wasm: &[u8], found: &WasmFacts) -> Json {
    let commands = described.commands.iter().map(|command| {
        json!({"name": command.name, "method": command.method, "path": command.path, "id_field": command.id_field,
            "success": command.success, "summary": command.summary, "body": schema(&command.body),
            "response": schema(&command.response)})
    });
    let queries = described.queries.iter().map(|query| {
        json!({"name": query.name, "path": query.path, "source": source(query), "entity_param": query.entity_param,
            "summary": query.summary, "params": schema(&query.params), "response": schema(&query.response)})
    });
    let rejections = described
        .rejections
        .iter()
        .map(|rejection| json!({"code": rejection.code, "status": rejection.status, "title": rejection.title}));
    let named = |name: &str, summary: &str| json!({"name": name, "summary": summary});
    json!({
        "id": ModuleId::of(wasm), "name": described.name, "version": described.version, "schema": described.schema,
        "accepts": described.accepts, "size": wasm.len(), "compiler": found.compiler,
        "functions": found.function_count, "memory_bytes_min": found.memory_bytes_min, "exports": found.exports,
        "commands": commands.collect::<Vec<_>>(), "queries": queries.collect::<Vec<_>>(),
        "rejections": rejections.collect::<Vec<_>>(),
        "events": described.events.iter().map(|event| named(&event.name, &event.summary)).collect::<Vec<_>>(),
        "invariants": described.invariants.iter().map(|one| named(&one.name, &one.summary)).collect::<Vec<_>>(),
    })
}

fn schema(schema: &Schema) -> Json {
    match schema {
        Schema::Bool => json!({"type": "bool"}),
        Schema::Int { min, max } => json!({"type": "int", "min": min, "max": max}),
        Schema::Text { min_chars, max_chars, format } => {
            json!({"type": "text", "min_chars": min_chars, "max_chars": max_chars,
                "format": format!("{format:?}").to_lowercase()})
        }
        Schema::Enum { values } => json!({"type": "enum", "values": values}),
        Schema::Array { items, max_items } => {
            json!({"type": "array", "items": self::schema(items), "max_items": max_items})
        }
        Schema::Object { fields } => {
            let fields = fields.iter().map(|field| {
                json!({"name": field.name, "required": field.required, "summary": field.summary,
                    "schema": self::schema(&field.schema)})
            });
            json!({"type": "object", "fields": fields.collect::<Vec<_>>()})
        }
        Schema::Map { values, max_entries } => {
            json!({"type": "map", "values": self::schema(values), "max_entries": max_entries})
        }
        Schema::Any => json!({"type": "any"}),
    }
}
