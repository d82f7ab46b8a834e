//! Reading attributes: `#[word(flag, key = value)]` lists, doc comments, and the snake case of names.
//!
//! It does not know what the keys mean; a key that nobody asked for is an error at its place.

use proc_macro2::Span;
use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Lit, Meta, Token, spanned::Spanned};

/// The entries of all attributes of one name.
pub struct Attributes {
    entries: Vec<Meta>,
    span: Span,
}

impl Attributes {
    pub fn read(attributes: &[Attribute], name: &str, span: Span) -> syn::Result<Self> {
        let mut entries = Vec::new();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
            entries.extend(attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)?);
        }
        Ok(Self { entries, span })
    }

    /// Takes `key` or `key = value`; a bare key gives `true`.
    pub fn take(&mut self, key: &str) -> syn::Result<Option<Expr>> {
        let Some(at) = self.entries.iter().position(|entry| entry.path().is_ident(key)) else { return Ok(None) };
        match self.entries.remove(at) {
            Meta::NameValue(pair) => Ok(Some(pair.value)),
            Meta::Path(path) => {
                Ok(Some(Expr::Lit(ExprLit { attrs: Vec::new(), lit: Lit::Bool(syn::LitBool::new(true, path.span())) })))
            }
            other => Err(syn::Error::new(other.span(), "expected `key = value`")),
        }
    }

    pub fn take_flag(&mut self, key: &str) -> syn::Result<bool> {
        Ok(self.take(key)?.is_some())
    }

    pub fn take_text(&mut self, key: &str) -> syn::Result<Option<String>> {
        match self.take(key)? {
            None => Ok(None),
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => Ok(Some(text.value())),
            Some(other) => Err(syn::Error::new(other.span(), format!("`{key}` must be text in quotes"))),
        }
    }

    pub fn require<T>(&self, key: &str, value: Option<T>) -> syn::Result<T> {
        value.ok_or_else(|| syn::Error::new(self.span, format!("`{key} = …` is missing")))
    }

    /// Refuses whatever was not taken.
    pub fn finish(self) -> syn::Result<()> {
        match self.entries.first() {
            None => Ok(()),
            Some(entry) => {
                let name = entry.path().to_token_stream();
                Err(syn::Error::new(entry.span(), format!("`{name}` is not known here")))
            }
        }
    }
}

/// The doc comment as one line.
pub fn summary(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else { return None };
        let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &pair.value else { return None };
        Some(text.value().trim().to_string())
    });
    let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    lines.join(" ").trim_end_matches('.').to_string()
}

/// `BalanceTransfer` as `balance_transfer`.
pub fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (at, character) in name.chars().enumerate() {
        if character.is_uppercase() && at != 0 {
            snake.push('_');
        }
        snake.extend(character.to_lowercase());
    }
    snake
}
