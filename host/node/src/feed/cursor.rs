//! Cursors: how far a reader is, as one position for each partition. A cursor is text, so that any node can continue
//! where another one ended.
//!
//! ```text
//! 0.42.3~1a2b3c4d,1.17.0~5e6f7a8b      partition 0 up to event 3 of entry 42, partition 1 up to event 0 of entry 17
//! ```
//! In: a text of a client, or positions. Out: the other one. It does not know whether the positions are of this
//! history.

use std::collections::BTreeMap;
use std::fmt;

use crate::ids::{PartitionId, Position};

pub const CURSOR_IS: &str =
    "a cursor is the `id` of an event: positions with commas between them, like 0.42.3~1a2b3c4d,1.17.0~5e6f7a8b";

/// See [`Position::WHOLE`].
pub const WHOLE: u32 = Position::WHOLE;

/// One position for each partition, or for some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(BTreeMap<PartitionId, Position>);

impl Cursor {
    /// `None` if the text is no cursor: positions with commas between them, at most one for each partition.
    pub fn parse(text: &str) -> Option<Self> {
        let mut positions = BTreeMap::new();
        for part in text.split(',') {
            let position: Position = part.trim().parse().ok()?;
            if positions.insert(position.partition, position).is_some() {
                return None;
            }
        }
        Some(Self(positions))
    }

    pub fn find(&self, partition: PartitionId) -> Option<Position> {
        self.0.get(&partition).copied()
    }

    pub fn set(&mut self, position: Position) {
        self.0.insert(position.partition, position);
    }

    pub fn positions(&self) -> impl Iterator<Item = Position> {
        self.0.values().copied()
    }

    /// The text of this cursor in two parts, between which the position of `partition` belongs.
    pub fn around(&self, partition: PartitionId) -> (String, String) {
        let join = |positions: &mut dyn Iterator<Item = &Position>, before: bool| {
            positions.fold(String::new(), |mut text, position| {
                text.extend((!before).then_some(','));
                text.push_str(&position.to_string());
                text.extend(before.then_some(','));
                text
            })
        };
        let lower = join(&mut self.0.range(..partition).map(|(_, position)| position), true);
        let higher = join(&mut self.0.range(partition.next()..).map(|(_, position)| position), false);
        (lower, higher)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, position) in self.0.values().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{position}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let found = Cursor::parse(text);
        assert_eq!(found.map(|cursor| cursor.to_string()).as_deref(), expected, "{text}");
    }

    #[test]
    fn a_cursor_is_a_position_for_each_partition() {
        let three = "0.42.3~1a2b3c4d,1.17.0~5e6f7a8b,7.0.0~00000000";
        check(three, Some(three));
        check("7.0.0~00000000, 0.42.3~1a2b3c4d", Some("0.42.3~1a2b3c4d,7.0.0~00000000"));
        check("0.42.4294967295~1a2b3c4d", Some("0.42.4294967295~1a2b3c4d"));
        for malformed in [
            "",
            ",",
            "start",
            "0.42.3",
            "0.42.3~1a2b3c",
            "0.42.3~1a2b3c4d,",
            "0.42.3~1a2b3c4d,0.43.0~1a2b3c4d",
            "0.42.4294967296~1a2b3c4d",
            "0.-1.3~1a2b3c4d",
            "0.42.3~1a2b3c4d;1.17.0~5e6f7a8b",
        ] {
            check(malformed, None);
        }
    }

    #[test]
    fn the_position_of_a_partition_fits_between_the_others() {
        let text = "0.42.3~1a2b3c4d,1.17.0~5e6f7a8b,7.0.0~00000000";
        let cursor = Cursor::parse(text).expect("well-formed");
        for position in cursor.positions() {
            let (lower, higher) = cursor.around(position.partition);
            assert_eq!(format!("{lower}{position}{higher}"), text);
        }
        let alone = Cursor::parse("1.17.0~5e6f7a8b").expect("well-formed");
        assert_eq!(alone.around(PartitionId(1)), (String::new(), String::new()));
        let mut moved = cursor.clone();
        moved.set("1.18.0~00000001".parse().expect("a position"));
        assert_eq!(moved.to_string(), "0.42.3~1a2b3c4d,1.18.0~00000001,7.0.0~00000000");
        assert_eq!(moved.find(PartitionId(2)), None);
    }
}

#[cfg(test)]
mod fuzz {
    use statehouse_fuzz::{Target, fuzz, within};

    use super::*;

    #[test]
    fn a_cursor_that_is_accepted_is_written_as_it_was() {
        let seeds = ["0.42.3~1a2b3c4d,1.17.0~5e6f7a8b,7.0.0~00000000", "3.9.4294967295~1a2b3c4d"];
        let target = Target::new("cursor").seeds(seeds.map(|text| text.as_bytes().to_vec()));
        fuzz!(target, |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            let Some(cursor) = within(1024 + 128 * input.len(), || Cursor::parse(text)) else { return };
            let written = cursor.to_string();
            assert_eq!(Cursor::parse(&written), Some(cursor.clone()));
            for position in cursor.positions().filter(|position| position.partition.0 < u32::MAX) {
                let (lower, higher) = cursor.around(position.partition);
                assert_eq!(format!("{lower}{position}{higher}"), written);
            }
        });
    }
}
