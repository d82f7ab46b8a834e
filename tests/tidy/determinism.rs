//! What may not occur where every replica and every auditor must compute the same bytes: the kernel, the logic of the
//! machine `system`, the SDK, modules.
//!
//! In: sources. Out: findings. Unit tests are exempt, and so is the file access of the scenario runner in
//! `guest-sdk/testkit`. What the modules' wasm may contain is checked by the validator, not here.

use syn::visit::Visit;

use crate::tokens::find;
use crate::tree::{Finding, Source, check_rule, check_sources, root};

const BANNED: [(&str, &str); 18] = [
    ("Instant", "time comes from the entry"),
    ("SystemTime", "time comes from the entry"),
    ("rand : :", "the seed comes from the entry"),
    ("tokio : :", "nothing waits or runs beside it here"),
    ("std : : fs", "what it needs is handed in"),
    ("std : : net", "what it needs is handed in"),
    ("std : : env", "what it needs is handed in"),
    ("std : : thread", "nothing runs beside it here"),
    ("std : : { fs", "what it needs is handed in"),
    ("metrics : :", "the caller counts; give the numbers back"),
    ("tracing : :", "the caller reports; give back what it should say"),
    ("parking_lot", "nothing runs beside it here"),
    ("fail_point", "nothing is durable here"),
    ("planted", "a bug is planted in the host"),
    ("HashMap", "its order is not the same everywhere; use BTreeMap"),
    ("HashSet", "its order is not the same everywhere; use BTreeSet"),
    ("usize : : from_le_bytes", "its width is the machine's; encode u32 or u64"),
    ("usize : : from_be_bytes", "its width is the machine's; encode u32 or u64"),
];
/// The native logic of the machine `system`.
const RECORDS: &str = "host/system/src/records/";
/// The kernel's one hash table, and what would walk it.
const KEY_TABLE: &str = "host/kernel/src/machine/decide/key_table.rs";
const WALKS: [&str; 8] = ["for", "iter", "iter_mut", "into_iter", "drain", "retain", "extract_if", "iter_hash"];
/// What the scenario runner needs to read and rewrite scenario files.
const TESTKIT_MAY: [&str; 3] = ["std : : fs", "std : : env", "std : : { fs"];
const ENCODING_DERIVES: [&str; 6] =
    ["BorshSerialize", "BorshDeserialize", "Encode", "Decode", "Serialize", "Deserialize"];

#[test]
fn replayed_code_sees_no_clock_chance_file_or_unordered_map() {
    check_sources(impurity);
    check_rule(impurity, "host/kernel/src/saga/plan.rs", "use std::time::Instant;", "use std::collections::BTreeMap;");
    check_rule(impurity, "host/kernel/src/ids.rs", "fn f() { metrics::counter!(\"a\"); }", "fn f() -> Counts {}");
    check_rule(impurity, "host/system/src/records/logic.rs", "use std::time::SystemTime;", "use crate::ids::Micros;");
    check_rule(impurity, "guest-sdk/src/tx.rs", "fn f() { let x = std::fs::read(p); }", "fn f(time: Micros) {}");
    check_rule(impurity, "guest-sdk/testkit/src/run.rs", "use std::net::TcpStream;", "use std::fs;");
    let hidden = "#[cfg(test)]\nmod tests {\nuse std::fs;\n}";
    check_rule(impurity, "guest-sdk/src/tx.rs", "type Rows = std::collections::HashMap<u8, u8>;", hidden);
}

#[test]
fn nothing_walks_a_hash_table() {
    check_sources(hash_table);
    let (bad, good) = ("use hashbrown::HashTable;", "use std::collections::BTreeMap;");
    check_rule(hash_table, "host/kernel/src/machine/table.rs", bad, good);
    let walk = "use hashbrown::HashTable;\nfn f(t: HashTable<u32>) { t.iter().count(); }";
    check_rule(hash_table, KEY_TABLE, walk, "use hashbrown::HashTable;\nfn f(t: HashTable<u32>) { t.find(1, g); }");
    assert!(root().join(KEY_TABLE).is_file(), "KEY_TABLE in determinism.rs names no file");
}

#[test]
fn encoded_types_have_no_field_whose_width_is_the_machines() {
    check_sources(machine_width);
    let bad = "#[derive(BorshSerialize)] struct Row { count: Vec<usize> }";
    check_rule(machine_width, "guest-sdk/src/row.rs", bad, "#[derive(Clone)] struct Row { count: usize }");
}

#[test]
fn money_is_never_a_float() {
    check_sources(float);
    check_rule(float, "modules/wallet/src/amount.rs", "fn f(x: f64) {}", "fn f(x: i128) { let hex = 0x1e3; }");
    check_rule(
        float,
        "host/kernel/src/machine/apply.rs",
        "const X: u8 = g(1.5);",
        "/// as f64 would\nconst X: u8 = 1;",
    );
}

fn is_replayed(source: &Source) -> bool {
    source.is_in("host/kernel/") || source.is_in(RECORDS) || source.is_in("guest-sdk/")
}

/// Only one file of the kernel has a hash table, and does nothing with it that shows its order.
fn hash_table(source: &Source) -> Vec<Finding> {
    if !source.is_in("host/kernel/") && !source.is_in(RECORDS) {
        return Vec::new();
    }
    let tokens = source.product_tokens();
    if source.path != KEY_TABLE {
        let advice = "the order of a hash table is not the same everywhere; use BTreeMap";
        return find(&tokens, "hashbrown").into_iter().map(|token| source.finding(token.line, advice)).collect();
    }
    let walks = tokens.iter().filter(|token| WALKS.contains(&token.text.as_str()));
    walks.map(|token| source.finding(token.line, format!("`{}` walks a hash table", token.text))).collect()
}

fn impurity(source: &Source) -> Vec<Finding> {
    if !is_replayed(source) {
        return Vec::new();
    }
    let tokens = source.product_tokens();
    let is_allowed = |sequence: &str| source.is_in("guest-sdk/testkit/") && TESTKIT_MAY.contains(&sequence);
    let mut findings = Vec::new();
    for (sequence, why) in BANNED.into_iter().filter(|(sequence, _)| !is_allowed(sequence)) {
        for token in find(&tokens, sequence) {
            let advice = format!("`{}` in code that is replayed: {why}", sequence.replace(' ', ""));
            findings.push(source.finding(token.line, advice));
        }
    }
    findings
}

fn machine_width(source: &Source) -> Vec<Finding> {
    struct Fields<'a> {
        source: &'a Source,
        findings: Vec<Finding>,
    }
    impl Fields<'_> {
        fn check(&mut self, attributes: &[syn::Attribute], fields: &syn::Fields) {
            if !attributes.iter().any(is_encoding) {
                return;
            }
            for field in fields {
                let mut width = Width(None);
                width.visit_type(&field.ty);
                if let Some(line) = width.0 {
                    let advice = "a `usize` in an encoded type; its width is the machine's: use u32 or u64";
                    self.findings.push(self.source.finding(line, advice));
                }
            }
        }
    }
    impl<'ast> Visit<'ast> for Fields<'_> {
        fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
            self.check(&item.attrs, &item.fields);
        }
        fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
            item.variants.iter().for_each(|variant| self.check(&item.attrs, &variant.fields));
        }
    }
    if !is_replayed(source) && !source.is_in("modules/") {
        return Vec::new();
    }
    let mut fields = Fields { source, findings: Vec::new() };
    fields.visit_file(&source.ast);
    fields.findings
}

/// The line of the first `usize` inside a type.
struct Width(Option<usize>);

impl<'ast> Visit<'ast> for Width {
    fn visit_ident(&mut self, ident: &'ast proc_macro2::Ident) {
        if ident == "usize" {
            self.0.get_or_insert(ident.span().start().line);
        }
    }
}

fn is_encoding(attribute: &syn::Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else { return false };
    let named = list.tokens.to_string();
    list.path.is_ident("derive") && ENCODING_DERIVES.iter().any(|derive| named.contains(derive))
}

fn float(source: &Source) -> Vec<Finding> {
    if !is_replayed(source) && !source.is_in("modules/") {
        return Vec::new();
    }
    let is_float = |token: &&crate::tokens::Token| token.is_float || token.text == "f32" || token.text == "f64";
    let advice = "a float where money may pass; amounts are i128 minor units, and rust_decimal at the edge";
    source.product_tokens().iter().filter(is_float).map(|token| source.finding(token.line, advice)).collect()
}
