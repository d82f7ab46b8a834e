//! Whether one module can follow another, as far as their descriptions alone can tell, before anything is run.
//!
//! In: two descriptions. Out: every reason against it, each with what to do. It does not know whether both *decide*
//! alike: a replay shows that. A mere difference, such as a new route, is not a reason.

use statehouse_abi::describe::Describe;

/// Why a module cannot follow its predecessor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatibility {
    #[error(
        "it is a module of the machine {candidate}, and its predecessor one of {predecessor}: stage it for {candidate}"
    )]
    OtherMachine { predecessor: String, candidate: String },
    /// The id of a command decides whether the command was carried out before.
    #[error(
        "command {command} takes its id from {}, and took it from {}: a command that is sent again would not be \
         recognised; keep the id's field, or give the command another name",
        id_source(.candidate), id_source(.predecessor)
    )]
    IdField { command: String, predecessor: Option<String>, candidate: Option<String> },
    /// Ops in flight, recorded events and rows have this schema.
    #[error(
        "it neither has schema {schema} nor accepts it, and its predecessor {} it: {}",
        if *.is_own { "writes" } else { "still reads" },
        if .schema < .candidate {
            "keep reading what is recorded, and add the schema to ACCEPTS"
        } else {
            "it is older, and cannot read what its successor wrote"
        }
    )]
    Schema {
        schema: u32,
        candidate: u32,
        /// Whether it is the predecessor's own schema.
        is_own: bool,
    },
    /// Events are kept for ever.
    #[error("it does not know the event {event}, which may be recorded: keep the event, and stop emitting it")]
    EventGone { event: String },
}

fn id_source(field: &Option<String>) -> String {
    field.as_ref().map_or_else(|| "the header Idempotency-Key".to_owned(), |field| format!("the field {field}"))
}

/// The reasons why `candidate` cannot take over from `predecessor`; empty if there are none.
pub fn check_successor(predecessor: &Describe, candidate: &Describe) -> Vec<Incompatibility> {
    let mut found = Vec::new();
    if predecessor.name != candidate.name {
        let (predecessor, candidate) = (predecessor.name.clone(), candidate.name.clone());
        found.push(Incompatibility::OtherMachine { predecessor, candidate });
    }
    let reads = |schema: u32| candidate.schema == schema || candidate.accepts.contains(&schema);
    let schemas = [predecessor.schema].into_iter().chain(predecessor.accepts.iter().copied());
    found.extend(schemas.filter(|schema| !reads(*schema)).map(|schema| Incompatibility::Schema {
        schema,
        candidate: candidate.schema,
        is_own: schema == predecessor.schema,
    }));
    for before in &predecessor.commands {
        let after = candidate.commands.iter().find(|after| after.name == before.name);
        if let Some(after) = after.filter(|after| after.id_field != before.id_field) {
            found.push(Incompatibility::IdField {
                command: before.name.clone(),
                predecessor: before.id_field.clone(),
                candidate: after.id_field.clone(),
            });
        }
    }
    let gone =
        predecessor.events.iter().filter(|before| candidate.events.iter().all(|after| after.name != before.name));
    found.extend(gone.map(|event| Incompatibility::EventGone { event: event.name.clone() }));
    found
}

#[cfg(test)]
mod tests {
    use statehouse_abi::describe::{CommandDecl, EventDecl, Schema};

    use super::*;

    fn describe(schema: u32, accepts: &[u32], id_field: Option<&str>, events: &[&str]) -> Describe {
        let pay = CommandDecl {
            name: "pay".to_owned(),
            method: "POST".to_owned(),
            path: "pay".to_owned(),
            body: Schema::Object { fields: Vec::new() },
            id_field: id_field.map(str::to_owned),
            success: 200,
            response: Schema::Any,
            summary: String::new(),
        };
        let event = |name: &&str| EventDecl { name: (*name).to_owned(), summary: String::new() };
        Describe {
            name: "shop".to_owned(),
            version: "1.0.0".to_owned(),
            schema,
            accepts: accepts.to_vec(),
            commands: vec![pay],
            queries: Vec::new(),
            rejections: Vec::new(),
            events: events.iter().map(event).collect(),
            invariants: Vec::new(),
        }
    }

    /// Checks the reasons against the second one, one line each.
    fn check(predecessor: &Describe, candidate: &Describe, expected: &[&str]) {
        let found: Vec<String> = check_successor(predecessor, candidate).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_reads_all_that_is_recorded_may_follow() {
        let first = describe(1, &[], Some("id"), &["Paid"]);
        check(&first, &first, &[]);
        check(&first, &describe(2, &[1], Some("id"), &["Paid", "Refunded"]), &[]);
        check(&describe(2, &[1], Some("id"), &["Paid"]), &describe(3, &[1, 2], Some("id"), &["Paid"]), &[]);
    }

    #[test]
    fn ids_schemas_and_events_must_stay() {
        let first = describe(2, &[1], Some("id"), &["Paid"]);
        check(
            &first,
            &describe(3, &[], None, &[]),
            &[
                "it neither has schema 2 nor accepts it, and its predecessor writes it: keep reading what is recorded, \
                 and add the schema to ACCEPTS",
                "it neither has schema 1 nor accepts it, and its predecessor still reads it: keep reading what is \
                 recorded, and add the schema to ACCEPTS",
                "command pay takes its id from the header Idempotency-Key, and took it from the field id: a command \
                 that is sent again would not be recognised; keep the id's field, or give the command another name",
                "it does not know the event Paid, which may be recorded: keep the event, and stop emitting it",
            ],
        );
        check(
            &first,
            &describe(1, &[], Some("id"), &["Paid"]),
            &["it neither has schema 2 nor accepts it, and its predecessor writes it: it is older, and cannot read \
                 what its successor wrote"],
        );
    }

    #[test]
    fn a_machine_keeps_its_name() {
        let other = Describe { name: "bank".to_owned(), ..describe(1, &[], None, &[]) };
        check(
            &describe(1, &[], None, &[]),
            &other,
            &["it is a module of the machine bank, and its predecessor one of shop: stage it for bank"],
        );
    }
}
