//! Which roles may send a command, where the configuration says so: `[auth.commands.<machine>]`.
//!
//! In: machine and command. Out: roles, of which the caller needs one. A module that was released before a role existed
//! cannot ask for it, so the host does. It does not know what a command does, nor what else a module checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::caller::role_names;
use super::error::ApiError;
use super::problem::{Code, Problem};
use super::roles::COMMAND_ROLES;
use crate::config::{AuthConfig, Role};
use crate::router::answer::Caller;

/// Roles by machine and command; a command that is not listed is for [`COMMAND_ROLES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandRoles(BTreeMap<String, BTreeMap<String, u32>>);

impl CommandRoles {
    /// # Errors
    /// A command has no role, so nobody could send it.
    pub fn new(auth: &AuthConfig) -> Result<Self, ApiError> {
        let mut all = Self::default();
        for (machine, commands) in &auth.commands {
            for (command, roles) in commands {
                let (machine, command) = (machine.clone(), command.clone());
                if roles.is_empty() {
                    return Err(ApiError::CommandWithoutRole { machine, command });
                }
                all.0.entry(machine).or_default().insert(command, Role::bits(roles));
            }
        }
        Ok(all)
    }

    pub fn of(&self, machine: &str, command: &str) -> u32 {
        let of_machine = self.0.get(machine);
        of_machine.and_then(|commands| commands.get(command)).copied().unwrap_or(COMMAND_ROLES)
    }

    /// The roles with which there is any command to send.
    pub fn any_of(&self, machine: &str) -> u32 {
        self.0.get(machine).into_iter().flat_map(BTreeMap::values).fold(COMMAND_ROLES, |all, roles| all | roles)
    }

    /// # Errors
    /// 403 without one of the roles.
    pub fn check(&self, machine: &str, command: &str, caller: &Caller) -> Result<(), Problem> {
        let roles = self.of(machine, command);
        if caller.roles & roles == 0 {
            let detail = format!("`{}` has none of the roles {}; ask an admin", caller.name, role_names(roles));
            return Err(Problem::new(Code::Forbidden, detail));
        }
        Ok(())
    }

    /// Warns of protected commands that the module does not have: their protection has no effect.
    fn warn_of_unknown(&self, machine: &str, known: &[String]) {
        for command in self.0.get(machine).into_iter().flat_map(BTreeMap::keys) {
            if !known.contains(command) {
                tracing::warn!(
                    machine,
                    command,
                    "`[auth.commands]` names a command that the active module does not have"
                );
            }
        }
    }
}

/// The roles in force: they are read at each use, and SIGHUP replaces them.
#[derive(Default)]
pub struct LiveCommandRoles {
    now: RwLock<Arc<CommandRoles>>,
    /// The commands of each machine's active module, as far as they are known.
    known: Mutex<BTreeMap<String, Vec<String>>>,
}

impl LiveCommandRoles {
    pub fn new(roles: CommandRoles) -> Arc<Self> {
        Arc::new(Self { now: RwLock::new(Arc::new(roles)), known: Mutex::default() })
    }

    pub fn now(&self) -> Arc<CommandRoles> {
        self.now.read().clone()
    }

    /// From now on commands need these roles. Returns whether that is a change.
    pub fn replace(&self, roles: CommandRoles) -> bool {
        if *self.now() == roles {
            return false;
        }
        for (machine, commands) in &*self.known.lock() {
            roles.warn_of_unknown(machine, commands);
        }
        *self.now.write() = Arc::new(roles);
        true
    }

    /// Notes the commands that a machine has.
    pub fn on_mounted(&self, machine: &str, commands: Vec<String>) {
        self.now().warn_of_unknown(machine, &commands);
        self.known.lock().insert(machine.to_owned(), commands);
    }
}
