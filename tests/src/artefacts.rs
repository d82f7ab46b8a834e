//! Compiled modules, lent from the folder of one test's host to the next host, because compiling takes longer than
//! most tests.
//!
//! In: the data folder of a host that is about to start, or that is ready. Out: what earlier hosts have compiled,
//! which is kept beside the binary, and the key that proves it, which all hosts of the tests share. A host checks
//! what it finds there as always. A test that needs a first compilation removes the folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::process::binary;

/// The folder in which a host keeps what it has compiled.
const ARTEFACTS: &str = "artefacts";
const KEY: &str = "artefacts.key";

fn shelf() -> PathBuf {
    binary().with_file_name("test-artefacts")
}

/// Copies what other hosts have compiled into a new folder.
pub fn lend(data: &Path) {
    let to = data.join(ARTEFACTS);
    if !to.exists() && shelf().join(KEY).exists() {
        fs::create_dir_all(&to).expect("a folder of a test can be made");
        copy(&shelf().join(KEY), data, KEY);
        copy_missing(&shelf(), &to);
    }
}

/// Keeps what a host has compiled for the next host.
pub fn keep(data: &Path) {
    fs::create_dir_all(shelf()).expect("a folder of a test can be made");
    copy(&data.join(KEY), &shelf(), KEY);
    let read = |folder: &Path| fs::read(folder.join(KEY)).ok();
    // No host could use modules that have another key.
    if read(data) == read(&shelf()) {
        copy_missing(&data.join(ARTEFACTS), &shelf());
    }
}

/// A file gets its name once it is whole, because other tests read and write here at the same time.
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
        copy(&file, to, &name.to_string_lossy());
    }
}

/// Copies a file that is not there yet.
fn copy(file: &Path, to: &Path, name: &str) {
    let wanted = to.join(name);
    let partial = tempfile::NamedTempFile::new_in(to).expect("a folder of a test can be written");
    // The file may be gone by now, if its test is over. If two tests copy the same file, the first copy stays.
    if !wanted.exists() && fs::copy(file, partial.path()).is_ok() {
        match partial.persist_noclobber(wanted) {
            Err(error) if error.error.kind() != ErrorKind::AlreadyExists => panic!("{error}"),
            _ => {}
        }
    }
}
