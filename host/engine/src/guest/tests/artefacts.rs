//! Compiled code that is kept in a folder: what is used again, and what is made anew or refused.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A cache in a folder, and its files.
struct Shelf(tempfile::TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn engine(&self, key: u8) -> Arc<Engine> {
        let cache = Some(CacheOptions { folder: self.0.path().to_owned(), key: [key; 32] });
        Engine::new(EngineOptions { cache, instances_max: 1, ..Default::default() }).expect("the engine starts")
    }

    /// Loads the conforming module, which must work.
    fn load(&self, key: u8) {
        let module = self.engine(key).load(&wasm("conforming"), Allowance::Recorded).expect("it is loaded");
        assert!(module.apply(Pace::Fast, CONTEXT, &one_op(), &[], &[]).is_ok(), "it works");
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(self.0.path()).expect("the folder is there");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths
    }
}

#[test]
fn artefacts_are_cached_and_damage_is_mended() {
    let shelf = Shelf::new();
    shelf.load(1);
    let paths = shelf.files();
    assert_eq!(paths.len(), 2, "{paths:?}");
    let whole = fs::read(&paths[0]).expect("an artefact");
    shelf.load(1);
    assert_eq!(fs::read(&paths[0]).expect("it is there"), whole, "it came from the cache");
    for cut in [0, 7, 39, 40, whole.len() - 1] {
        fs::write(&paths[0], &whole[..cut]).expect("damage");
        shelf.load(1);
        assert_eq!(fs::read(&paths[0]).expect("mended").len(), whole.len());
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&paths[0], &flipped).expect("damage");
    shelf.load(1);
    assert_ne!(fs::read(&paths[0]).expect("mended"), flipped);
    assert_eq!(shelf.files(), paths);
}

#[test]
fn what_another_key_has_made_is_compiled_again() {
    use std::os::unix::fs::PermissionsExt;
    let shelf = Shelf::new();
    shelf.load(1);
    let paths = shelf.files();
    let of_one: Vec<_> = paths.iter().map(|path| fs::read(path).expect("an artefact")).collect();
    shelf.load(2);
    let of_other: Vec<_> = paths.iter().map(|path| fs::read(path).expect("an artefact")).collect();
    for (one, other) in of_one.iter().zip(&of_other) {
        assert_ne!(one[..40], other[..40], "it was written again, with the other key");
    }
    // Nor is a file accepted that belongs to the other engine or another module, under a name that is not its own.
    fs::write(&paths[0], &of_other[1]).expect("a file is swapped");
    shelf.load(2);
    assert_eq!(fs::read(&paths[0]).expect("mended")[..40], of_other[0][..40]);
    for path in &paths {
        let mode = fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    assert_eq!(fs::metadata(shelf.0.path()).expect("it is there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn no_link_and_no_giant_is_read_as_an_artefact() {
    let shelf = Shelf::new();
    shelf.load(1);
    let paths = shelf.files();
    fs::remove_file(&paths[0]).expect("it is ours");
    std::os::unix::fs::symlink("/dev/zero", &paths[0]).expect("a link");
    fs::File::create(&paths[1]).and_then(|file| file.set_len(1 << 40)).expect("a file with a hole");
    shelf.load(1);
    for path in paths {
        let facts = fs::symlink_metadata(path).expect("it is there");
        assert!(facts.is_file() && facts.len() < 1 << 20, "{facts:?}");
    }
}

#[test]
fn an_artefact_that_is_whole_and_foreign_stops_the_load() {
    let shelf = Shelf::new();
    shelf.load(1);
    for path in shelf.files() {
        let (name, foreign) = (path.file_name().expect("a file").to_owned(), b"not what wasmtime wrote");
        let mut mac = blake3::Hasher::new_keyed(&[1; 32]);
        mac.update(name.as_encoded_bytes()).update(&[0]).update(foreign);
        let file = [b"SHCWASM2", &mac.finalize().as_bytes()[..], foreign].concat();
        fs::write(path, file).expect("an artefact of a broken host");
    }
    let outcome = shelf.engine(1).load(&wasm("conforming"), Allowance::Recorded).map(|module| module.id());
    assert!(matches!(outcome, Err(GuestError::Artefact { .. })), "{outcome:?}");
}

#[test]
fn what_is_examined_is_kept_only_when_asked() {
    let shelf = Shelf::new();
    let engine = shelf.engine(1);
    let is_stopped = Arc::new(AtomicBool::new(false));
    let stop = is_stopped.clone();
    let stop = StopSignal::when(move || stop.load(Ordering::Acquire));
    let bounds = Bounds { allowance: Allowance::Foreign, until: None, stop };
    let examined = engine.examine(&wasm("conforming"), &bounds).expect("it is accepted");
    assert!(examined.module.apply(Pace::Metered, CONTEXT, &one_op(), &[], &[]).is_ok(), "it works");
    assert_eq!(shelf.files(), Vec::<std::path::PathBuf>::new());
    engine.keep(&examined).expect("the folder is ours");
    assert_eq!(shelf.files().len(), 2);
    engine.forget(ModuleId::of(b"another")).expect("the folder is ours");
    assert_eq!(shelf.files().len(), 2);
    engine.forget(examined.module.id()).expect("the folder is ours");
    assert_eq!(shelf.files(), Vec::<std::path::PathBuf>::new());
    is_stopped.store(true, Ordering::Release);
    let given_up = engine.examine(&wasm("conforming"), &bounds).map(|examined| examined.module.id());
    assert!(matches!(given_up, Err(GuestError::GivenUp { .. })), "{given_up:?}");
    engine.stop_compiling();
    let stopped = engine.load(&wasm("trap"), Allowance::Recorded).map(|module| module.id());
    assert!(matches!(stopped, Err(GuestError::GivenUp { .. })), "{stopped:?}");
}

#[test]
fn engines_of_one_build_have_one_fingerprint() {
    assert_eq!(engine().fingerprint(), engine().fingerprint());
}
