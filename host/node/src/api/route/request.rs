//! A request to a route of the host, as its handler gets it: the caller was let in, and the deadline is known.
//!
//! In: a row of the table, and what the request has. Out: its parts by their names, and a JSON body by the shape that
//! the row declares. It knows nothing of what they mean.

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use statehouse_abi::value::Value;

use super::HostRoute;
use crate::api::body::{check_media_type, read_body, read_large_body};
use crate::api::handle::Api;
use crate::api::problem::Problem;
use crate::api::request_context::RequestContext;
use crate::api::share::Share;
use crate::api::url::captures;
use crate::json::{ObjectShape, read_json};
use crate::limits::{BODY_BYTES_MAX, MODULE_BYTES_MAX};
use crate::system::Wanting;

pub struct HostRequest<'r> {
    pub route: &'static HostRoute,
    /// One for each capture of the route's path, in order.
    pub captured: Vec<&'r str>,
    pub context: RequestContext,
    pub parts: &'r Parts,
    pub body: Body,
}

impl<'r> HostRequest<'r> {
    /// The segment that the path of the row names so, still percent-encoded.
    pub fn segment(&self, name: &str) -> &'r str {
        let at = captures(self.route.path).position(|captured| captured == name);
        at.map(|at| self.captured[at]).expect("the path of the row names what its handler asks for")
    }

    /// The text of the machine's segment, whether or not there is such a machine.
    pub fn machine_name(&self) -> &'r str {
        self.segment("machine")
    }

    /// Who asks, for what is done through the cluster.
    pub fn wanting(&self) -> Wanting {
        let RequestContext { request_id, caller, deadline } = self.context.clone();
        Wanting { caller, request_id, deadline }
    }

    /// Takes the bytes of a JSON body.
    ///
    /// # Errors
    /// See [`read_body`].
    pub async fn take_json(&mut self) -> Result<Bytes, Problem> {
        read_body(std::mem::take(&mut self.body), BODY_BYTES_MAX, self.context.deadline).await
    }

    /// Takes the bytes of a module, with the room that they take up.
    ///
    /// # Errors
    /// 415; see [`read_large_body`].
    pub async fn take_wasm(&mut self, api: &Api) -> Result<(Bytes, Share), Problem> {
        self.check_media_type()?;
        let requester = api.requester(&self.context.caller, self.parts);
        let body = std::mem::take(&mut self.body);
        read_large_body(api, body, MODULE_BYTES_MAX, &requester, self.context.deadline).await
    }

    /// # Errors
    /// 415 if the headers name no media type that the row allows.
    pub fn check_media_type(&self) -> Result<(), Problem> {
        check_media_type(&self.parts.headers, self.route.body.media_types()).map(drop)
    }

    /// Reads JSON of the shape that the row declares.
    ///
    /// # Errors
    /// 400 with the place of what is wrong.
    pub fn read(&self, json: &[u8]) -> Result<Value, Problem> {
        let schema = self.route.body.schema().expect("the row of a handler that reads JSON declares its shape");
        let read = read_json(&ObjectShape::new(&schema, None), &[], json)?;
        Ok(Value::from_cbor(&read.cbor).expect("the reader writes deterministic CBOR"))
    }
}
