//! Messages between nodes as released versions have sent them: `tests/fixtures/<version>/peer/<file>`, a line for each
//! with its name and its bytes as digits.
//!
//! In: the name of a file, and messages of this version. Out: what earlier versions sent, to be read. Nothing here
//! knows what a message means.

use std::path::{Path, PathBuf};

use crate::of_hex;

/// A message with the name that it has in its file.
pub type RecordedMessage = (String, Vec<u8>);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// The messages of every released version.
///
/// # Panics
/// No version has such a file, or a line is not a name and digits.
pub fn recorded(file: &str) -> Vec<RecordedMessage> {
    let versions = std::fs::read_dir(fixtures()).expect("there are fixtures");
    let mut paths: Vec<PathBuf> = versions.map(|version| version.expect("it is listed").path()).collect();
    paths.sort();
    let texts = paths.iter().filter_map(|version| std::fs::read_to_string(version.join("peer").join(file)).ok());
    let messages: Vec<RecordedMessage> = texts.flat_map(|text| text.lines().map(message).collect::<Vec<_>>()).collect();
    assert!(!messages.is_empty(), "no version has {file}");
    messages
}

fn message(line: &str) -> RecordedMessage {
    let (name, digits) = line.split_once(' ').expect("a line is a name and digits");
    (name.to_owned(), of_hex(digits.as_bytes()))
}

/// Checks that this version sends what its fixture says. `UPDATE_EXPECT=1` writes the fixture before the release.
///
/// # Panics
/// The messages differ.
pub fn check_recorded(version: &str, file: &str, sent: &[RecordedMessage]) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text: String = sent.iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect();
    let path = fixtures().join(version).join("peer").join(file);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the repository can be written");
        std::fs::write(&path, &text).expect("the repository can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{}: this version sends other messages:\n{text}", path.display());
}
