//! Modules that were uploaded and refused: as `system` lists them, and the newest ones that only this node remembers.
//!
//! In: refusals. Out: the same, bounded, and whether one more may be recorded in `system` now. It does not know why a
//! module is refused, nor how that is recorded.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::ids::{Micros, ModuleId};
use crate::limits::{MODULES_REFUSED_MAX, REFUSALS_PER_MINUTE_MAX};
use crate::system::refused_row::ModuleRefusal;

/// A module that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedModule {
    pub machine: String,
    pub module: ModuleId,
    pub size: usize,
    pub time: Micros,
    /// Who uploaded it.
    pub by: String,
    pub reason: String,
}

impl From<&ModuleRefusal> for RefusedModule {
    fn from(refused: &ModuleRefusal) -> Self {
        let ModuleRefusal { machine, module, size, time, by, reason } = refused.clone();
        Self { machine, module: ModuleId(module), size: size as usize, time: Micros(time), by, reason }
    }
}

/// The newest modules that this node has refused since it started and that `system` does not name, oldest first. The
/// node's log output has all of them.
#[derive(Default)]
pub struct RefusedModules(Mutex<Unrecorded>);

#[derive(Default)]
struct Unrecorded {
    newest: VecDeque<RefusedModule>,
    /// A minute of the node's clock, and how many refusals were recorded in it.
    minute: (i64, u32),
}

impl RefusedModules {
    pub fn of(&self, machine: &str) -> Vec<RefusedModule> {
        self.0.lock().newest.iter().filter(|refused| refused.machine == machine).cloned().collect()
    }

    pub fn add(&self, refused: RefusedModule) {
        let newest = &mut self.0.lock().newest;
        newest.retain(|known| (&known.machine, known.module) != (&refused.machine, refused.module));
        if newest.len() == MODULES_REFUSED_MAX {
            newest.pop_front();
        }
        newest.push_back(refused);
    }

    /// Counts one more refusal, and says whether it may be recorded now.
    pub fn may_record(&self, now: Micros) -> bool {
        let minute = now.0.div_euclid(60_000_000);
        let known = &mut self.0.lock().minute;
        if known.0 != minute {
            *known = (minute, 0);
        }
        known.1 += 1;
        known.1 <= REFUSALS_PER_MINUTE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_recorded_in_a_minute_and_the_rest_is_remembered_once_each() {
        let refused = RefusedModules::default();
        let may = |second: i64| refused.may_record(Micros(second * 1_000_000));
        assert_eq!((0..100).filter(|_| may(59)).count(), REFUSALS_PER_MINUTE_MAX as usize);
        assert!(may(60), "the next minute is another one");
        let one = |number: usize| RefusedModule {
            machine: "wallet".to_owned(),
            module: ModuleId::of(&number.to_le_bytes()),
            size: 8,
            time: Micros(0),
            by: "eve".to_owned(),
            reason: "it is none".to_owned(),
        };
        (0..=MODULES_REFUSED_MAX).for_each(|number| refused.add(one(number)));
        refused.add(one(1));
        let known = refused.of("wallet");
        assert_eq!(known.len(), MODULES_REFUSED_MAX);
        assert_eq!(known.last(), Some(&one(1)), "once, and the newest");
        assert!(refused.of("other").is_empty());
    }
}
