//! A file as a flat list of tokens with lines, and the search for a sequence in it.
//!
//! Unlike the syntax tree it reaches into macro arguments. Unlike text it has no comments, and no string contents
//! that look like code. It knows no rule.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

#[derive(Clone, Debug)]
pub struct Token {
    /// As written; a delimiter is one of `( ) [ ] { }`.
    pub text: String,
    /// 1-based.
    pub line: usize,
    pub is_float: bool,
}

pub fn flatten(stream: TokenStream) -> Vec<Token> {
    let mut tokens = Vec::new();
    flatten_into(stream, &mut tokens);
    tokens
}

fn flatten_into(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: open.to_owned(), line, is_float: false });
                flatten_into(group.stream(), tokens);
                let line = group.span_close().start().line;
                tokens.push(Token { text: close.to_owned(), line, is_float: false });
            }
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                let is_float = matches!(syn::Lit::new(literal), syn::Lit::Float(_));
                tokens.push(Token { text, line, is_float });
            }
            other => tokens.push(Token { text: other.to_string(), line, is_float: false }),
        }
    }
}

/// The places where the sequence begins. It is written with spaces between its tokens (`. unwrap ( )`).
pub fn find<'a>(tokens: &'a [Token], sequence: &str) -> Vec<&'a Token> {
    let sequence: Vec<&str> = sequence.split(' ').collect();
    let is_match = |window: &&[Token]| window.iter().zip(&sequence).all(|(token, text)| token.text == *text);
    tokens.windows(sequence.len()).filter(is_match).map(|window| &window[0]).collect()
}

/// The index just after the delimiter that closes the one at `open`.
pub fn end_of_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

#[test]
fn macro_arguments_are_searched_and_strings_are_not() {
    let tokens = flatten("assert!(a.unwrap() == \"b.unwrap()\"); // c.unwrap()".parse().expect("is Rust"));
    assert_eq!(find(&tokens, ". unwrap ( )").len(), 1);
    assert_eq!(end_of_group(&tokens, 2), tokens.len() - 1);
}
