//! What every [`ModuleFiles`] promises, but for crashes: what was written is there until it is removed.
//!
//! In: an implementation without modules. It knows nothing of the registry.

use std::io::ErrorKind;

use super::ModuleFiles;
use crate::ids::ModuleId;

pub fn check(files: &dyn ModuleFiles) {
    let wasm = b"the bytes of a module";
    let [id, other] = [ModuleId::of(wasm), ModuleId::of(b"another")];
    let missing = |id| files.read(id).map_err(|error| error.kind());
    assert!(!files.has(id), "it has no modules yet");
    assert_eq!(missing(id), Err(ErrorKind::NotFound));
    files.write(id, wasm).expect("there is room");
    assert!(files.has(id) && !files.has(other), "only the one that was written");
    assert_eq!(files.read(id).expect("it was written"), wasm);
    assert_ne!(files.place_of(id), files.place_of(other));
    files.remove(other).expect("it need not be there");
    files.remove(id).expect("it was written");
    assert!(!files.has(id), "it was removed");
    assert_eq!(missing(id), Err(ErrorKind::NotFound));
}
