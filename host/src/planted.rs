//! Bugs that tests plant to prove that they find them; there are none in a program without the feature `failpoints`.
//!
//! In: `STATEHOUSE_PLANT` in the environment, a name from here. Out: whether the host is to be wrong in that way. `make chaos` plants each in
//! turn, and fails where the simulated suites do not notice within the seeds that `.ci/plants` allows.

/// A way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Entries and votes are called durable that are not.
    LogUnsynced,
    /// A frame is believed whatever its checksum is.
    ChecksumIgnored,
    /// A command with an id that is recorded is carried out once more.
    IdsForgotten,
    /// A call does not ask whose command's id it is.
    ClaimsIgnored,
    /// A node that comes back does not ask what it held.
    SeenNotAsked,
    /// A node that comes back believes a peer that was away when it went.
    AwayBelieved,
    /// A linearizable read does not ask who leads.
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
