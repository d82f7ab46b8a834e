//! The views that are part of this program, by name.
//!
//! In: the name of a view, or the path of a file. Out: where its bytes are. They are released like modules, in
//! `modules/releases`. It does not know what a view shows.

use std::path::PathBuf;

use anyhow::bail;
use statehouse_kernel::ids::ModuleId;
use statehouse_node::system::ModuleSource;

/// Name and bytes; all of them are views of the machine `wallet`.
const SHIPPED: [(&str, &[u8]); 3] = [
    ("statements", include_bytes!("../../../modules/releases/statements-1.0.0.wasm")),
    ("audit_trail", include_bytes!("../../../modules/releases/audit_trail-1.0.0.wasm")),
    ("double_charges", include_bytes!("../../../modules/releases/double_charges-1.0.0.wasm")),
];

/// All of them.
pub fn all() -> Vec<ModuleSource> {
    SHIPPED.iter().map(|(_, wasm)| ModuleSource::Embedded(wasm)).collect()
}

/// Their module ids. Their answers may replace those of the machine's own module.
pub fn ids() -> impl Iterator<Item = ModuleId> {
    SHIPPED.iter().map(|(_, wasm)| ModuleId::of(wasm))
}

pub fn names() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

/// Finds a view by its name, or a file by its path, which ends with `.wasm`.
///
/// # Errors
/// It is neither.
pub fn find(text: &str) -> anyhow::Result<ModuleSource> {
    if let Some((_, wasm)) = SHIPPED.iter().find(|(name, _)| *name == text) {
        return Ok(ModuleSource::Embedded(wasm));
    }
    if text.ends_with(".wasm") {
        return Ok(ModuleSource::File(PathBuf::from(text)));
    }
    let names: Vec<&str> = names().collect();
    bail!("`{text}` is no view: name one of {}, or a file that ends with .wasm", names.join(", "))
}

/// The bytes of a view.
///
/// # Errors
/// The file cannot be read.
pub fn read(source: &ModuleSource) -> std::io::Result<Vec<u8>> {
    match source {
        ModuleSource::Embedded(wasm) => Ok(wasm.to_vec()),
        ModuleSource::File(path) => std::fs::read(path),
    }
}
