//! What an operator is told when an order has no effect.
//!
//! In: why the router did not have the order recorded. Out: a problem that says what to do instead. It knows nothing of
//! what orders do.

use std::time::Duration;

use statehouse_abi::value::Value;

use super::{Code, Problem};
use crate::router::OrderError;

impl From<OrderError> for Problem {
    fn from(error: OrderError) -> Self {
        let code = match error {
            OrderError::Unavailable(unavailable) => return unavailable.into(),
            OrderError::NotInFlight => Code::NotInFlight,
            OrderError::SeveralHomes => Code::SeveralHomes,
            OrderError::ParticipantUnavailable(_) => Code::ParticipantUnavailable,
            OrderError::Refused(_) => Code::OrderRefused,
            OrderError::Unknown => Code::ChangeUnfinished,
        };
        let problem = Self::new(code, error.to_string());
        match error {
            OrderError::Refused(why) => problem.with("reason", Value::Text(why.code)),
            OrderError::Unknown => problem.with_retry_after(Duration::from_secs(1)),
            _ => problem,
        }
    }
}
