//! Bugs that tests plant to prove that they find them. A program without the feature `failpoints` has none.
//!
//! The environment variable `STATEHOUSE_PLANT` goes in, with a name from this file. Whether the host must be wrong in
//! that way comes out. `make chaos` plants each bug in turn, and fails if the simulated suites do not notice it within
//! the seeds that `.ci/plants` allows.

/// A deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Entries and votes are reported durable although they are not.
    LogUnsynced,
    /// A frame is accepted whatever its checksum is.
    ChecksumIgnored,
    /// A command whose id is already recorded is executed again.
    IdsForgotten,
    /// A call does not check whose command has the id.
    ClaimsIgnored,
    /// A node that comes back does not ask what it held.
    SeenNotAsked,
    /// A node that comes back believes a peer that was already away when the node went down.
    AwayBelieved,
    /// A linearizable read does not check who leads.
    BarrierSkipped,
}

impl Bug {
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::LogUnsynced, "log_unsynced"),
        (Self::ChecksumIgnored, "checksum_ignored"),
        (Self::IdsForgotten, "ids_forgotten"),
        (Self::ClaimsIgnored, "claims_ignored"),
        (Self::SeenNotAsked, "seen_not_asked"),
        (Self::AwayBelieved, "away_believed"),
        (Self::BarrierSkipped, "barrier_skipped"),
    ];
}

/// Whether this bug is planted.
#[cfg(feature = "failpoints")]
pub fn is_planted(bug: Bug) -> bool {
    use std::sync::LazyLock;

    static PLANTED: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var("STATEHOUSE_PLANT").ok()?;
        let known = Bug::ALL.into_iter().find(|(_, known)| *known == name);
        Some(known.unwrap_or_else(|| panic!("STATEHOUSE_PLANT: there is no bug {name:?}")).0)
    });
    *PLANTED == Some(bug)
}

#[cfg(not(feature = "failpoints"))]
pub const fn is_planted(_: Bug) -> bool {
    false
}
