//! Planning of the command that creates a machine.
//!
//! In: the body of the command. Out: the op. Whether such a machine exists already is decided in `logic`, which has the
//! row.

use statehouse_guest::{Body, Refusal};

use crate::limits::SLOT_COUNT;
use crate::records::logic::Op;
use crate::records::module_plan::{parse_module, refusal};

#[derive(Body)]
pub struct CreateMachine {
    /// Name of the machine
    #[body(name, max_chars = 32)]
    pub name: String,
    /// How many partitions its slots are split into, for now and for ever
    #[body(min = 1, max = 4096)]
    pub partitions: u32,
    /// Id of the module that decides from the first entry
    #[body(max_chars = 64)]
    pub module: String,
}

pub fn plan_machine(create: &CreateMachine) -> Result<Op, Refusal> {
    if SLOT_COUNT < create.partitions {
        let detail = "a machine has at most 4096 partitions";
        return Err(refusal("too_many_partitions", 422, detail, Some("partitions")));
    }
    let module = parse_module(&create.module)?;
    Ok(Op::CreateMachine { name: create.name.clone(), partitions: create.partitions, module: module.0 })
}
