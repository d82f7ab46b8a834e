//! What a participant does with a cancel, which may come before what it cancels, or without that ever coming.
//!
//! In: what it knows of the call that is cancelled. Out: what it does. Pure, like the rest of this folder; all other calls need no decision,
//! for the id of a call says whether it was carried out.

/// What a participant knows of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It never came, or it is still on its way.
    Nothing,
    /// It is being carried out, with an outcome that is not known yet.
    UnderWay,
    Done,
    /// It was refused, or forbidden by an earlier cancel.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCancel {
    /// It was done, so the undo is carried out like any other call.
    Undo,
    /// There is nothing to undo, and never will be.
    NothingDone,
    /// It cannot be said yet: the coordinator asks again.
    AskAgain,
    /// The call is recorded as refused, so that it will find itself refused if it comes late: the tombstone.
    Forbid,
}

pub fn on_cancel(tried: Known) -> OnCancel {
    match tried {
        Known::Nothing => OnCancel::Forbid,
        Known::UnderWay => OnCancel::AskAgain,
        Known::Done => OnCancel::Undo,
        Known::Refused => OnCancel::NothingDone,
    }
}
