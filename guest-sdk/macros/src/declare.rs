//! The derives of the three declared sets: commands, queries, rejections.
//!
//! Each walks over the variants of an enum. It does not know what the bodies hold.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, Type, Variant, spanned::Spanned};

use crate::attributes::{Attributes, snake_case, summary};

fn variants(input: &DeriveInput) -> syn::Result<Vec<&Variant>> {
    match &input.data {
        Data::Enum(data) => Ok(data.variants.iter().collect()),
        _ => Err(syn::Error::new(input.span(), "expected an enum")),
    }
}

/// What to match on: a reference to an enum without variants would need an arm.
fn matched(input: &DeriveInput) -> syn::Result<TokenStream> {
    Ok(if variants(input)?.is_empty() { quote!(*self) } else { quote!(self) })
}

/// The one type in a variant like `Add(Add)`.
fn payload(variant: &Variant) -> syn::Result<&Type> {
    match &variant.fields {
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => Ok(&fields.unnamed[0].ty),
        _ => Err(syn::Error::new(variant.span(), "expected a variant with one body, like `Add(Add)`")),
    }
}

fn name(variant: &Variant, attributes: &mut Attributes) -> syn::Result<String> {
    Ok(attributes.take_text("name")?.unwrap_or_else(|| snake_case(&variant.ident.to_string())))
}

fn option_text(text: Option<String>) -> TokenStream {
    match text {
        Some(text) => quote!(::core::option::Option::Some(#text.into())),
        None => quote!(::core::option::Option::None),
    }
}

fn response(attributes: &mut Attributes) -> syn::Result<TokenStream> {
    Ok(match attributes.take("response")? {
        Some(ty) => quote!(<#ty as ::statehouse_guest::Body>::schema()),
        None => quote!(::statehouse_guest::abi::describe::Schema::Any),
    })
}

pub fn commands(input: DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let matched = matched(&input)?;
    let (mut declarations, mut decodes, mut finds, mut writes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (index, variant) in variants(&input)?.into_iter().enumerate() {
        let (index, variant_ident, body) = (index as u32, &variant.ident, payload(variant)?);
        let mut attributes = Attributes::read(&variant.attrs, "command", variant.span())?;
        let name = name(variant, &mut attributes)?;
        let path = attributes.take_text("path")?;
        let path = attributes.require("path", path)?;
        let method = attributes.take_text("method")?.unwrap_or_else(|| "POST".into());
        let id_field = option_text(attributes.take_text("id")?);
        let success = attributes.take("success")?.map_or(quote!(200), |status| quote!(#status));
        let response = response(&mut attributes)?;
        let summary = summary(&variant.attrs);
        attributes.finish()?;
        declarations.push(quote! {
            ::statehouse_guest::abi::describe::CommandDecl {
                name: #name.into(),
                method: #method.into(),
                path: #path.into(),
                body: <#body as ::statehouse_guest::Body>::schema(),
                id_field: #id_field,
                success: #success,
                response: #response,
                summary: #summary.into(),
            }
        });
        decodes.push(quote! {
            #index => ::core::option::Option::Some(
                <#body as ::statehouse_guest::Body>::from_value(body).map(Self::#variant_ident)
            ),
        });
        finds.push(quote!(#name => ::core::option::Option::Some(#index),));
        writes.push(quote!(Self::#variant_ident(body) => ::statehouse_guest::FieldValue::to_value(body),));
    }
    Ok(quote! {
        impl ::statehouse_guest::Commands for #ident {
            fn declare() -> Vec<::statehouse_guest::abi::describe::CommandDecl> {
                vec![#(#declarations),*]
            }

            fn decode(
                index: u32,
                body: &::statehouse_guest::Value,
            ) -> Option<::core::result::Result<Self, ::statehouse_guest::BodyError>> {
                match index { #(#decodes)* _ => ::core::option::Option::None }
            }

            fn find(name: &str) -> Option<u32> {
                match name { #(#finds)* _ => ::core::option::Option::None }
            }

            fn to_value(&self) -> ::statehouse_guest::Value {
                match #matched { #(#writes)* }
            }
        }
    })
}

pub fn queries(input: DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let (mut declarations, mut decodes) = (Vec::new(), Vec::new());
    for variant in variants(&input)? {
        let (variant_ident, params) = (&variant.ident, payload(variant)?);
        let mut attributes = Attributes::read(&variant.attrs, "query", variant.span())?;
        let name = name(variant, &mut attributes)?;
        let path = attributes.take_text("path")?;
        let path = attributes.require("path", path)?;
        let entity = option_text(attributes.take_text("entity")?);
        let source = attributes.take("source")?.map_or(quote!(Rows), |source| quote!(#source));
        let response = response(&mut attributes)?;
        let summary = summary(&variant.attrs);
        attributes.finish()?;
        declarations.push(quote! {
            ::statehouse_guest::abi::describe::QueryDecl {
                name: #name.into(),
                path: #path.into(),
                params: <#params as ::statehouse_guest::Body>::schema(),
                entity_param: #entity,
                source: ::statehouse_guest::abi::describe::QuerySource::#source,
                response: #response,
                summary: #summary.into(),
            }
        });
        decodes.push(quote! {
            #name => ::core::option::Option::Some(
                <#params as ::statehouse_guest::Body>::from_value(params).map(Self::#variant_ident)
            ),
        });
    }
    Ok(quote! {
        impl ::statehouse_guest::Queries for #ident {
            fn declare() -> Vec<::statehouse_guest::abi::describe::QueryDecl> {
                vec![#(#declarations),*]
            }

            fn decode(
                name: &str,
                params: &::statehouse_guest::Value,
            ) -> Option<::core::result::Result<Self, ::statehouse_guest::BodyError>> {
                match name { #(#decodes)* _ => ::core::option::Option::None }
            }
        }
    })
}

pub fn rejections(input: DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let matched = matched(&input)?;
    let (mut declarations, mut codes, mut details) = (Vec::new(), Vec::new(), Vec::new());
    for variant in variants(&input)? {
        let variant_ident = &variant.ident;
        let mut attributes = Attributes::read(&variant.attrs, "rejection", variant.span())?;
        let code = attributes.take_text("code")?.unwrap_or_else(|| snake_case(&variant_ident.to_string()));
        let status = attributes.take("status")?;
        let status = attributes.require("status", status)?;
        let title = summary(&variant.attrs);
        let detail = attributes.take("detail")?.map_or(quote!(#title.into()), |detail| quote!(format!(#detail)));
        attributes.finish()?;
        let fields: Vec<_> = variant.fields.iter().filter_map(|field| field.ident.as_ref()).collect();
        declarations.push(quote! {
            ::statehouse_guest::abi::describe::RejectionDecl {
                code: #code.into(),
                status: #status,
                title: #title.into(),
            }
        });
        codes.push(quote!(Self::#variant_ident { .. } => #code,));
        details.push(quote! {
            #[allow(unused_variables)]
            Self::#variant_ident { #(#fields,)* .. } => #detail,
        });
    }
    Ok(quote! {
        impl ::statehouse_guest::Rejections for #ident {
            fn declare() -> Vec<::statehouse_guest::abi::describe::RejectionDecl> {
                vec![#(#declarations),*]
            }

            fn code(&self) -> &'static str {
                match #matched { #(#codes)* }
            }

            fn detail(&self) -> String {
                match #matched { #(#details)* }
            }
        }
    })
}
