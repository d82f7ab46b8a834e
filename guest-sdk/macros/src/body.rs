//! `#[derive(Body)]`: schema, reading and writing of a struct with named fields.
//!
//! Each field gets a constant `Rule` from its type and its attribute. It does not know what a body is used for.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, GenericArgument, PathArguments, Type, spanned::Spanned};

use crate::attributes::{Attributes, summary};

struct Field {
    ident: syn::Ident,
    name: String,
    /// Without its `Option`.
    inner: Type,
    is_required: bool,
    rule: TokenStream,
    summary: String,
}

pub fn derive(input: DeriveInput) -> syn::Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(syn::Error::new(input.span(), "a body is a struct with named fields"));
    };
    let named = match &data.fields {
        Fields::Named(named) => named.named.iter().collect(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(_) => return Err(syn::Error::new(input.span(), "a body is a struct with named fields")),
    };
    let fields = named.into_iter().map(field).collect::<syn::Result<Vec<Field>>>()?;
    let ident = &input.ident;
    let names: Vec<&String> = fields.iter().map(|field| &field.name).collect();
    let declarations = fields.iter().map(declaration);
    let reads = fields.iter().map(read);
    let writes = fields.iter().map(write);
    Ok(quote! {
        impl ::statehouse_guest::Body for #ident {
            fn schema() -> ::statehouse_guest::abi::describe::Schema {
                ::statehouse_guest::abi::describe::Schema::Object { fields: vec![#(#declarations),*] }
            }

            fn from_value(value: &::statehouse_guest::Value) -> ::core::result::Result<Self, ::statehouse_guest::BodyError> {
                ::statehouse_guest::body::members(value, &[#(#names),*])?;
                ::core::result::Result::Ok(Self { #(#reads),* })
            }
        }

        impl ::statehouse_guest::FieldValue for #ident {
            const RULE: ::statehouse_guest::Rule =
                ::statehouse_guest::Rule::Object(<Self as ::statehouse_guest::Body>::schema);

            fn read(
                value: &::statehouse_guest::Value,
                _: &::statehouse_guest::Rule,
            ) -> ::core::result::Result<Self, ::statehouse_guest::BodyError> {
                <Self as ::statehouse_guest::Body>::from_value(value)
            }

            fn to_value(&self) -> ::statehouse_guest::Value {
                let mut members: Vec<(&str, ::statehouse_guest::Value)> = Vec::new();
                #(#writes)*
                ::statehouse_guest::Value::map(members)
            }
        }
    })
}

fn field(field: &syn::Field) -> syn::Result<Field> {
    let ident = field.ident.clone().ok_or_else(|| syn::Error::new(field.span(), "a field needs a name"))?;
    let mut attributes = Attributes::read(&field.attrs, "body", field.span())?;
    let name = attributes.take_text("rename")?.unwrap_or_else(|| ident.to_string());
    let (inner, is_required) = match option_of(&field.ty) {
        Some(inner) => (inner.clone(), false),
        None => (field.ty.clone(), true),
    };
    let rule = rule(&inner, &mut attributes)?;
    attributes.finish()?;
    Ok(Field { ident, name, inner, is_required, rule, summary: summary(&field.attrs) })
}

/// `T` of `Option<T>`.
fn option_of(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) => Some(inner),
        _ => None,
    }
}

/// The type's own rule, narrowed by the attribute.
fn rule(ty: &Type, attributes: &mut Attributes) -> syn::Result<TokenStream> {
    let own = quote!(<#ty as ::statehouse_guest::FieldValue>::RULE);
    let (min, max) = (attributes.take("min")?, attributes.take("max")?);
    let (min_chars, max_chars) = (attributes.take("min_chars")?, attributes.take("max_chars")?);
    let max_items = attributes.take("max_items")?;
    let mut format = None;
    for (word, variant) in [
        ("name", quote!(Name)),
        ("decimal", quote!(Decimal)),
        ("currency", quote!(Currency)),
        ("date_time", quote!(DateTime)),
        ("uuid", quote!(Uuid)),
    ] {
        if attributes.take_flag(word)? {
            format = Some(quote!(::statehouse_guest::abi::describe::TextFormat::#variant));
        }
    }
    let option = |expression: Option<TokenStream>| match expression {
        Some(expression) => quote!(::core::option::Option::Some(#expression)),
        None => quote!(::core::option::Option::None),
    };
    let integer = |expression: Option<syn::Expr>| option(expression.map(|expression| quote!((#expression) as _)));
    let (min, max) = (integer(min), integer(max));
    let (min_chars, max_chars, max_items) = (integer(min_chars), integer(max_chars), integer(max_items));
    let format = option(format);
    Ok(quote!(#own.narrow(&::statehouse_guest::body::Narrow {
        min: #min, max: #max, min_chars: #min_chars, max_chars: #max_chars, max_items: #max_items, format: #format,
    })))
}

fn declaration(field: &Field) -> TokenStream {
    let Field { name, rule, is_required, summary, .. } = field;
    quote! {
        ::statehouse_guest::abi::describe::Field {
            name: #name.into(),
            schema: { const RULE: ::statehouse_guest::Rule = #rule; RULE.schema() },
            required: #is_required,
            summary: #summary.into(),
        }
    }
}

fn read(field: &Field) -> TokenStream {
    let Field { ident, name, inner, rule, is_required, .. } = field;
    let function = if *is_required { quote!(required) } else { quote!(optional) };
    quote! {
        #ident: {
            const RULE: ::statehouse_guest::Rule = #rule;
            ::statehouse_guest::body::#function::<#inner>(value, #name, &RULE)?
        }
    }
}

fn write(field: &Field) -> TokenStream {
    let Field { ident, name, is_required, .. } = field;
    if *is_required {
        quote!(members.push((#name, ::statehouse_guest::FieldValue::to_value(&self.#ident)));)
    } else {
        quote! {
            if let ::core::option::Option::Some(member) = &self.#ident {
                members.push((#name, ::statehouse_guest::FieldValue::to_value(member)));
            }
        }
    }
}
