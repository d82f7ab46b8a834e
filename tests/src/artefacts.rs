//! Compiled modules, lent from the folder of one test's host to the next: compiling takes longer than most tests.
//!
//! In: the data folder of a host that is about to start, or is ready. Out: what earlier hosts have compiled, beside the binary. A host checks
//! what it finds there as ever. A test that asks for a first compilation removes the folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::process::binary;

/// Where a host keeps what it has compiled.
const ARTEFACTS: &str = "artefacts";

fn shelf() -> PathBuf {
    binary().with_file_name("test-artefacts")
}

/// Gives a new folder what others have compiled.
pub fn lend(data: &Path) {
    let to = data.join(ARTEFACTS);
    if !to.exists() {
        copy_missing(&shelf(), &to);
    }
}

/// Keeps what a host has compiled for the next.
pub fn keep(data: &Path) {
    copy_missing(&data.join(ARTEFACTS), &shelf());
}

/// A file has its name once it is whole, for other tests read and write here at the same time.
fn copy_missing(from: &Path, to: &Path) {
    let files = match fs::read_dir(from) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => panic!("{}: {error}", from.display()),
    };
    fs::create_dir_all(to).expect("a folder of a test can be made");
    for file in files {
        let file = file.expect("a folder of a test can be read").path();
        let name = file.file_name().expect("a file of a folder has a name");
        let wanted = to.join(name);
        if file.extension().is_none_or(|extension| extension != "cwasm") || wanted.exists() {
            continue;
        }
        let partial = tempfile::NamedTempFile::new_in(to).expect("a folder of a test can be written");
        // It may be gone by now, if its test is over.
        if fs::copy(&file, partial.path()).is_ok() {
            partial.persist(wanted).expect("a folder of a test can be written");
        }
    }
}
