//! Parses what is asked of a replay: the same texts on the command line and in the body of a request.
//!
//! In: texts. Out: filters, approvals and moments, or what is wrong with a text and which texts are valid. The format
//! of times is passed in; this file does not know it.

use std::collections::BTreeMap;

use crate::audit::replay::class::Class;
use crate::audit::replay::error::ReplayFault;
use crate::audit::replay::history::{History, time_of};
use crate::audit::replay::request::{ReplayFilter, ReplayMode};
use crate::ids::{CommandId, Micros, Position};
use crate::machine::journal::Moment;

/// Reads a time as clients write it.
pub type ParseTime = fn(&str) -> Option<Micros>;

/// A text that is invalid, and the valid ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    #[error("`{0}` is not CLASS=COUNT; the classes are {names}", names = class_names())]
    Approval(String),
    #[error("`{0}` cannot be approved")]
    NotApprovable(Class),
    #[error("`{0}` is not KEY=VALUE; the keys are {keys}", keys = ReplayFilter::KEYS)]
    Filter(String),
    #[error("`{0}` is not a key of a filter; the keys are {keys}", keys = ReplayFilter::KEYS)]
    FilterKey(String),
    #[error("`{0}` is no id of a command")]
    Id(String),
    #[error("`{0}` is no time, like 2026-11-21T10:00:00Z")]
    Time(String),
    #[error("`{0}` is neither a position (0.42.0~1a2b3c4d) nor a time (2026-11-21T10:00:00Z)")]
    Moment(String),
    #[error("`{0}` is no mode; it is `isolated` or `cumulative`")]
    Mode(String),
}

fn class_names() -> String {
    Class::ALL.into_iter().map(Class::name).collect::<Vec<_>>().join(", ")
}

pub fn parse_mode(word: &str) -> Result<ReplayMode, WordError> {
    match word {
        "isolated" => Ok(ReplayMode::Isolated),
        "cumulative" => Ok(ReplayMode::Cumulative),
        _ => Err(WordError::Mode(word.to_owned())),
    }
}

/// Each `CLASS=COUNT`.
pub fn parse_approved(words: &[String]) -> Result<BTreeMap<Class, u64>, WordError> {
    let mut approved = BTreeMap::new();
    for word in words {
        let parsed = word.split_once('=').and_then(|(class, count)| Some((Class::find(class)?, count.parse().ok()?)));
        let (class, count) = parsed.ok_or_else(|| WordError::Approval(word.clone()))?;
        if class == Class::Same || class == Class::HostDrift {
            return Err(WordError::NotApprovable(class));
        }
        approved.insert(class, count);
    }
    Ok(approved)
}

/// Each `KEY=VALUE`; all must hold.
pub fn parse_filter(words: &[String], time: ParseTime) -> Result<ReplayFilter, WordError> {
    let mut filter = ReplayFilter::default();
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| WordError::Filter(word.clone()))?;
        let moment = || time(value).ok_or_else(|| WordError::Time(value.to_owned()));
        match key {
            "account" | "entity" => filter.entity = Some(value.to_owned()),
            "id" => {
                let id: CommandId = value.parse().map_err(|_| WordError::Id(value.to_owned()))?;
                filter.id = Some(id);
            }
            "code" => filter.code = Some(value.to_owned()),
            "command" => filter.command = Some(value.to_owned()),
            "after" => filter.after = Some(moment()?),
            "before" => filter.before = Some(moment()?),
            _ => return Err(WordError::FilterKey(key.to_owned())),
        }
    }
    Ok(filter)
}

/// A position or a time.
pub fn parse_moment(word: &str, time: ParseTime) -> Result<Moment, WordError> {
    if let Ok(position) = word.parse::<Position>() {
        return Ok(Moment::Position(position));
    }
    time(word).map(Moment::Time).ok_or_else(|| WordError::Moment(word.to_owned()))
}

/// All entries up to a time are a consistent cut, so a position stands for the time of its entry.
pub fn place(history: &dyn History, moment: Moment) -> Result<Micros, ReplayFault> {
    match moment {
        Moment::Time(time) => Ok(time),
        Moment::Position(position) => Ok(time_of(history, position)?),
    }
}
