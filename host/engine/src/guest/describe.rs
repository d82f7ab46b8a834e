//! A module's description of itself, decoded within limits, and whether it can be mounted: names, methods, paths, id
//! fields, statuses.
//!
//! In: what `sh1_describe` returned. Out: a [`Describe`], or the first thing that is wrong with it. It knows nothing of
//! routes, nor of an older version of the module.

use statehouse_abi::describe::{CommandDecl, Describe, Field, QueryDecl, Schema};
use statehouse_abi::export;
use statehouse_projection::abi::ViewDescribe;

use super::error::GuestFault;
use super::module::decode;
use crate::limits;

const NAME_CHARS_MAX: usize = 32;
const SCHEMA_DEPTH_MAX: usize = 16;
/// First segments of a path that are reserved for the host.
const RESERVED: [&str; 3] = ["commands", "events", "batch"];

pub(super) struct Description {
    pub(super) describe: Describe,
    /// Of a view: the machine whose decisions it reads.
    pub(super) source: Option<String>,
}

/// Decodes and checks a description.
pub(super) fn read(output: &[u8], is_view: bool) -> Result<Description, GuestFault> {
    let (name, size) = (export::DESCRIBE, output.len());
    if limits::DESCRIBE_BYTES_MAX < size {
        let max = limits::DESCRIBE_BYTES_MAX;
        return Err(GuestFault::output(format_args!("`{name}` returned {size} bytes, over the limit of {max}")));
    }
    let describe = decode(output, name)?;
    let source = if is_view { Some(decode::<ViewDescribe>(output, name)?.source) } else { None };
    check(&describe).map_err(|what| GuestFault::Output { what })?;
    Ok(Description { describe, source })
}

/// # Errors
/// What is wrong, for the module's author.
fn check(described: &Describe) -> Result<(), String> {
    if !is_name(&described.name) {
        return Err(format!("`{}` is no name of a machine: [a-z][a-z0-9_-]{{0,31}}", described.name));
    }
    if !is_version(&described.version) {
        return Err(format!("`{}` is no semantic version", described.version));
    }
    few("accepted schemas", described.accepts.len())?;
    if described.schema == 0 || described.accepts.iter().any(|older| described.schema <= *older) {
        return Err("schema versions start at 1, and only older ones are listed as accepted".to_owned());
    }
    few("commands", described.commands.len())?;
    few("queries", described.queries.len())?;
    for command in &described.commands {
        check_command(command).map_err(|what| format!("command `{}`: {what}", command.name))?;
    }
    for query in &described.queries {
        check_query(query).map_err(|what| format!("query `{}`: {what}", query.name))?;
    }
    few("rejections", described.rejections.len())?;
    few("events", described.events.len())?;
    few("invariants", described.invariants.len())?;
    for rejection in &described.rejections {
        if !is_name(&rejection.code) || !(400..500).contains(&rejection.status) {
            return Err(format!(
                "rejection `{}`: needs a code [a-z][a-z0-9_-]* and a status 400 to 499",
                rejection.code
            ));
        }
    }
    unique("command", described.commands.iter().map(|command| &command.name))?;
    unique("query", described.queries.iter().map(|query| &query.name))?;
    unique("rejection", described.rejections.iter().map(|rejection| &rejection.code))?;
    unique("event", described.events.iter().map(|event| &event.name))?;
    unique("invariant", described.invariants.iter().map(|invariant| &invariant.name))
}

fn check_command(command: &CommandDecl) -> Result<(), String> {
    if !is_name(&command.name) {
        return Err("its name is not [a-z][a-z0-9_-]{0,31}".to_owned());
    }
    if !["POST", "PUT", "DELETE"].contains(&command.method.as_str()) {
        return Err(format!("method {} is none of POST, PUT, DELETE", command.method));
    }
    if !(200..300).contains(&command.success) {
        return Err(format!("status {} is no success", command.success));
    }
    let fields = object(&command.body, "body")?;
    check_path(&command.path, fields)?;
    match &command.id_field {
        Some(id) if !fields.iter().any(|field| field.name == *id && field.required) => {
            Err(format!("its id field `{id}` is no required field of the body"))
        }
        _ => check_schema(&command.response, SCHEMA_DEPTH_MAX),
    }
}

fn check_query(query: &QueryDecl) -> Result<(), String> {
    if !is_name(&query.name) {
        return Err("its name is not [a-z][a-z0-9_-]{0,31}".to_owned());
    }
    let fields = object(&query.params, "params")?;
    check_path(&query.path, fields)?;
    match &query.entity_param {
        Some(param) if !fields.iter().any(|field| field.name == *param) => {
            Err(format!("its entity `{param}` is none of the parameters"))
        }
        _ => check_schema(&query.response, SCHEMA_DEPTH_MAX),
    }
}

/// Each `{field}` of a path must be a required field, and the first segment must not be reserved.
fn check_path(path: &str, fields: &[Field]) -> Result<(), String> {
    if limits::DESCRIBE_PATH_BYTES_MAX < path.len() {
        return Err(format!("its path has more than {} bytes", limits::DESCRIBE_PATH_BYTES_MAX));
    }
    let mut segments = path.split('/');
    if segments.clone().any(str::is_empty) || segments.next().is_some_and(|first| RESERVED.contains(&first)) {
        return Err(format!("path `{path}` has an empty segment, or starts with one of {}", RESERVED.join(", ")));
    }
    for segment in path.split('/') {
        let plain = segment.chars().all(|char| char.is_ascii_alphanumeric() || "_-.".contains(char));
        let field = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match field {
            Some(name) if !fields.iter().any(|field| field.name == name && field.required) => {
                return Err(format!("`{{{name}}}` of path `{path}` is no required field"));
            }
            None if !plain => {
                return Err(format!("segment `{segment}` of path `{path}` has other than letters and digits"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn object<'a>(schema: &'a Schema, what: &str) -> Result<&'a [Field], String> {
    check_schema(schema, SCHEMA_DEPTH_MAX)?;
    match schema {
        Schema::Object { fields } => Ok(fields),
        _ => Err(format!("its {what} is no object")),
    }
}

fn check_schema(schema: &Schema, depth: usize) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err("a schema nests too deeply".to_owned());
    };
    match schema {
        Schema::Int { min, max } if max < min => Err(format!("no integer lies in {min} … {max}")),
        Schema::Text { min_chars, max_chars, .. } if max_chars < min_chars => {
            Err(format!("no text has {min_chars} to {max_chars} characters"))
        }
        Schema::Enum { values } => few("values of an enum", values.len()),
        Schema::Array { items, .. } => check_schema(items, depth),
        Schema::Map { values, .. } => check_schema(values, depth),
        Schema::Object { fields } => {
            few("fields of an object", fields.len())?;
            unique("field", fields.iter().map(|field| &field.name))?;
            fields.iter().try_for_each(|field| check_schema(&field.schema, depth))
        }
        _ => Ok(()),
    }
}

fn few(what: &str, count: usize) -> Result<(), String> {
    if count <= limits::DESCRIBE_ITEMS_MAX {
        return Ok(());
    }
    Err(format!("{count} {what}, over the limit of {}", limits::DESCRIBE_ITEMS_MAX))
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut sorted: Vec<&String> = names.collect();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{what} `{}` is declared twice", pair[0])),
        None => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    name.len() <= NAME_CHARS_MAX
        && chars.next().is_some_and(|first| first.is_ascii_lowercase())
        && chars.all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_-".contains(char))
}

/// `major.minor.patch`, followed by anything that semver allows.
fn is_version(version: &str) -> bool {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let good = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let printable =
        version.len() <= 64 && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte));
    printable && numbers.split('.').count() == 3 && numbers.split('.').all(good)
}
