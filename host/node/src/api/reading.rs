//! What a caller that is bound to entities may read: these entities, and no list of others.
//!
//! In: a query with its parameters, or the keys of a stream. Out: nothing, or 403 naming the entity. It does not know
//! what is read.

use statehouse_abi::describe::{QueryDecl, QuerySource};
use statehouse_abi::value::Value;

use super::problem::{Code, Problem};
use crate::router::answer::Caller;

/// # Errors
/// 403: the query is about an entity outside, or about none in particular.
pub fn check(declared: &QueryDecl, params: &Value, caller: &Caller) -> Result<(), Problem> {
    // Whose command it is becomes known when it is found.
    if caller.scope.is_all() || declared.source == QuerySource::Command {
        return Ok(());
    }
    let entity = declared.entity_param.as_deref().and_then(|name| params.find(name)).and_then(Value::as_text);
    match entity {
        Some(entity) => check_entity(entity.as_bytes(), caller),
        None => {
            let (name, scope) = (&caller.name, &caller.scope);
            let detail =
                format!("`{name}` may read {scope} only, and this request is not about a single entity; ask an admin");
            Err(Problem::new(Code::EntityForbidden, detail))
        }
    }
}

/// # Errors
/// 403: without keys a stream shows all entities, and one of the keys may lie outside.
pub fn check_keys(keys: &[Vec<u8>], caller: &Caller) -> Result<(), Problem> {
    if !caller.scope.is_all() && keys.is_empty() {
        let (name, scope) = (&caller.name, &caller.scope);
        let detail = format!("`{name}` may read {scope} only: name the entities with `key=`, once for each");
        return Err(Problem::new(Code::EntityForbidden, detail));
    }
    keys.iter().try_for_each(|key| check_entity(key, caller))
}

fn check_entity(entity: &[u8], caller: &Caller) -> Result<(), Problem> {
    if caller.scope.covers(entity) {
        return Ok(());
    }
    let (name, scope, entity) = (&caller.name, &caller.scope, entity.escape_ascii());
    let detail = format!("`{name}` may read {scope} only, and not `{entity}`; ask an admin");
    Err(Problem::new(Code::EntityForbidden, detail).with("entity", Value::Text(entity.to_string())))
}
