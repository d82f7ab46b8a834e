//! What `system` knows about entries that operators gave up: in which partition, on which node, who said so, why, and
//! what was missing.
//!
//! | row | content |
//! |---|---|
//! | `#losses` | the newest losses; the journal has all of them |
//!
//! In: the losses that nodes have recorded. Out: the row. Each loss is recorded once, however often a node reports it.
//! It is written against the SDK like any module, and knows nothing of logs.

use statehouse_guest::Value;
use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};

use crate::limits::LOSSES_ROW_ENTRIES_MAX;

/// Suffix of the row. A machine's name never begins with `#`.
pub const LOSSES: &[u8] = b"#losses";

/// A loss that an operator has accepted.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct AcceptedLoss {
    pub machine: String,
    pub partition: u32,
    pub node: u64,
    pub by: String,
    pub why: String,
    pub time: i64,
    pub refusal: String,
}

/// The losses of all partitions, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct LossesRow {
    pub losses: Vec<AcceptedLoss>,
}

impl LossesRow {
    pub fn has(&self, loss: &AcceptedLoss) -> bool {
        self.losses.contains(loss)
    }

    /// The row with this loss added; the oldest loss makes room.
    pub fn with(mut self, loss: &AcceptedLoss) -> Self {
        let excess = (self.losses.len() + 1).saturating_sub(LOSSES_ROW_ENTRIES_MAX);
        self.losses.drain(..excess);
        self.losses.push(loss.clone());
        self
    }
}

pub fn loss_value(loss: &AcceptedLoss) -> Value {
    Value::map([
        ("machine", Value::text(loss.machine.as_str())),
        ("partition", Value::Int(loss.partition.into())),
        ("node", Value::Int(loss.node.into())),
        ("by", Value::text(loss.by.as_str())),
        ("why", Value::text(loss.why.as_str())),
        ("time", Value::Int(loss.time.into())),
        ("refusal", Value::text(loss.refusal.as_str())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LOSS_TEXT_CHARS_MAX, ROW_BYTES_MAX};

    #[test]
    fn a_row_keeps_the_newest_and_fits() {
        let loss = |time: i64| {
            let text = "𝄞".repeat(LOSS_TEXT_CHARS_MAX);
            let (machine, by, why) = ("m".repeat(32), text.clone(), text.clone());
            AcceptedLoss { machine, partition: 4095, node: 9, by, why, time, refusal: text }
        };
        let row = (0..=LOSSES_ROW_ENTRIES_MAX as i64).fold(LossesRow::default(), |row, time| row.with(&loss(time)));
        assert_eq!(row.losses.len(), LOSSES_ROW_ENTRIES_MAX);
        assert!(!row.has(&loss(0)) && row.has(&loss(1)), "the oldest has made room");
        let bytes = statehouse_guest::borsh::to_vec(&row).expect("it is small");
        assert!(bytes.len() <= ROW_BYTES_MAX, "{} bytes", bytes.len());
    }
}
