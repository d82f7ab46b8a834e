//! What `system` knows about a machine's views: which views there are, which module builds each, and how often a
//! rebuild was asked for.
//!
//! In: ops of the machine `system`. Out: rejections and events, and the row that results. Only a node itself knows how
//! far it has built a view.

use statehouse_guest::Value;
use statehouse_guest::borsh::{BorshDeserialize, BorshSerialize};

use crate::ids::{Micros, ModuleId};
use crate::limits::VIEWS_MAX;
use crate::records::rejection::Rejection;

/// How the suffix of a machine's row begins. A machine's name never begins with `#`.
pub const VIEWS: &str = "#views/";

/// A machine's views.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct ViewsRow {
    /// Sorted by name.
    pub views: Vec<ViewRow>,
    /// Names of views that somebody has dropped, sorted. They are not created again by default.
    pub dropped: Vec<String>,
    /// How many builds were asked for, of all views together.
    pub builds: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub struct ViewRow {
    pub name: String,
    pub module: [u8; 32],
    pub version: String,
    /// Rises when the view is to be built again.
    pub build: u64,
    /// Who asked for this build, and when.
    pub by: String,
    pub time: i64,
}

/// A step that an operator asks for in a view's life.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(crate = "statehouse_guest::borsh")]
pub enum ViewWish {
    Create { module: [u8; 32], version: String, is_default: bool },
    Rebuild,
    Drop,
}

impl ViewsRow {
    pub fn find(&self, name: &str) -> Option<&ViewRow> {
        self.views.iter().find(|row| row.name == name)
    }

    /// Whether a default view of this name is to be created.
    pub fn lacks(&self, name: &str) -> bool {
        self.find(name).is_none() && !self.dropped.iter().any(|dropped| dropped == name)
    }

    /// Whether a wish changes anything.
    ///
    /// # Errors
    /// The wish cannot be granted.
    pub fn check(&self, name: &str, wish: &ViewWish) -> Result<bool, Rejection> {
        let view = || name.to_owned();
        match (wish, self.find(name)) {
            (ViewWish::Create { is_default: true, .. }, _) if !self.lacks(name) => Ok(false),
            (ViewWish::Create { module, .. }, Some(row)) if row.module == *module => {
                Err(Rejection::ViewExists { view: view() })
            }
            (ViewWish::Create { .. }, None) if VIEWS_MAX <= self.views.len() => Err(Rejection::TooManyViews),
            (ViewWish::Create { .. }, _) | (_, Some(_)) => Ok(true),
            (ViewWish::Rebuild | ViewWish::Drop, None) => Err(Rejection::UnknownView { view: view() }),
        }
    }

    /// Applies a granted wish to the row.
    pub fn grant(&mut self, name: &str, wish: &ViewWish, by: &str, time: Micros) {
        let at = self.views.iter().position(|row| row.name == name);
        self.builds += 1;
        let build = self.builds;
        match wish {
            ViewWish::Drop => {
                self.views.retain(|row| row.name != name);
                self.dropped.retain(|dropped| dropped != name);
                self.dropped.push(name.to_owned());
                self.dropped.sort();
            }
            ViewWish::Rebuild => {
                if let Some(at) = at {
                    let row = &mut self.views[at];
                    (row.build, row.by, row.time) = (build, by.to_owned(), time.0);
                }
            }
            ViewWish::Create { module, version, .. } => {
                let (name, version, by) = (name.to_owned(), version.clone(), by.to_owned());
                self.dropped.retain(|dropped| *dropped != name);
                let row = ViewRow { name, module: *module, version, build, by, time: time.0 };
                match at {
                    Some(at) => self.views[at] = row,
                    None => self.views.push(row),
                }
                self.views.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
    }
}

pub fn views_suffix(machine: &str) -> String {
    format!("{VIEWS}{machine}")
}

pub fn views_value(row: &ViewsRow) -> Value {
    let view = |row: &ViewRow| {
        Value::map([
            ("view", Value::text(row.name.as_str())),
            ("module", Value::text(ModuleId(row.module).to_string())),
            ("version", Value::text(row.version.as_str())),
            ("build", Value::Int(row.build.into())),
        ])
    };
    Value::Array(row.views.iter().map(view).collect())
}

/// A step as a value for people to read.
pub fn wish_value(machine: &str, view: &str, wish: &ViewWish) -> Value {
    let step = match wish {
        ViewWish::Create { .. } => "created",
        ViewWish::Rebuild => "rebuild",
        ViewWish::Drop => "dropped",
    };
    Value::map([("machine", Value::text(machine)), ("view", Value::text(view)), ("step", Value::text(step))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(module: u8, is_default: bool) -> ViewWish {
        ViewWish::Create { module: [module; 32], version: "1.0.0".to_owned(), is_default }
    }

    /// Checks a wish, and applies it to the row if it is granted.
    fn step(row: &mut ViewsRow, name: &str, wish: &ViewWish) -> Result<bool, &'static str> {
        use statehouse_guest::Rejections;
        let checked = row.check(name, wish).map_err(|rejection| rejection.code());
        if checked == Ok(true) {
            row.grant(name, wish, "op", Micros(7));
        }
        checked
    }

    #[test]
    fn a_view_is_created_upgraded_made_again_and_dropped() {
        let mut row = ViewsRow::default();
        assert_eq!(step(&mut row, "a", &create(1, false)), Ok(true));
        assert_eq!(step(&mut row, "a", &create(1, false)), Err("view_exists"));
        assert_eq!(step(&mut row, "a", &ViewWish::Rebuild), Ok(true));
        let build = row.find("a").expect("it is there").build;
        assert_eq!(step(&mut row, "a", &create(2, false)), Ok(true));
        let upgraded = row.find("a").expect("it is there");
        assert!(build < upgraded.build && upgraded.module == [2; 32]);
        assert_eq!(step(&mut row, "b", &ViewWish::Rebuild), Err("unknown_view"));
        assert_eq!(step(&mut row, "a", &ViewWish::Drop), Ok(true));
        assert_eq!(step(&mut row, "a", &ViewWish::Drop), Err("unknown_view"));
        assert!(row.views.is_empty());
    }

    #[test]
    fn a_view_that_was_dropped_does_not_come_back_by_default() {
        let mut row = ViewsRow::default();
        assert_eq!(step(&mut row, "a", &create(1, true)), Ok(true));
        assert_eq!(step(&mut row, "a", &create(2, true)), Ok(false), "and another version does not replace it");
        assert_eq!(step(&mut row, "a", &ViewWish::Drop), Ok(true));
        assert_eq!(step(&mut row, "a", &create(1, true)), Ok(false));
        assert_eq!(step(&mut row, "a", &create(1, false)), Ok(true));
        assert_eq!(row.dropped, Vec::<String>::new());
    }

    #[test]
    fn there_are_not_too_many() {
        let mut row = ViewsRow::default();
        for at in 0..VIEWS_MAX {
            assert_eq!(step(&mut row, &format!("v{at}"), &create(1, false)), Ok(true));
        }
        assert_eq!(step(&mut row, "w", &create(1, false)), Err("too_many_views"));
        assert_eq!(step(&mut row, "v0", &create(2, false)), Ok(true), "an upgrade is none more");
    }
}
