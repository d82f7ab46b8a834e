//! Errors as gRPC statuses and back; the text is kept.
//!
//! | status | what it says |
//! |---|---|
//! | `NOT_FOUND` | the group is not there |
//! | `INVALID_ARGUMENT` | the question cannot be read |
//! | `INTERNAL` | the service failed |
//! | `FAILED_PRECONDITION` | the handshake was refused, or the node may not ask this |
//! | `DEADLINE_EXCEEDED`, `CANCELLED` | no answer in time; the second is what tonic's own timer says |
//! | any other | the connection failed |

use std::error::Error;

use tonic::{Code, Status};

use crate::consensus::PeerError;
use crate::ids::NodeId;
use crate::limits;
use crate::peer::ServiceError;

pub(super) fn of_service(error: ServiceError) -> Status {
    let code = match error {
        ServiceError::NoGroup(_) => Code::NotFound,
        ServiceError::Malformed(_) => Code::InvalidArgument,
        ServiceError::Refused(_) => Code::FailedPrecondition,
        ServiceError::Failed(_) => Code::Internal,
    };
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(limits::PEER_DETAIL_BYTES_MAX));
    Status::new(code, text)
}

pub(super) fn of_peer(node: NodeId, status: &Status) -> PeerError {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => PeerError::Timeout(node),
        Code::FailedPrecondition => PeerError::Refused { node, detail: status.message().to_owned() },
        _ => PeerError::Failed { node, detail: with_causes(status) },
    }
}

/// If a connection failed, the status says little, and its innermost cause says what happened.
fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let what = error.to_string();
        if !text.contains(&what) {
            text = format!("{text}: {what}");
        }
        cause = error.source();
    }
    text
}
