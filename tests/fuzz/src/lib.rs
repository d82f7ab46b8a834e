//! What the fuzz targets of all crates share. A target is a unit test beside the decoder that it tests.
//!
//! ```text
//! golden files, tests/fuzz/corpus/<target>/ ─▶ seeds ─┐
//! bytes of the engine: seed, edits ───────────────────┴▶ input ─▶ property, metered
//! ```
//! In: seeds, and a property of any bytes. Out: a failed test that prints the input. `cargo test` tries the seeds and a
//! fixed number of random edits of them. `make fuzz` runs the same target for hours with libFuzzer, which keeps the
//! edits that reach new code. It does not know any format.

mod edit;
mod meter;
mod recorded;

use std::path::Path;

pub use bolero;
pub use edit::edited;
pub use meter::{allocated, within};
pub use recorded::{check_recorded, recorded};

/// How many random inputs a target gets in `cargo test`, unless it says otherwise: a second at most.
const ITERATIONS: usize = 50_000;
/// The most bytes that the engine draws for one input; a longer one has more edits, and none is longer than these.
pub const SCRIPT_BYTES_MAX: usize = 160;

/// The inputs that a target begins with, and how many it tries.
pub struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    pub iterations: usize,
}

impl Target {
    /// A target whose corpus is `tests/fuzz/corpus/<name>/`, which may be missing. A file `*.hex` holds its bytes as
    /// digits, any other file is an input as it is.
    pub fn new(name: &'static str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        Self { name, seeds: Vec::new(), iterations: ITERATIONS }.files(&folder, |_| true)
    }

    /// Adds good inputs.
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.seeds.extend(seeds);
        self
    }

    /// Adds those files of a folder whose names are wanted, for instance golden files.
    pub fn files(mut self, folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Self {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file of the repository").path()).collect();
        // The order of a folder is not the same everywhere, and inputs count on it.
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_wanted(&name) {
                let bytes = std::fs::read(&path).expect("a file of the repository");
                self.seeds.push(if name.ends_with(".hex") { of_hex(&bytes) } else { bytes });
            }
        }
        self
    }

    /// Sets the number of random inputs of a target that takes long for each.
    pub fn iterations(self, iterations: usize) -> Self {
        Self { iterations, ..self }
    }

    /// Tries the seeds as they are: good inputs, and those that once broke the property.
    pub fn try_seeds(&self, property: fn(&[u8])) {
        assert!(!self.seeds.is_empty(), "{}: no seed was found", self.name);
        self.seeds.iter().for_each(|seed| self.try_one(seed, property));
    }

    /// Tries the input that the engine's bytes stand for.
    pub fn try_edited(&self, script: &[u8], property: fn(&[u8])) {
        self.try_one(&edited(&self.seeds, script), property);
    }

    /// The engine prints the bytes that it drew, which are edits of a seed. So the panic names the input itself.
    fn try_one(&self, input: &[u8], property: fn(&[u8])) {
        let Err(panic) = std::panic::catch_unwind(|| property(input)) else { return };
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panics");
        let (name, hex) = (self.name, to_hex(input));
        panic!(
            "{text}\nThe input, for a file `*.hex` in tests/fuzz/corpus/{name}/, which then names the place:\n{hex}"
        );
    }
}

/// Lines of 32 bytes, like the golden files.
pub fn to_hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

/// The bytes of a file `*.hex`.
///
/// # Panics
/// The text is not pairs of digits.
pub fn of_hex(text: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    assert!(rest.is_empty(), "an odd number of digits");
    let byte = |pair: &[u8; 2]| {
        let text = std::str::from_utf8(pair).expect("digits are ASCII");
        u8::from_str_radix(text, 16).expect("a hexadecimal digit")
    };
    pairs.iter().map(byte).collect()
}

/// Runs a [`Target`] with a property: a function of bytes that panics if it does not hold. To be the whole body of a
/// test, whose path is the target's name for `make fuzz`.
#[macro_export]
macro_rules! fuzz {
    ($target:expr, $property:expr) => {{
        // Comes first: it returns from the test where cargo-bolero only lists targets.
        let engine = $crate::bolero::check!();
        let target: $crate::Target = $target;
        target.try_seeds($property);
        engine
            .with_iterations(target.iterations)
            .with_max_len($crate::SCRIPT_BYTES_MAX)
            .for_each(|script: &[u8]| target.try_edited(script, $property));
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_reads_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(of_hex(to_hex(&bytes).as_bytes()), bytes);
        assert_eq!(of_hex(b""), Vec::<u8>::new());
    }

    /// A decoder with a bug: it believes the length that it reads.
    fn broken(bytes: &[u8]) {
        if let [b'S', b'H', size, rest @ ..] = bytes {
            assert!(rest[..usize::from(*size)].len() < 256);
        }
    }

    #[test]
    fn a_length_that_is_believed_is_found() {
        let found = std::panic::catch_unwind(|| {
            fuzz!(Target::new("none").seeds([b"SH\x04good".to_vec()]), broken);
        });
        assert!(found.is_err(), "the bug was not found");
    }

    #[test]
    fn an_input_that_fails_is_named() {
        let target = Target::new("none").seeds([b"SH\xffgood".to_vec()]);
        let found = std::panic::catch_unwind(|| target.try_seeds(broken)).expect_err("the seed is broken");
        let text = found.downcast_ref::<String>().expect("it has a text");
        assert!(text.contains("range end index 255") && text.ends_with("5348ff676f6f64\n"), "{text}");
    }
}
