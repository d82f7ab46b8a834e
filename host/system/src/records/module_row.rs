//! What `system` knows about a machine's modules: which were staged, which nodes have prepared them, and every step of
//! their lives.
//!
//! In: ops of the machine `system`. Out: rejections and events, and the row that results. It is written against the SDK
//! like any module, and knows nothing of wasm.

use statehouse_guest::View;
use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};

use crate::ids::{Micros, ModuleId};
use crate::records::rejection::Rejection;
use crate::records::rows::{ACTIVATIONS, MachineRow, NodesRow};

/// How the suffix of a machine's row begins. A machine's name never begins with `#`.
pub const MODULES: &str = "#modules/";
/// How many modules a row keeps beside the active one; the journal of `system` keeps all.
const MODULES_MAX: usize = 16;
/// How many of the newest steps a row keeps; the journal of `system` keeps all.
const STEPS_MAX: usize = 96;

/// What justifies the activation of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Mode {
    /// A certificate covers it.
    Proved,
    /// An admin took responsibility for it.
    WithoutProof,
    /// It was active before.
    Rollback,
}

impl Mode {
    pub const NAMES: [&str; 3] = ["proved", "without_proof", "rollback"];

    pub fn parse(text: &str) -> Option<Self> {
        let modes = [Self::Proved, Self::WithoutProof, Self::Rollback];
        modes.into_iter().zip(Self::NAMES).find_map(|(mode, name)| (name == text).then_some(mode))
    }

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// A machine's modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct ModulesRow {
    /// Oldest first.
    pub modules: Vec<ModuleRow>,
    /// Oldest first.
    pub steps: Vec<StepRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct ModuleRow {
    pub module: [u8; 32],
    pub version: String,
    pub schema: u32,
    pub size: u32,
    /// Whether nodes are asked to prepare it.
    pub is_wanted: bool,
    pub prepared: Vec<PreparedRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct PreparedRow {
    pub node: u64,
    pub engine: String,
    /// Why the module cannot run on this node, if it cannot.
    pub problem: Option<String>,
}

/// One step of a module's life.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct StepRow {
    pub time: i64,
    /// Who asked for it.
    pub by: String,
    pub module: [u8; 32],
    pub what: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Step {
    Created {
        number: u64,
    },
    Staged,
    PrepareAsked,
    Prepared {
        node: u64,
        problem: Option<String>,
    },
    Activated {
        number: u64,
        mode: Mode,
        proof: Option<String>,
    },
    /// A partition keeps the module it has, and takes no commands until another module becomes active.
    NotActivated {
        number: u64,
        partition: u32,
        problem: String,
    },
    /// No command over several partitions begins until the rollback to this module is over.
    DrainAsked,
    NotDrained {
        problem: String,
    },
    /// A node runs the module as a shadow, until the shadow is stopped or any module is activated.
    ShadowAsked {
        node: u64,
    },
    ShadowStopped,
}

impl Step {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Staged => "staged",
            Self::PrepareAsked => "prepare",
            Self::Prepared { problem: None, .. } => "prepared",
            Self::Prepared { .. } => "not_prepared",
            Self::Activated { mode: Mode::Rollback, .. } => "rolled_back",
            Self::Activated { .. } => "activated",
            Self::NotActivated { .. } => "not_activated",
            Self::DrainAsked => "rollback",
            Self::NotDrained { .. } => "not_rolled_back",
            Self::ShadowAsked { .. } => "shadow",
            Self::ShadowStopped => "shadow_stopped",
        }
    }
}

/// A step in a module's life that an operator or a node asks for.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum Wish {
    Stage { version: String, schema: u32, size: u32 },
    Prepare,
    Prepared { node: u64, engine: String, problem: Option<String> },
    Activate { from: [u8; 32], mode: Mode, proof: Option<String> },
    NotActivated { number: u64, partition: u32, problem: String },
    Drain { from: [u8; 32] },
    NotDrained { problem: String },
    Shadow { node: u64 },
    ShadowStop,
}

impl ModulesRow {
    pub fn find(&self, module: [u8; 32]) -> Option<&ModuleRow> {
        self.modules.iter().find(|row| row.module == module)
    }

    /// Whether the module was ever active here, as far back as the row reaches.
    pub fn was_active(&self, module: [u8; 32]) -> bool {
        let is_active = |step: &StepRow| matches!(step.what, Step::Created { .. } | Step::Activated { .. });
        self.steps.iter().any(|step| step.module == module && is_active(step))
    }

    /// The module of a rollback that waits until nothing is in flight between partitions, and when it was asked for.
    pub fn draining(&self) -> Option<([u8; 32], Micros)> {
        let newest = self.steps.iter().rev().find(|step| {
            matches!(
                step.what,
                Step::DrainAsked | Step::NotDrained { .. } | Step::Activated { .. } | Step::Created { .. }
            )
        })?;
        matches!(newest.what, Step::DrainAsked).then_some((newest.module, Micros(newest.time)))
    }

    /// The module that runs as a shadow, the node that runs it, and since when.
    pub fn shadow(&self) -> Option<([u8; 32], u64, Micros)> {
        let is_about = |step: &&StepRow| {
            matches!(step.what, Step::ShadowAsked { .. } | Step::ShadowStopped | Step::Activated { .. })
        };
        let newest = self.steps.iter().rev().find(is_about)?;
        let Step::ShadowAsked { node } = newest.what else { return None };
        Some((newest.module, node, Micros(newest.time)))
    }

    /// How often a rollback was asked for or given up, as far back as the row reaches.
    pub fn drains(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step.what, Step::DrainAsked | Step::NotDrained { .. })).count()
    }

    /// The module that the machine was created with.
    pub fn created(&self) -> Option<ModuleId> {
        let is_created = |step: &&StepRow| matches!(step.what, Step::Created { .. });
        self.steps.iter().find(is_created).map(|step| ModuleId(step.module))
    }

    /// Whether one more module fits without pushing another out.
    pub fn has_room(&self) -> bool {
        self.modules.len() < MODULES_MAX
    }

    /// The partitions that could not carry out an activation, each with the reason.
    pub fn not_activated(&self, wanted: u64) -> impl Iterator<Item = (u32, &str)> {
        self.steps.iter().filter_map(move |step| match &step.what {
            Step::NotActivated { number, partition, problem } if *number == wanted => {
                Some((*partition, problem.as_str()))
            }
            _ => None,
        })
    }

    /// Checks whether a wish can be granted in a cluster of these nodes.
    pub fn check(&self, machine: &MachineRow, module: [u8; 32], wish: &Wish, nodes: &[u64]) -> Result<(), Rejection> {
        let staged = || self.find(module).ok_or(Rejection::NotStaged { module: ModuleId(module).to_string() });
        match wish {
            Wish::Stage { .. } => Ok(()),
            Wish::Prepare => staged().map(drop),
            Wish::Prepared { .. } => staged().map(drop),
            Wish::NotActivated { number, partition, .. } => {
                let is_known = self.not_activated(*number).any(|(known, _)| known == *partition);
                let is_current = machine.module == module && machine.activation == *number && !is_known;
                if is_current { Ok(()) } else { Err(Rejection::OutOfDate) }
            }
            Wish::Shadow { .. } if machine.module == module => Err(Rejection::AlreadyActive),
            Wish::Shadow { node } => {
                let is_ready = |prepared: &PreparedRow| prepared.node == *node && prepared.problem.is_none();
                if staged()?.prepared.iter().any(is_ready) {
                    Ok(())
                } else {
                    Err(Rejection::NotPrepared { nodes: node.to_string() })
                }
            }
            Wish::ShadowStop if self.shadow().is_some_and(|(shadowed, ..)| shadowed == module) => Ok(()),
            Wish::ShadowStop => Err(Rejection::NotShadowed),
            Wish::NotDrained { .. } if self.draining().is_some_and(|(draining, _)| draining == module) => Ok(()),
            Wish::NotDrained { .. } => Err(Rejection::OutOfDate),
            Wish::Drain { .. } if machine.module == module => Err(Rejection::AlreadyActive),
            Wish::Drain { from } if machine.module != *from => Err(Rejection::OtherActive),
            Wish::Drain { .. } if self.draining().is_some() => Err(Rejection::Draining),
            Wish::Drain { .. } if self.was_active(module) => Ok(()),
            Wish::Drain { .. } => Err(Rejection::NeverActive),
            Wish::Activate { .. } if machine.module == module => Err(Rejection::AlreadyActive),
            Wish::Activate { from, .. } if machine.module != *from => Err(Rejection::OtherActive),
            Wish::Activate { .. } if self.draining().is_some_and(|(draining, _)| draining != module) => {
                Err(Rejection::Draining)
            }
            Wish::Activate { mode: Mode::Rollback, .. } if self.was_active(module) => Ok(()),
            Wish::Activate { mode: Mode::Rollback, .. } => Err(Rejection::NeverActive),
            Wish::Activate { mode, proof, .. } => {
                let staged = staged()?;
                let is_ready = |node: &u64| {
                    staged.prepared.iter().any(|prepared| prepared.node == *node && prepared.problem.is_none())
                };
                let missing: Vec<String> =
                    nodes.iter().filter(|node| !is_ready(node)).map(|node| node.to_string()).collect();
                if !missing.is_empty() || staged.prepared.is_empty() {
                    let nodes = if missing.is_empty() { "any node".to_owned() } else { missing.join(", ") };
                    return Err(Rejection::NotPrepared { nodes });
                }
                if *mode == Mode::Proved && proof.is_none() { Err(Rejection::NotProved) } else { Ok(()) }
            }
        }
    }

    /// Applies a granted wish to the row. `number` is the number of the activation, if the wish is one.
    pub fn grant(&mut self, module: [u8; 32], wish: &Wish, by: &str, time: Micros, number: u64) {
        let what = match wish {
            Wish::Stage { version, schema, size } => {
                if self.find(module).is_none() {
                    let row = ModuleRow {
                        module,
                        version: version.clone(),
                        schema: *schema,
                        size: *size,
                        is_wanted: false,
                        prepared: Vec::new(),
                    };
                    self.modules.push(row);
                }
                Step::Staged
            }
            // Nodes that have prepared it prepare it again, because their rows have changed since.
            Wish::Prepare => {
                if let Some(row) = self.modules.iter_mut().find(|row| row.module == module) {
                    row.is_wanted = true;
                    row.prepared.clear();
                }
                Step::PrepareAsked
            }
            Wish::Prepared { node, engine, problem } => {
                if let Some(row) = self.modules.iter_mut().find(|row| row.module == module) {
                    row.prepared.retain(|prepared| prepared.node != *node);
                    row.prepared.push(PreparedRow { node: *node, engine: engine.clone(), problem: problem.clone() });
                }
                Step::Prepared { node: *node, problem: problem.clone() }
            }
            Wish::Activate { mode, proof, .. } => Step::Activated { number, mode: *mode, proof: proof.clone() },
            Wish::NotActivated { number, partition, problem } => {
                Step::NotActivated { number: *number, partition: *partition, problem: problem.clone() }
            }
            Wish::Drain { .. } => Step::DrainAsked,
            Wish::NotDrained { problem } => Step::NotDrained { problem: problem.clone() },
            Wish::Shadow { node } => Step::ShadowAsked { node: *node },
            Wish::ShadowStop => Step::ShadowStopped,
        };
        self.step(StepRow { time: time.0, by: by.to_owned(), module, what });
        let surplus = self.modules.len().saturating_sub(MODULES_MAX);
        self.modules.drain(..surplus);
    }

    pub fn step(&mut self, step: StepRow) {
        self.steps.push(step);
        // Modules that were ever active may be rolled back to, and the last step about a shadow or a rollback says what
        // is in progress. These steps stay.
        while STEPS_MAX < self.steps.len() {
            let last = |is_one: fn(&Step) -> bool| self.steps.iter().rposition(|step| is_one(&step.what));
            let going_on =
                [last(|step| matches!(step, Step::ShadowAsked { .. })), last(|step| matches!(step, Step::DrainAsked))];
            let is_minor = |(at, step): &(usize, &StepRow)| {
                let is_kept = matches!(step.what, Step::Created { .. } | Step::Activated { .. });
                !is_kept && !going_on.contains(&Some(*at))
            };
            let at = self.steps.iter().enumerate().find(is_minor).map_or(0, |(at, _)| at);
            self.steps.remove(at);
        }
    }
}

/// Checks a step. Returns the number of this activation, or of the last one if the step activates nothing.
pub fn check_step(
    view: &View<'_>,
    known: &NodesRow,
    machine: &str,
    module: [u8; 32],
    wish: &Wish,
) -> Result<u64, Rejection> {
    let unknown = Rejection::UnknownMachine { machine: machine.to_owned() };
    let row: MachineRow = view.read(machine.as_bytes()).ok_or(unknown)?;
    let modules: ModulesRow = view.read(modules_suffix(machine)).unwrap_or_default();
    modules.check(&row, module, wish, &known.ids())?;
    Ok(view.read(ACTIVATIONS).unwrap_or(0) + u64::from(matches!(wish, Wish::Activate { .. })))
}

/// The suffix of a machine's row.
pub fn modules_suffix(machine: &str) -> Vec<u8> {
    [MODULES.as_bytes(), machine.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
