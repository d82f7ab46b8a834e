//! What a participant does about a cancel, which may overtake the call that it cancels; that call may never come.
//!
//! In: what the participant knows about the cancelled call. Out: what it does. Pure, like the rest of this folder.
//! Other calls need no decision, because the id of a call tells whether it was carried out. It does not know who
//! coordinates.

/// What a participant knows about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKnowledge {
    /// The call never came, or it is still on its way.
    Nothing,
    /// The call is being carried out, and its outcome is not known yet.
    UnderWay,
    Done,
    /// The call was refused, or an earlier cancel forbade it.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCancel {
    /// The call was carried out, so the undo is carried out like any other call.
    Undo,
    /// There is nothing to undo, and never will be.
    NothingDone,
    /// The answer is not known yet; the coordinator asks again.
    AskAgain,
    /// The call is recorded as refused, so that it is refused if it comes later: the tombstone.
    Forbid,
}

pub fn on_cancel(tried: CallKnowledge) -> OnCancel {
    match tried {
        CallKnowledge::Nothing => OnCancel::Forbid,
        CallKnowledge::UnderWay => OnCancel::AskAgain,
        CallKnowledge::Done => OnCancel::Undo,
        CallKnowledge::Refused => OnCancel::NothingDone,
    }
}
