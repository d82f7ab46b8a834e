//! Mounts: the routes of a machine's active module, prepared once from what it declares.
//!
//! In: a [`Describe`], then methods and paths. Out: a command or query with its shape, and the fields that the path
//! gives. A new module is noticed at the next request. It knows nothing of the host's own routes.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::Method;
use parking_lot::RwLock;
use statehouse_abi::describe::{Describe, QuerySource, Schema};

use super::command_roles::LiveCommandRoles;
use super::problem::{Code, Problem};
use super::route::{is_reserved, not_found_or_not_allowed};
use super::url::{captures, decode, match_path};
use crate::ids::ModuleId;
use crate::json::ObjectShape;
use crate::router::machine::Machine;
use crate::views::View;

pub struct Mount {
    pub machine: String,
    pub describe: Arc<Describe>,
    module: ModuleId,
    /// INVARIANT: paths without captures come first, so that `x/all` is not taken for `x/{id}`.
    routes: Vec<MountRoute>,
}

pub struct MountRoute {
    method: Method,
    /// The path below `/v1/<machine>/`.
    path: String,
    pub target: RouteTarget,
    /// The body of a command, or the parameters of a query.
    pub shape: ObjectShape,
    /// The field of the shape for each capture of the path.
    captures: Vec<usize>,
}

/// An index into what the module declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    Command(usize),
    Query(usize),
}

impl Mount {
    /// A declaration that the host cannot mount is logged and left out; the check at staging finds it earlier.
    pub fn new(machine: &str, module: ModuleId, describe: Arc<Describe>) -> Self {
        let commands = describe.commands.iter().enumerate().map(|(at, command)| {
            let method = Method::from_bytes(command.method.as_bytes()).ok();
            let shape = ObjectShape::new(&command.body, command.id_field.as_deref());
            MountRoute::new(method, &command.path, RouteTarget::Command(at), &command.body, shape)
        });
        let queries = describe.queries.iter().enumerate().map(|(at, query)| {
            // The parameter of such a query is the command's id.
            let id = query.entity_param.as_deref().filter(|_| query.source == QuerySource::Command);
            let shape = ObjectShape::new(&query.params, id);
            MountRoute::new(Some(Method::GET), &query.path, RouteTarget::Query(at), &query.params, shape)
        });
        let mut routes: Vec<MountRoute> = Vec::new();
        for route in commands.chain(queries) {
            match route {
                Ok(route) => routes.push(route),
                Err(path) => tracing::error!(machine, path, "a route that the module declares cannot be mounted"),
            }
        }
        routes.sort_by_key(|route| !route.captures.is_empty());
        Self { machine: machine.to_owned(), describe, module, routes }
    }

    /// Finds the route, and the decoded fields that the path gives.
    ///
    /// # Errors
    /// 404, 405 with the methods that work, or 400 for malformed percent-encoding.
    pub fn find(&self, method: &Method, path: &str) -> Result<(&MountRoute, GivenFields), Problem> {
        let mut allowed = Vec::new();
        for route in &self.routes {
            let Some(captured) = route.take(path) else { continue };
            if route.method == method || (route.method == Method::GET && method == Method::HEAD) {
                return Ok((route, route.given(captured)?));
            }
            allowed.push(route.method.as_str());
        }
        Err(not_found_or_not_allowed(allowed, &format!("/v1/{}/{path}", self.machine)))
    }

    /// The name of the command at this index.
    pub fn command_name(&self, at: usize) -> Arc<str> {
        self.describe.commands[at].name.as_str().into()
    }

    /// Finds a command by its name.
    pub fn find_command(&self, name: &str) -> Option<(usize, &MountRoute)> {
        self.routes.iter().find_map(|route| match route.target {
            RouteTarget::Command(at) if self.describe.commands[at].name == name => Some((at, route)),
            _ => None,
        })
    }
}

/// Fields by index into a shape, with their text.
pub type GivenFields = Vec<(usize, String)>;

impl MountRoute {
    /// An error, with the path, if it is not a route that a module may have.
    fn new(
        method: Option<Method>,
        path: &str,
        target: RouteTarget,
        schema: &Schema,
        shape: ObjectShape,
    ) -> Result<Self, String> {
        let trimmed = path.trim_start_matches('/');
        let captures: Option<Vec<_>> = captures(trimmed).map(|name| shape.find(name)).collect();
        let is_hosts = is_reserved(trimmed.split('/').next().unwrap_or(trimmed));
        match (method, captures, schema) {
            (Some(method), Some(captures), Schema::Object { .. }) if !is_hosts => {
                Ok(Self { method, path: trimmed.to_owned(), target, shape, captures })
            }
            _ => Err(path.to_owned()),
        }
    }

    fn take<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        if self.captures.is_empty() { (self.path == path).then(Vec::new) } else { match_path(&self.path, path) }
    }

    fn given(&self, captured: Vec<&str>) -> Result<GivenFields, Problem> {
        let fields = self.captures.iter().zip(captured);
        fields
            .map(|(field, text)| {
                let text = decode(text)
                    .ok_or_else(|| Problem::new(Code::BadPath, format!("`{text}` is not percent-encoded UTF-8")))?;
                Ok((*field, text.into_owned()))
            })
            .collect()
    }
}

/// The mounts of all machines, made when they are first asked for.
#[derive(Default)]
pub struct Mounts {
    pub command_roles: Arc<LiveCommandRoles>,
    by_machine: RwLock<HashMap<String, Arc<Mount>>>,
}

impl Mounts {
    pub fn new(command_roles: Arc<LiveCommandRoles>) -> Self {
        Self { command_roles, by_machine: RwLock::default() }
    }

    pub fn of(&self, machine: &Machine) -> Arc<Mount> {
        // Read before the description: if the module changes in between, the next request mounts again.
        let module = machine.module_id();
        if let Some(mount) = self.by_machine.read().get(machine.name())
            && mount.module == module
        {
            return mount.clone();
        }
        let mount = Arc::new(Mount::new(machine.name(), module, machine.describe()));
        let commands = mount.describe.commands.iter().map(|command| command.name.clone()).collect();
        self.command_roles.on_mounted(machine.name(), commands);
        self.by_machine.write().insert(machine.name().to_owned(), mount.clone());
        mount
    }

    /// The routes of a view, below those of its machine.
    pub fn of_view(&self, machine: &str, view: &View) -> Arc<Mount> {
        let logic = view.logic();
        // No machine has such a name.
        let key = format!("{machine}#{}", view.name());
        if let Some(mount) = self.by_machine.read().get(&key)
            && mount.module == logic.id()
        {
            return mount.clone();
        }
        let mount = Arc::new(Mount::new(machine, logic.id(), Arc::new(logic.describe().clone())));
        self.by_machine.write().insert(key, mount.clone());
        mount
    }
}
