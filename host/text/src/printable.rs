//! Text from others on its way to a person: characters that would control a terminal, or show something else, become
//! visible.
//!
//! Text of a module, a history or another node goes in. The same text comes out, with some characters written as in
//! Rust and JSON: control characters, characters that act as line breaks, and those that reverse the text or are
//! invisible. It is applied once, where text leaves the program for a terminal, a log or a page, so nobody needs to
//! know a text's origin.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether the character shows nothing, or changes what other characters show.
pub fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// As one line: line breaks are escaped as well.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// With its line breaks and tabs.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |char| matches!(char, '\n' | '\t'))
}

/// JSON, in which only strings can contain such characters. The breaks between lines stay.
pub fn json(text: &str) -> Cow<'_, str> {
    let is_good = |char| char == '\n' || !is_unseen(char);
    if text.chars().all(is_good) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    for char in text.chars() {
        if is_good(char) {
            out.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}").expect("writing to memory cannot fail");
        }
    }
    Cow::Owned(out)
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_good = |char| is_kept(char) || !is_unseen(char);
    if text.chars().all(&is_good) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    for char in text.chars() {
        if is_good(char) { out.push(char) } else { out.extend(char.escape_default()) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_turns_text_is_written_out() {
        let hostile =
            "a\u{1b}]52;c;AA==\u{7}\u{9b}2J\u{202e}gpj.exe\u{2066}\r\nINFO all is well\t\u{7f}\u{2028}\u{200b}ü 💸";
        assert_eq!(
            line(hostile),
            "a\\u{1b}]52;c;AA==\\u{7}\\u{9b}2J\\u{202e}gpj.exe\\u{2066}\\r\\n\
             INFO all is well\\t\\u{7f}\\u{2028}\\u{200b}ü 💸"
        );
        let kept = lines(hostile);
        assert!(kept.contains("\\r\nINFO all is well\t\\u{7f}") && !kept.contains('\u{1b}'), "{kept}");
        assert!(matches!(line("Zürich → 10.00 €"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_says_the_same_without_such_characters() {
        let value = serde_json::json!({"a": "\u{1b}[2J\u{9b}\u{202e}\u{e0041}ü", "b": ["x\ny"]});
        let text = serde_json::to_string_pretty(&value).expect("it is JSON");
        let safe = json(&text);
        assert!(safe.chars().all(|char| char == '\n' || !is_unseen(char)), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("it is JSON"), value);
        assert!(safe.contains("\\u202e") && safe.contains('ü'), "{safe}");
    }
}
