//! `#[module]`: fills in what an impl of `Module` left out, and writes the exports for wasm.
//!
//! Natively nothing is exported, so that several modules can be linked into one test binary.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{ImplItem, ItemImpl, parse_quote, spanned::Spanned};

/// The exports that take input, with their names in `native::Export`.
const EXPORTS: [(&str, &str); 7] = [
    ("sh1_plan", "Plan"),
    ("sh1_execute", "Execute"),
    ("sh1_apply", "Apply"),
    ("sh1_query", "Query"),
    ("sh1_render", "Render"),
    ("sh1_check", "Check"),
    ("sh1_migrate", "Migrate"),
];

pub fn attribute(arguments: TokenStream, mut item: ItemImpl) -> syn::Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(syn::Error::new(arguments.span(), "this attribute takes no arguments"));
    }
    if item.trait_.is_none() {
        return Err(syn::Error::new(item.span(), "expected `impl Module for …`"));
    }
    if !has(&item, "VERSION") {
        item.items.push(parse_quote!(
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");
        ));
    }
    if !has(&item, "Query") {
        item.items.push(parse_quote!(
            type Query = ::statehouse_guest::NoQueries;
        ));
    }
    if !has(&item, "Tally") {
        item.items.push(parse_quote!(
            type Tally = ();
        ));
    }
    if has(&item, "last_resort") {
        item.items.push(parse_quote!(
            const HAS_LAST_RESORTS: bool = true;
        ));
    }
    if has(&item, "needs_consent") {
        item.items.push(parse_quote!(
            const SAYS_CONSENT: bool = true;
        ));
    }
    let module = &item.self_ty;
    let exports = EXPORTS.iter().map(|(symbol, export)| {
        let (symbol, export) = (format_ident!("{symbol}"), format_ident!("{export}"));
        quote! {
            #[unsafe(no_mangle)]
            extern "C" fn #symbol(ptr: u32, len: u32) -> u64 {
                ::statehouse_guest::wasm::call::<#module>(::statehouse_guest::native::Export::#export, ptr, len)
            }
        }
    });
    Ok(quote! {
        #item

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            #[unsafe(no_mangle)]
            extern "C" fn sh1_alloc(len: u32) -> u32 {
                ::statehouse_guest::wasm::alloc(len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn sh1_describe() -> u64 {
                ::statehouse_guest::wasm::call::<#module>(::statehouse_guest::native::Export::Describe, 0, 0)
            }

            #[unsafe(no_mangle)]
            extern "C" fn sh1_panic() -> u64 {
                ::statehouse_guest::wasm::panic_text()
            }

            #(#exports)*
        };
    })
}

/// Whether the impl has an associated type, constant or function of this name.
fn has(item: &ItemImpl, name: &str) -> bool {
    item.items.iter().any(|item| match item {
        ImplItem::Const(constant) => constant.ident == name,
        ImplItem::Type(ty) => ty.ident == name,
        ImplItem::Fn(function) => function.sig.ident == name,
        _ => false,
    })
}
