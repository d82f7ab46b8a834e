//! Planning of commands about a module's life: who may ask for which step, and which machine and module it concerns. It
//! also plans the commands that only record what somebody said.
//!
//! In: a command of the machine `system` and its caller. Out: the machine it concerns and an op, or a refusal.
//! `module_row` then decides by the row whether the step can be taken.

use statehouse_guest::{Caller, Refusal, View, role};

use crate::ids::ModuleId;
use crate::records::clock_row::{AcceptClock, CLOCK, by_of};
use crate::records::logic::{Command, MachineRow, NodesRow, Op, Rejection};
use crate::records::loss_row::{LOSSES, accepted};
use crate::records::module_row::{
    ActivateModule, DrainModule, Mode, ModuleNotActivated, ModuleNotDrained, ModulePrepared, ModulesRow, PrepareModule,
    ShadowModule, ShadowStop, StageModule, Wish, modules_suffix,
};
use crate::records::refused_row::{plan_refused, refused_suffix};
use crate::records::rows::ACTIVATIONS;

/// The op of a step in a module's life, with its machine; `None` if the command is about something else.
pub fn plan_module(command: &Command, caller: &Caller<'_>) -> Result<Option<(String, Op)>, Refusal> {
    let (machine, module, wish) = match command {
        Command::StageModule(StageModule { machine, module, version, schema, size }) => {
            let wish = Wish::Stage { version: version.clone(), schema: *schema, size: *size };
            (machine, module, wish)
        }
        Command::PrepareModule(PrepareModule { machine, module }) => (machine, module, Wish::Prepare),
        Command::ModulePrepared(ModulePrepared { machine, module, node, engine, problem }) => {
            let (engine, problem) = (engine.clone(), problem.clone());
            (machine, module, Wish::Prepared { node: node.unsigned_abs(), engine, problem })
        }
        Command::ActivateModule(ActivateModule { machine, module, mode, current, proof }) => {
            let detail = "the mode is proved, without_proof or rollback";
            let mode = Mode::parse(mode).ok_or_else(|| refusal("invalid_mode", 422, detail, Some("mode")))?;
            if mode == Mode::WithoutProof && !caller.has_role(role::ADMIN) {
                return Err(refusal("forbidden", 403, "only an admin activates a module without proof", None));
            }
            let from = parse_module(current)?.0;
            (machine, module, Wish::Activate { from, mode, proof: proof.clone() })
        }
        Command::DrainModule(DrainModule { machine, module, current }) => {
            (machine, module, Wish::Drain { from: parse_module(current)?.0 })
        }
        Command::ModuleNotDrained(ModuleNotDrained { machine, module, problem }) => {
            (machine, module, Wish::NotDrained { problem: problem.clone() })
        }
        Command::ModuleNotActivated(ModuleNotActivated { machine, module, number, partition, problem }) => {
            let partition = u32::try_from(*partition).expect("the body bounds it");
            (machine, module, Wish::NotActivated { number: number.unsigned_abs(), partition, problem: problem.clone() })
        }
        Command::ShadowModule(ShadowModule { machine, module, node }) => {
            (machine, module, Wish::Shadow { node: node.unsigned_abs() })
        }
        Command::ShadowStop(ShadowStop { machine, module }) => (machine, module, Wish::ShadowStop),
        _ => return Ok(None),
    };
    let module = parse_module(module)?.0;
    let by = caller.name.to_owned();
    Ok(Some((machine.clone(), Op::Module { machine: machine.clone(), module, by, wish })))
}

/// Whether a developer may send the command as well.
pub fn is_developers(command: &Command) -> bool {
    matches!(
        command,
        Command::StageModule(_) | Command::RefuseModule(_) | Command::ShadowModule(_) | Command::ShadowStop(_)
    )
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

pub fn parse_module(text: &str) -> Result<ModuleId, Refusal> {
    let detail = "the module's id is 64 hexadecimal digits";
    text.parse().map_err(|_| refusal("invalid_module", 422, detail, Some("module")))
}

pub fn refusal(code: &str, status: u16, detail: &str, field: Option<&str>) -> Refusal {
    Refusal { code: code.to_owned(), status, detail: detail.to_owned(), field: field.map(str::to_owned) }
}

/// The op of a command that is recorded as it was said, and the suffix of its row.
pub fn plan_word(command: &Command, caller: &Caller<'_>) -> Result<Option<(Op, Vec<u8>)>, Refusal> {
    Ok(match command {
        Command::RefuseModule(refuse) => {
            let refused = plan_refused(refuse, caller)?;
            let suffix = refused_suffix(refused.module).into_bytes();
            Some((Op::RefuseModule { refused }, suffix))
        }
        Command::AcceptClock(AcceptClock { ahead }) => {
            Some((Op::AcceptClock { ahead: *ahead, by: by_of(caller) }, CLOCK.to_vec()))
        }
        Command::AcceptLoss(accept) => Some((Op::AcceptLoss { loss: accepted(accept) }, LOSSES.to_vec())),
        _ => None,
    })
}
