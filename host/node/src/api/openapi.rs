//! OpenAPI 3.1 at `/openapi.json`: the host's routes and what the active modules declare.
//!
//! In: the table of routes and every machine's description. Out: a document, made anew for each request because modules
//! change. It knows nothing of how requests are answered.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response as HttpResponse;
use statehouse_abi::describe::{CommandDecl, Describe, QueryDecl, QuerySource, Schema as Declared};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Ref, RefOr, Required, Response,
    ResponseBuilder, Schema,
};

use super::handle::Api;
use super::pages;
use super::problem::Problem;
use super::route::{HOST_ROUTES, HostRoute, RouteAnswer, RouteBody, RouteParameter};
use super::url::captures;
use crate::limits::{DEADLINE_DEFAULT, DEADLINE_MAX};

mod shapes;

use shapes::{example, problem_schema, schema, text};

const TOKEN: &str = "token";
/// What holds for every route.
const ABOUT: &str = "A POST must have a `Content-Type`, also without a body, or the header `Idempotency-Key` or \
    `Authorization`: no form on a web page can send any of these. A node without tokens answers only requests whose \
    `Host` is a loopback address, `localhost` or one of its configured names, and none whose `Origin` or \
    `Sec-Fetch-Site` names another site.";

/// # Errors
/// 503 while a view is missing that would have routes.
pub fn get(api: &Api) -> Result<HttpResponse, Problem> {
    api.check_views().map_err(pages::not_ready)?;
    let machines = api.router.machines();
    let describes = machines.iter().flat_map(|machine| {
        let views = api.cluster.views(machine.name()).into_iter().map(|view| Arc::new(view.logic().describe().clone()));
        // Where a view has the same route as the module, the module's route stands for both.
        views.chain([machine.describe()]).map(|describe| (machine.name().to_owned(), describe))
    });
    Ok(pages::json(&document(describes)))
}

/// The document for these machines: name and description.
pub fn document<D: AsRef<Describe>>(machines: impl Iterator<Item = (String, D)>) -> OpenApi {
    let mut paths = Paths::new();
    for route in HOST_ROUTES {
        paths.add_path_operation(route.path, vec![http_method(route.method.as_str())], host_operation(route));
    }
    for (machine, describe) in machines {
        let describe = describe.as_ref();
        let full = |path: &str| format!("/v1/{machine}/{}", path.trim_start_matches('/'));
        for command in &describe.commands {
            let operation = command_operation(&machine, describe, command);
            paths.add_path_operation(full(&command.path), vec![http_method(&command.method)], operation);
        }
        for query in &describe.queries {
            paths.add_path_operation(full(&query.path), vec![HttpMethod::Get], query_operation(&machine, query));
        }
    }
    let token =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token of [[auth.tokens]]")).build();
    let components = ComponentsBuilder::new()
        .schema("Problem", problem_schema())
        .response("Problem", problem_response())
        .security_scheme(TOKEN, SecurityScheme::Http(token))
        .build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new().title("Statehouse").version(env!("CARGO_PKG_VERSION")).description(Some(ABOUT)).build(),
        )
        .paths(paths)
        .components(Some(components))
        .build()
}

fn http_method(method: &str) -> HttpMethod {
    match method {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn host_operation(route: &HostRoute) -> Operation {
    let mut operation = OperationBuilder::new()
        .tag("host")
        .summary(Some(route.summary))
        .operation_id(Some(route.name))
        .response(route.answer.status.as_str(), success_of(&route.answer))
        .response("default", Ref::from_response_name("Problem"))
        .request_body(host_body(&route.body));
    for name in captures(route.path.trim_start_matches('/')) {
        operation = operation.parameter(parameter(name, ParameterIn::Path, text(), Required::True, ""));
    }
    for declared in route.parameters {
        operation = operation.parameter(match *declared {
            RouteParameter::Query { name, summary } => {
                parameter(name, ParameterIn::Query, text(), Required::False, summary)
            }
            RouteParameter::RequiredQuery { name, summary } => {
                parameter(name, ParameterIn::Query, text(), Required::True, summary)
            }
            RouteParameter::Header { name, summary } => {
                parameter(name, ParameterIn::Header, text(), Required::False, summary)
            }
            RouteParameter::Deadline => deadline_header(route.deadline),
        });
    }
    if route.roles().is_some() {
        operation = operation.security(SecurityRequirement::new(TOKEN, Vec::<String>::new()));
    }
    operation.build()
}

fn host_body(body: &RouteBody) -> Option<RequestBody> {
    let required = if body.is_optional() { Required::False } else { Required::True };
    let builder = RequestBodyBuilder::new().required(Some(required));
    let media_types = body.media_types().iter();
    let builder = match body {
        RouteBody::Nothing => return None,
        RouteBody::Json(schema) | RouteBody::JsonOrNothing(schema) => {
            media_types.fold(builder, |body, media_type| body.content(*media_type, content(&schema())))
        }
        RouteBody::Wasm => {
            media_types.fold(builder, |body, media_type| body.content(*media_type, ContentBuilder::new().build()))
        }
        RouteBody::Batch => {
            let line = "One `{\"command\": name, \"body\": object}` per line, or a CBOR sequence of such objects";
            media_types
                .fold(builder.description(Some(line)), |body, media_type| body.content(*media_type, any_content()))
        }
    };
    Some(builder.build())
}

fn success_of(answer: &RouteAnswer) -> ResponseBuilder {
    let response = ResponseBuilder::new().description(answer.summary);
    let media_types = answer.media_types.iter();
    let response = media_types.fold(response, |response, media_type| response.content(*media_type, any_content()));
    answer.headers.iter().fold(response, |response, (name, summary)| response.header(*name, header(summary)))
}

/// What the host says of every command's id.
const ID_REUSED: &str = "`id_reused`: the id belongs to another command, and `fields` names what differs. If two \
    commands with one id share an account or a partition, at most one of them is carried out, and what the other has \
    begun is undone. If they share neither, both may be carried out, each exactly once. Use a new id for each \
    command";

fn command_operation(machine: &str, describe: &Describe, command: &CommandDecl) -> Operation {
    let in_path: Vec<&str> = captures(&command.path).collect();
    let success = ResponseBuilder::new()
        .description("Done: its events are committed")
        .header("Statehouse-Position", header("Where the events stand in the journal"))
        .header("Idempotent-Replayed", header("`true` when an earlier request with this id had this outcome"))
        .header("X-Request-Id", header("The id of this request, recorded with the command"))
        .content("application/json", content(&command.response));
    let mut operation = OperationBuilder::new()
        .tag(machine)
        .summary(Some(&command.summary))
        .operation_id(Some(format!("{machine}.{}", command.name)))
        .parameters(Some(path_parameters(&command.body, &in_path)))
        .parameter(deadline_header(DEADLINE_DEFAULT))
        .parameter(parameter(
            "Prefer",
            ParameterIn::Header,
            text(),
            Required::False,
            "`respond-async`: answer 202 with `Location` once it is known that the command is not refused at \
                 once",
        ))
        .response(command.success.to_string(), success)
        .response("202", accepted())
        .response("default", Ref::from_response_name("Problem"))
        .security(SecurityRequirement::new(TOKEN, Vec::<String>::new()));
    if command.id_field.is_none() {
        let key = "The command's id, a UUID. Without it the host makes one, so that a retry is another command";
        operation =
            operation.parameter(parameter("Idempotency-Key", ParameterIn::Header, text(), Required::False, key));
    }
    let body = without(&command.body, &in_path);
    if has_fields(&body) {
        let body = RequestBodyBuilder::new().required(Some(Required::True)).content("application/json", content(&body));
        operation = operation.request_body(Some(body.build()));
    }
    let mut statuses: Vec<u16> = describe.rejections.iter().map(|rejection| rejection.status).collect();
    statuses.push(422);
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let of_status = describe.rejections.iter().filter(|rejection| rejection.status == status);
        let mut listed: Vec<_> =
            of_status.map(|rejection| format!("`{}`: {}", rejection.code, rejection.title)).collect();
        if status == 422 {
            listed.push(ID_REUSED.to_owned());
        }
        let response = ResponseBuilder::new()
            .description(listed.join(" · "))
            .content("application/problem+json", ContentBuilder::new().schema(Some(problem_ref())).build());
        operation = operation.response(status.to_string(), response);
    }
    operation.build()
}

fn accepted() -> ResponseBuilder {
    let location = "Where to ask what became of the command, with all parameters that make the answer definite; ask \
        again after `Retry-After`";
    ResponseBuilder::new()
        .description(
            "With `Prefer: respond-async`: the command is being carried out. A command that the module refuses to \
             plan, and an id that was used for another command, are refused at once",
        )
        .header("Location", header(location))
}

fn query_operation(machine: &str, query: &QueryDecl) -> Operation {
    let in_path: Vec<&str> = captures(&query.path).collect();
    let answer = ResponseBuilder::new()
        .description("The result of the query")
        .header("Statehouse-Position", header("The position of the partition when it was read"))
        .content("application/json", content(&query.response));
    let mut operation = OperationBuilder::new()
        .tag(machine)
        .summary(Some(&query.summary))
        .operation_id(Some(format!("{machine}.{}", query.name)))
        .parameters(Some(path_parameters(&query.params, &in_path)))
        .parameter(deadline_header(DEADLINE_DEFAULT))
        .response("200", answer)
        .response("default", Ref::from_response_name("Problem"))
        .security(SecurityRequirement::new(TOKEN, Vec::<String>::new()));
    if let Declared::Object { fields } = &query.params {
        for field in fields.iter().filter(|field| !in_path.contains(&field.name.as_str())) {
            let required = if field.required { Required::True } else { Required::False };
            let field = parameter(&field.name, ParameterIn::Query, schema(&field.schema), required, &field.summary);
            operation = operation.parameter(field);
        }
    }
    let freshness = [
        ("consistency", "`linearizable` (default), or `stale`: from this node alone, without asking the leader"),
        ("at_least", "A position: wait until this node has reached it"),
    ];
    let own: &[(&str, &str)] = match query.source {
        QuerySource::Rows => &[(
            "at",
            "A moment of the past: an RFC 3339 time, or a position, which includes its own command and all \
                 before it",
        )],
        QuerySource::History => &[("cursor", "Continue after this position"), ("limit", "At most this many items")],
        QuerySource::Command => &[(
            "home",
            "The home entity of the command (for a transfer: the payer). It is needed if several commands have the \
             id, or if another caller sent the command that has it. Without it the answer is then 409 \
             `id_ambiguous`, and `homes` lists those that the caller may see; otherwise `Content-Location` names the \
             home of the command that is shown",
        )],
    };
    for (name, description) in freshness.iter().chain(own) {
        operation = operation.parameter(parameter(name, ParameterIn::Query, text(), Required::False, description));
    }
    operation.build()
}

fn path_parameters(declared: &Declared, in_path: &[&str]) -> Vec<Parameter> {
    let Declared::Object { fields } = declared else { return Vec::new() };
    let given = fields.iter().filter(|field| in_path.contains(&field.name.as_str()));
    given
        .map(|field| parameter(&field.name, ParameterIn::Path, schema(&field.schema), Required::True, &field.summary))
        .collect()
}

fn parameter(
    name: &str,
    place: ParameterIn,
    schema: RefOr<Schema>,
    required: Required,
    description: &str,
) -> Parameter {
    let description = Some(description).filter(|description| !description.is_empty());
    let builder = ParameterBuilder::new().name(name).parameter_in(place).required(required);
    builder.description(description).schema(Some(schema)).build()
}

fn deadline_header(default: Duration) -> Parameter {
    let (max, default) = (DEADLINE_MAX.as_millis(), default.as_millis());
    let description = format!("Milliseconds to wait, at most {max}; default {default}");
    parameter("Statehouse-Deadline", ParameterIn::Header, text(), Required::False, &description)
}

fn header(description: &str) -> utoipa::openapi::Header {
    HeaderBuilder::new().schema(Some(text())).description(Some(description)).build()
}

fn content(declared: &Declared) -> utoipa::openapi::Content {
    ContentBuilder::new().schema(Some(schema(declared))).example(example(declared)).build()
}

fn any_content() -> utoipa::openapi::Content {
    ContentBuilder::new().schema(Some(schema(&Declared::Any))).build()
}

fn problem_ref() -> RefOr<Schema> {
    Ref::from_schema_name("Problem").into()
}

fn problem_response() -> Response {
    let content = ContentBuilder::new().schema(Some(problem_ref())).build();
    let retry_after = header("The number of seconds after which to send the request again, if that can help");
    ResponseBuilder::new()
        .description(
            "4xx: definitely refused · 429, 503, 507: certainly not accepted · 504: outcome unknown, with `resolve`",
        )
        .header("Retry-After", retry_after)
        .content("application/problem+json", content)
        .build()
}

/// The schema without the fields that the path gives.
fn without(declared: &Declared, in_path: &[&str]) -> Declared {
    let Declared::Object { fields } = declared else { return declared.clone() };
    let fields = fields.iter().filter(|field| !in_path.contains(&field.name.as_str())).cloned().collect();
    Declared::Object { fields }
}

fn has_fields(declared: &Declared) -> bool {
    if let Declared::Object { fields } = declared { !fields.is_empty() } else { true }
}
