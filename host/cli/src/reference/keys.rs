//! The page about the configuration is compared with the structs into which a configuration is read.
//!
//! In: the source of `config.rs` and of the files below it, whose comments name the section of each struct. Out: the
//! keys, written as on the page (`node.id`). It reads fields line by line, so each field must have a line of its own.
//! It does not know what a key means.

use std::collections::BTreeMap;

use super::{assert_same, page, source};

/// The name of each struct's section in the configuration.
const SECTIONS: [(&str, &str); 17] = [
    ("Config", ""),
    ("NodeConfig", "node"),
    ("HttpConfig", "http"),
    ("HttpTlsConfig", "http.tls"),
    ("MachineConfig", "machines.NAME"),
    ("AuthConfig", "auth"),
    ("TokenConfig", "auth.tokens"),
    ("LimitsConfig", "limits"),
    ("LogConfig", "log"),
    ("SnapshotsConfig", "snapshots"),
    ("PeerConfig", "peer"),
    ("PeerTlsConfig", "peer.tls"),
    ("ClusterConfig", "cluster"),
    ("WebhooksConfig", "webhooks"),
    ("ViewsConfig", "views"),
    ("ScrubConfig", "scrub"),
    ("ArchiveConfig", "archive"),
];
const FILES: [&str; 6] =
    ["config.rs", "config/http.rs", "config/peer.rs", "config/scrub.rs", "config/views.rs", "config/webhooks.rs"];

#[test]
fn the_page_has_every_key() {
    let text = page("config.md");
    let headings = text.lines().filter_map(|line| line.strip_prefix("### `")?.split('`').next());
    assert_same("configuration keys", keys(), headings.map(str::to_owned).collect());
}

fn keys() -> Vec<String> {
    let structs: BTreeMap<String, Vec<String>> = FILES.iter().flat_map(|file| structs_of(&source(file))).collect();
    for name in structs.keys() {
        assert!(
            SECTIONS.iter().any(|(known, _)| known == name),
            "`{name}` is no section yet; add it here and to the page"
        );
    }
    let mut keys = Vec::new();
    for (name, section) in SECTIONS.iter().filter(|(_, section)| !section.is_empty()) {
        let fields = structs.get(*name).unwrap_or_else(|| panic!("there is no struct `{name}` any more"));
        // A section within a section has its own heading.
        let is_section = |key: &String| SECTIONS.iter().any(|(_, section)| section == key);
        keys.extend(fields.iter().map(|field| format!("{section}.{field}")).filter(|key| !is_section(key)));
    }
    keys
}

/// The structs that are read from a file, with their fields.
fn structs_of(text: &str) -> Vec<(String, Vec<String>)> {
    let mut structs = Vec::new();
    let mut is_read = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        is_read |= line.starts_with("#[derive(") && line.contains("Deserialize");
        let Some(rest) = line.strip_prefix("pub struct ") else { continue };
        let name = rest.trim_end_matches([' ', '{', ';']).to_owned();
        let fields = lines.by_ref().take_while(|line| *line != "}").filter_map(field_of).collect();
        if std::mem::take(&mut is_read) {
            structs.push((name, fields));
        }
    }
    structs
}

fn field_of(line: &str) -> Option<String> {
    let line = line.strip_prefix("    ")?;
    let line = line.strip_prefix("pub(super) ").or(line.strip_prefix("pub ")).unwrap_or(line);
    let (name, _) = line.split_once(": ")?;
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte));
    is_name.then(|| name.to_owned())
}
