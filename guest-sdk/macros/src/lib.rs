//! The macros of `statehouse-guest`: what a module's types look like to the API, and the exports of the module.
//!
//! Each only writes impls of the traits that `statehouse-guest` documents; there is no logic of its own in what it
//! writes. Summaries and titles are the doc comments of fields and variants.

mod attributes;
mod body;
mod declare;
mod module;

use proc_macro::TokenStream;
use syn::{DeriveInput, ItemImpl, parse_macro_input};

/// Makes a struct with named fields an object of the API.
///
/// On a field, `#[body(…)]`: `name` `decimal` `currency` `date_time` `uuid` (format of text), `min = 0, max = 9`
/// (of an integer), `min_chars = 1, max_chars = 64` (of text), `max_items = 8` (of a list), `rename = "Status"`.
/// An `Option` is a field that may be absent.
#[proc_macro_derive(Body, attributes(body))]
pub fn body(input: TokenStream) -> TokenStream {
    expand(body::derive(parse_macro_input!(input as DeriveInput)))
}

/// Makes an enum, with one [`Body`](macro@Body) in each variant, the set of a module's commands.
///
/// On a variant, `#[command(path = "…")]` and optionally `method = "POST"`, `name = "…"` (the variant in snake case),
/// `id = "field"`, `success = 200`, `response = Type` (a `Body`).
#[proc_macro_derive(Commands, attributes(command))]
pub fn commands(input: TokenStream) -> TokenStream {
    expand(declare::commands(parse_macro_input!(input as DeriveInput)))
}

/// Makes an enum, with one [`Body`](macro@Body) of parameters in each variant, the set of a module's queries.
///
/// On a variant, `#[query(path = "…")]` and optionally `name = "…"`, `entity = "param"`, `response = Type`,
/// and `source = Rows`, `History` or `Command`.
#[proc_macro_derive(Queries, attributes(query))]
pub fn queries(input: TokenStream) -> TokenStream {
    expand(declare::queries(parse_macro_input!(input as DeriveInput)))
}

/// Makes an enum the set of a module's rejections; the doc comment is the title.
///
/// On a variant, `#[rejection(status = 409)]` and optionally `code = "…"` (the variant in snake case) and
/// `detail = "… {field} …"`, a format string over the variant's named fields.
#[proc_macro_derive(Rejections, attributes(rejection))]
pub fn rejections(input: TokenStream) -> TokenStream {
    expand(declare::rejections(parse_macro_input!(input as DeriveInput)))
}

/// On an `impl Module for …`: writes the wasm exports, and `VERSION`, `Query` and `Tally` where they are left out.
#[proc_macro_attribute]
pub fn module(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = proc_macro2::TokenStream::from(arguments);
    expand(module::attribute(arguments, parse_macro_input!(item as ItemImpl)))
}

fn expand(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(syn::Error::into_compile_error).into()
}
