//! The entities that a caller may act for: all, or those that its token is bound to.
//!
//! In: patterns, then a plan. Out: the first entity of the plan that the caller may not act for. A plan's home must lie
//! inside the scope, and so must every entity that the plan takes from or changes. The module says which steps only
//! give (`guest-sdk/abi/src/consent.rs`). Where it does not say, its use of Try-Confirm/Cancel does: a step that runs
//! in Confirm, on an entity that has no step in Try, cannot be refused, like a payment that arrives. All other steps
//! count. It does not know what any step does.

use statehouse_abi::plan::TccRole;

use crate::limits::ENTITY_BYTES_MAX;
use crate::machine::plan::Plan;

/// Which entities a caller may act for, and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Bound(Vec<Pattern>),
}

/// One entity, or all entities whose names begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
}

/// Why a list of patterns is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("`entities` is empty, so it could act for nobody; name some, or leave `entities` out to bind it to none")]
    Empty,
    #[error(
        "`{0}` is no entity and no beginning of one: write a name of 1 to {ENTITY_BYTES_MAX} bytes, or one with a \
         `*` as its end"
    )]
    Pattern(String),
    #[error("`*` is every entity: leave `entities` out")]
    Everything,
}

impl Scope {
    /// # Errors
    /// The list is empty, or one of its texts is not a pattern.
    pub fn bound(patterns: &[String]) -> Result<Self, ScopeError> {
        if patterns.is_empty() {
            return Err(ScopeError::Empty);
        }
        let parse = |text: &String| {
            let (name, is_prefix) = match text.strip_suffix('*') {
                Some("") => return Err(ScopeError::Everything),
                Some(beginning) => (beginning, true),
                None => (text.as_str(), false),
            };
            if name.is_empty() || ENTITY_BYTES_MAX < name.len() || name.contains('*') {
                return Err(ScopeError::Pattern(text.clone()));
            }
            Ok(if is_prefix { Pattern::Prefix(name.to_owned()) } else { Pattern::Exact(name.to_owned()) })
        };
        Ok(Self::Bound(patterns.iter().map(parse).collect::<Result<_, _>>()?))
    }

    pub fn is_all(&self) -> bool {
        *self == Self::All
    }

    pub fn covers(&self, entity: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Bound(patterns) => patterns.iter().any(|pattern| match pattern {
                Pattern::Exact(name) => entity == name.as_bytes(),
                Pattern::Prefix(beginning) => entity.starts_with(beginning.as_bytes()),
            }),
        }
    }

    /// The first entity of a plan that this caller may not act for.
    pub fn find_outside<'p>(&self, plan: &'p Plan) -> Option<&'p [u8]> {
        if self.is_all() {
            return None;
        }
        let view = plan.view();
        let is_tried = |entity: &[u8]| view.steps().any(|step| step.tcc == TccRole::Try && step.entity == entity);
        let free = plan.free_steps();
        let needs_consent = view.numbered_steps().filter(|(number, step)| match free {
            Some(free) => !free.contains(*number),
            None => step.tcc == TccRole::Try || is_tried(step.entity),
        });
        let entities = std::iter::once(view.home).chain(needs_consent.map(|(_, step)| step.entity));
        entities.into_iter().find(|entity| !self.covers(entity))
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Bound(patterns) = self else { return f.write_str("all entities") };
        for (at, pattern) in patterns.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            match pattern {
                Pattern::Exact(name) => write!(f, "{separator}`{}`", name.escape_debug())?,
                Pattern::Prefix(beginning) => write!(f, "{separator}`{}*`", beginning.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use statehouse_abi::consent::mark;
    use statehouse_abi::plan::{Coordination, PlanOutWriter};

    use super::*;

    fn bound(patterns: &[&str]) -> Scope {
        Scope::bound(&patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).expect("good patterns")
    }

    type Step = (&'static [u8], &'static [u8], TccRole);

    /// The entity that lies outside the scope, in a plan with these steps at this home.
    fn outside(scope: &Scope, home: &[u8], steps: &[Step], says_consent: bool) -> Option<String> {
        let mut plans = PlanOutWriter::default();
        // Another plan of the same call comes first, so that a step's number in the block is not its number in the
        // plan.
        plans.step(b"credit", b"somebody", None, TccRole::Confirm);
        plans.plan(Coordination::Saga, b"somebody", b"\xa0");
        for (op, entity, role) in steps {
            plans.step(op, entity, None, *role);
        }
        plans.plan(Coordination::Saga, home, b"\xa0");
        let mut block = plans.finish(Vec::new());
        if says_consent {
            block = mark(&block, |op| op == b"credit").expect("it was just written");
        }
        let plan = Plan::all(block).expect("a good block").remove(1).expect("a plan");
        scope.find_outside(&plan).map(|entity| String::from_utf8_lossy(entity).into_owned())
    }

    #[test]
    fn patterns_are_names_or_beginnings() {
        let scope = bound(&["shop-1:*", "alice"]);
        for (entity, expected) in [
            ("alice", true),
            ("alice2", false),
            ("shop-1:", true),
            ("shop-1:till", true),
            ("shop-1", false),
            ("", false),
        ] {
            assert_eq!(scope.covers(entity.as_bytes()), expected, "{entity}");
        }
        assert!(Scope::All.covers(b"whoever"));
        assert_eq!(scope.to_string(), "`shop-1:*`, `alice`");
        let wrong = |patterns: &[&str]| {
            Scope::bound(&patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).expect_err("no patterns")
        };
        assert_eq!(wrong(&[]), ScopeError::Empty);
        assert_eq!(wrong(&["a", "*"]), ScopeError::Everything);
        let long = "x".repeat(ENTITY_BYTES_MAX + 1);
        for text in ["", "a*b", "**", "a**", &long] {
            assert_eq!(wrong(&[text]), ScopeError::Pattern(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_a_plan_takes_from_must_lie_inside() {
        let (debit, credit): (&[u8], &[u8]) = (b"debit", b"credit");
        let scope = bound(&["alice"]);
        let check = |home: &[u8], steps: &[Step], says_consent, expected: Option<&str>| {
            assert_eq!(outside(&scope, home, steps, says_consent).as_deref(), expected, "{steps:?}");
            assert_eq!(outside(&Scope::All, home, steps, says_consent), None);
        };
        let (confirm, try_) = (TccRole::Confirm, TccRole::Try);
        for says in [false, true] {
            check(b"alice", &[(debit, b"alice", try_), (credit, b"bob", confirm)], says, None);
            check(b"bob", &[(debit, b"bob", try_), (credit, b"alice", confirm)], says, Some("bob"));
            check(b"alice", &[(debit, b"bob", try_), (credit, b"alice", confirm)], says, Some("bob"));
            check(b"alice", &[(debit, b"alice", try_), (debit, b"alice", confirm)], says, None);
            // The home must lie inside the scope even if the plan only gives to it.
            check(b"bob", &[(credit, b"bob", confirm)], says, Some("bob"));
        }
        // A module that says which steps only give is believed; for one that does not, Try-Confirm/Cancel decides.
        check(b"alice", &[(debit, b"alice", try_), (credit, b"bob", try_)], true, None);
        check(b"alice", &[(debit, b"alice", try_), (credit, b"bob", try_)], false, Some("bob"));
        check(b"alice", &[(debit, b"alice", try_), (debit, b"bob", confirm)], true, Some("bob"));
        check(b"alice", &[(debit, b"bob", try_), (credit, b"bob", confirm)], false, Some("bob"));
    }
}
