//! Submission of commands to the machine `system`.
//!
//! In: a command, who sends it, and a deadline. Out: whether it was recorded, or why not. Which command is sent, and
//! what follows from a rejection, is for the caller to decide.

use std::sync::Arc;

use statehouse_abi::role;
use tokio::time::Instant;

use crate::ids::CommandId;
use crate::records::command::SystemCommand;
use crate::records::rejection::RejectionCode;
use crate::router::Machine;
use crate::router::answer::{Answer, Caller, CommandRequest};
use crate::system::cluster_error::ClusterError;

/// Who asks for a step, and the deadline.
#[derive(Clone, Debug)]
pub struct Wanting {
    pub caller: Arc<Caller>,
    pub request_id: Arc<str>,
    pub deadline: Instant,
}

/// Submits a command in the node's own name.
pub async fn submit(system: &Machine, command: &SystemCommand, deadline: Instant) -> Result<(), ClusterError> {
    let caller = Arc::new(Caller::unbound("node", role::ALL));
    submit_by(system, command, &Wanting { caller, request_id: "steward".into(), deadline }).await
}

/// Submits a command for a caller whose name is recorded.
pub async fn submit_by(system: &Machine, command: &SystemCommand, wanting: &Wanting) -> Result<(), ClusterError> {
    let (name, body) = command.to_body();
    let request = CommandRequest {
        command: name.into(),
        body: body.to_cbor().expect("the body has no integer over 64 bits"),
        id: CommandId(uuid::Uuid::now_v7().into_bytes()),
        caller: wanting.caller.clone(),
        request_id: wanting.request_id.clone(),
        deadline: wanting.deadline,
    };
    match system.submit(vec![request]).await.pop() {
        Some(Answer::Done(_)) => Ok(()),
        Some(Answer::Rejected(_, rejection)) => {
            let code = RejectionCode::find(&rejection.code);
            Err(ClusterError::Rejected { code, detail: rejection.detail })
        }
        Some(Answer::Refused(refusal)) => Err(ClusterError::Invalid(refusal.detail)),
        _ => Err(ClusterError::Deadline),
    }
}
