//! What `system` knows about modules that were uploaded and refused: for the newest ones the hash, the reason, the
//! caller and the time.
//!
//! | row | content |
//! |---|---|
//! | `#refused/00` … `#refused/1f` | modules by the first byte of their hash, modulo the rows; the newest of each |
//!
//! In: what a node has refused. Out: rejections, and the rows. A hash is recorded once for each machine, however often
//! it is uploaded. There are many rows so that each stays small, and the hash decides which row it is. It is written
//! against the SDK like any module, and knows nothing of wasm.

use statehouse_guest::Value;
use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};

use crate::ids::{Micros, ModuleId};
use crate::limits::{REFUSED_ROW_ENTRIES_MAX, REFUSED_ROWS};
use crate::records::rejection::Rejection;

/// How the suffix of such a row begins. A machine's name never begins with `#`.
pub const REFUSED: &str = "#refused/";

/// A module that was refused.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct ModuleRefusal {
    pub machine: String,
    pub module: [u8; 32],
    pub size: u32,
    /// When it was recorded, microseconds since 1970.
    pub time: i64,
    /// Who uploaded it.
    pub by: String,
    pub reason: String,
}

/// The refused modules of one row, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct RefusedRow {
    pub refused: Vec<ModuleRefusal>,
}

impl RefusedRow {
    /// Checks that the refusal is not recorded yet.
    pub fn check(&self, refused: &ModuleRefusal) -> Result<(), Rejection> {
        if self.refused.iter().any(|known| known.is_of(&refused.machine, refused.module)) {
            return Err(Rejection::OutOfDate);
        }
        Ok(())
    }

    /// The row with this refusal added; the oldest one makes room.
    pub fn with(mut self, refused: &ModuleRefusal, time: Micros) -> Self {
        let excess = (self.refused.len() + 1).saturating_sub(REFUSED_ROW_ENTRIES_MAX);
        self.refused.drain(..excess);
        self.refused.push(ModuleRefusal { time: time.0, ..refused.clone() });
        self
    }
}

impl ModuleRefusal {
    pub fn is_of(&self, machine: &str, module: [u8; 32]) -> bool {
        self.machine == machine && self.module == module
    }
}

/// The suffix of the row that a module's refusal belongs to.
pub fn refused_suffix(module: [u8; 32]) -> String {
    format!("{REFUSED}{:02x}", usize::from(module[0]) % REFUSED_ROWS)
}

pub fn refused_value(refused: &[ModuleRefusal]) -> Value {
    let value = |one: &ModuleRefusal| {
        Value::map([
            ("machine", Value::text(one.machine.as_str())),
            ("module", Value::text(ModuleId(one.module).to_string())),
            ("size", Value::Int(one.size.into())),
            ("by", Value::text(one.by.as_str())),
            ("reason", Value::text(one.reason.as_str())),
        ])
    };
    Value::Array(refused.iter().map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{REFUSED_BY_CHARS_MAX, REFUSED_REASON_CHARS_MAX, ROW_BYTES_MAX};

    fn refused(machine: &str, number: u8) -> ModuleRefusal {
        let (by, reason) = ("𝄞".repeat(REFUSED_BY_CHARS_MAX), "𝄞".repeat(REFUSED_REASON_CHARS_MAX));
        ModuleRefusal { machine: machine.to_owned(), module: [number; 32], size: 7, time: 0, by, reason }
    }

    #[test]
    fn a_hash_is_recorded_once_and_a_row_keeps_the_newest() {
        let mut row = RefusedRow::default();
        for number in 0..=REFUSED_ROW_ENTRIES_MAX as u8 {
            let one = refused("wallet", number);
            assert!(row.check(&one).is_ok());
            row = row.with(&one, Micros(i64::from(number) + 1));
            assert!(row.check(&one).is_err(), "it is recorded already");
            assert!(row.check(&refused("other", number)).is_ok(), "of another machine it is news");
        }
        assert_eq!(row.refused.len(), REFUSED_ROW_ENTRIES_MAX);
        assert_eq!((row.refused[0].module, row.refused[0].time), ([1; 32], 2), "the oldest has made room");
        let bytes = statehouse_guest::borsh::to_vec(&row).expect("it is small");
        assert!(bytes.len() <= ROW_BYTES_MAX, "{} bytes", bytes.len());
        assert!(row.check(&refused("wallet", 0)).is_ok(), "what is not known any more is recorded again");
    }
}
