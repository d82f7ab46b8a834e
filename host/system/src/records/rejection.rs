//! Why `system` rejects a command: each reason has a code, a status, and a text that says what to do.
//!
//! In: what the rules in `logic` and the files of rows find; and for a code, a recorded rejection. Out: the rejection
//! as it is recorded, and its code as a type, by which a sender decides what follows. This file decides nothing.

use statehouse_guest::Rejections;

/// Declares each rejection once, and with it its code.
macro_rules! rejections {
    ($($(#[$attribute:meta])* $variant:ident $({ $($field:ident: $type:ty),* })?,)*) => {
        #[derive(Rejections)]
        pub enum Rejection {
            $($(#[$attribute])* $variant $({ $($field: $type),* })?,)*
        }

        /// The code of a rejection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum RejectionCode {
            $($variant,)*
        }

        impl RejectionCode {
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }
    };
}

rejections! {
    /// The machine exists
    #[rejection(status = 409, detail = "a machine of this name exists")]
    MachineExists,
    /// The cluster is founded
    #[rejection(status = 409, detail = "the cluster has its first nodes already")]
    Founded,
    /// The id was given before
    #[rejection(status = 409, detail = "a node of this id is or was in the cluster; ids are never given twice")]
    NodeIdUsed,
    /// No such node
    #[rejection(status = 404, detail = "no node of this id is in the cluster")]
    UnknownNode,
    /// The last node
    #[rejection(status = 409, detail = "the last node cannot be removed")]
    LastNode,
    /// No such machine
    #[rejection(status = 404, detail = "there is no machine {machine}")]
    UnknownMachine { machine: String },
    /// Not staged
    #[rejection(
        status = 404,
        detail = "the module {module} was not staged: send its bytes first, with `statehouse module stage`"
    )]
    NotStaged { module: String },
    /// It is active
    #[rejection(status = 409, detail = "the module is active already")]
    AlreadyActive,
    /// Another one became active
    #[rejection(
        status = 409,
        detail = "another module became active meanwhile: look at `statehouse module log`, and ask again"
    )]
    OtherActive,
    /// It was never active
    #[rejection(status = 409, detail = "the module was never active, so there is nothing to go back to: activate it")]
    NeverActive,
    /// A node has not prepared it
    #[rejection(
        status = 409,
        detail = "the module is not prepared on {nodes}: run `statehouse module prepare`, and look at what it says \
                  there"
    )]
    NotPrepared { nodes: String },
    /// No proof
    #[rejection(
        status = 409,
        detail = "there is no certificate: make one with `statehouse audit replay --certificate`, or say \
                  `--without-proof`"
    )]
    NotProved,
    /// A rollback is under way
    #[rejection(
        status = 409,
        detail = "a rollback waits until what is under way between partitions is over: look at `statehouse module \
                  log`, and ask again"
    )]
    Draining,
    /// It is not shadowed
    #[rejection(status = 409, detail = "no node shadows this module: look at `statehouse module log`")]
    NotShadowed,
    /// Something else has happened since
    #[rejection(status = 409, detail = "this is not so any more, or is recorded already")]
    OutOfDate,
    /// Another node has the key
    #[rejection(
        status = 409,
        detail = "the key is that of node {node}: a data folder was copied; remove `node.key` from the copy, and \
                  start it again"
    )]
    KeyOfOther { node: u64 },
    /// No such view
    #[rejection(
        status = 404,
        detail = "there is no view {view} of this machine: `statehouse view list` shows which there are"
    )]
    UnknownView { view: String },
    /// The view exists
    #[rejection(
        status = 409,
        detail = "the view {view} is made by this very module already: rebuild it, if that is what you want"
    )]
    ViewExists { view: String },
    /// Too many views
    #[rejection(status = 409, detail = "the machine has as many views as it can have: drop one first")]
    TooManyViews,
    /// Too many keys
    #[rejection(status = 409, detail = "the node has had too many keys: remove it, and add it again under a new id")]
    TooManyKeys,
    /// No such webhook
    #[rejection(
        status = 404,
        detail = "there is no webhook {webhook} of this machine: `statehouse webhook list` shows which there are"
    )]
    UnknownWebhook { webhook: String },
    /// The webhook exists
    #[rejection(status = 409, detail = "there is a webhook {webhook} already: drop it first, or choose another name")]
    WebhookExists { webhook: String },
    /// Too many webhooks
    #[rejection(status = 409, detail = "the machine has as many webhooks as it can have: drop one first")]
    TooManyWebhooks,
    /// The webhook does not follow this partition
    #[rejection(status = 409, detail = "the webhook does not follow partition {partition}: leave its position out")]
    NotFollowed { partition: u32 },
    /// No such dead letter
    #[rejection(
        status = 404,
        detail = "this is no dead letter of the webhook, or it was sent meanwhile: `statehouse webhook dead-letters` \
                  lists them"
    )]
    UnknownLetter,
    /// Too many dead letters
    #[rejection(status = 409, detail = "the webhook has as many dead letters as it may have")]
    DeadLettersFull,
    /// The node does not understand what is written
    #[rejection(
        status = 409,
        detail = "the cluster has reached feature level {level}, and node {node} understands no level above \
                  {supported}: start it with the version of Statehouse that the other nodes run, without a lower \
                  `feature_level_max`, and add it again"
    )]
    LevelNotSupported { node: u64, level: u32, supported: u32 },
}

impl RejectionCode {
    /// The code with this text, in which a rejection is recorded. `None` for the codes by which the host rejects a
    /// command itself, and for those of later releases.
    pub fn find(text: &str) -> Option<Self> {
        let at = Rejection::declare().iter().position(|declared| declared.code == text)?;
        Some(Self::ALL[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_code_is_found_again() {
        let found = |rejection: &Rejection| RejectionCode::find(rejection.code());
        assert_eq!(found(&Rejection::MachineExists), Some(RejectionCode::MachineExists));
        assert_eq!(found(&Rejection::OutOfDate), Some(RejectionCode::OutOfDate));
        assert_eq!(found(&Rejection::UnknownView { view: "a".to_owned() }), Some(RejectionCode::UnknownView));
        let last = Rejection::LevelNotSupported { node: 4, level: 9, supported: 8 };
        assert_eq!(found(&last), Some(RejectionCode::LevelNotSupported));
        let all: Vec<_> = Rejection::declare().iter().map(|declared| RejectionCode::find(&declared.code)).collect();
        assert!(all.iter().copied().eq(RejectionCode::ALL.iter().map(|code| Some(*code))));
        assert_eq!(RejectionCode::find("module_trap"), None, "by this the host rejects");
    }
}
