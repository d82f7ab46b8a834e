//! Which steps of a plan need nobody's consent: an optional section of the PLAN_OUT block.
//!
//! | block | section | record | fields |
//! |---|---|---|---|
//! | PLAN_OUT | 5 FREE, optional | 4 B | the number of a step among all steps of the block, strictly rising |
//!
//! A step that is listed only gives: whoever its entity belongs to need not be asked, as for a payment that arrives. All other steps take from
//! their entity or change it. A host that does not know the section skips it. A block without it is of a module that says nothing; what holds
//! then is the reader's matter. It does not know who may consent for whom.

use alloc::vec::Vec;

use crate::block::{AbiError, Block, BlockWriter, FLAG_OPTIONAL, kind, u32_at};
use crate::plan::PlanOut;

const ITEMS: u16 = 1;
const STEPS: u16 = 2;
const KEYS: u16 = 3;
const BYTES: u16 = 4;
const FREE: u16 = 5;

/// The steps of a block that need no consent.
#[derive(Clone, Copy, Debug)]
pub struct FreeSteps<'a>(&'a [[u8; 4]]);

impl<'a> FreeSteps<'a> {
    /// Parses the section of a PLAN_OUT block; nothing where the block has none.
    ///
    /// # Errors
    /// It is no such block, or the section names no step of it, or not in order.
    pub fn find(raw: &'a [u8]) -> Result<Option<Self>, AbiError> {
        let block = Block::parse(raw, kind::PLAN_OUT, &[ITEMS, STEPS, KEYS, BYTES, FREE])?;
        if block.find_section(FREE).is_none() {
            return Ok(None);
        }
        let free = block.records::<4>(FREE)?;
        let steps = block.records::<40>(STEPS)?.len();
        let mut numbers = free.iter().map(|number| u32_at(number, 0));
        let is_in_order = numbers.clone().zip(numbers.clone().skip(1)).all(|(before, after)| before < after);
        if !is_in_order || numbers.any(|number| steps <= number as usize) {
            return Err(AbiError::Range { kind: kind::PLAN_OUT, what: "step without consent" });
        }
        Ok(Some(Self(free)))
    }

    pub fn contains(&self, step: u32) -> bool {
        self.0.binary_search_by_key(&step, |number| u32_at(number, 0)).is_ok()
    }
}

/// The block with the section added, which lists every step whose op is one that only gives.
///
/// # Errors
/// It is no PLAN_OUT block.
pub fn mark(block: &[u8], only_gives: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, AbiError> {
    let plans = PlanOut::parse_trusted(block)?;
    let parsed = Block::parse(block, kind::PLAN_OUT, &[ITEMS, STEPS, KEYS, BYTES])?;
    let steps = parsed.records::<40>(STEPS)?.len() as u32;
    let free: Vec<[u8; 4]> =
        (0..steps).filter(|step| only_gives(plans.step(*step).op)).map(|step| step.to_le_bytes()).collect();
    let mut marked = BlockWriter::new(Vec::with_capacity(block.len() + 64), kind::PLAN_OUT, 5);
    for id in [ITEMS, STEPS, KEYS, BYTES] {
        marked.section(id, parsed.section(id)?);
    }
    marked.section_with(FREE, FLAG_OPTIONAL, |out| out.extend_from_slice(free.as_flattened()));
    Ok(marked.finish())
}
