//! Files that somebody else may have placed where we read: an archive, an export, a data folder that an auditor was
//! given.
//!
//! A path and the largest permitted size go in. The file, if it is a regular one, or its bytes come out. A link, a pipe
//! or a device is an error at once: a link may lead anywhere, a pipe never ends, and `/dev/zero` fills the memory. This
//! file does not know what is in a file.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a file for reading. It follows no link and never waits.
///
/// # Errors
/// The file does not exist, may not be read, or is not a regular file.
pub fn open(path: &Path) -> Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        let is_link = path.symlink_metadata().is_ok_and(|facts| facts.is_symlink());
        if is_link { not_regular("a link") } else { error }
    })?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        return Err(not_regular(if kind.is_dir() { "a folder" } else { "a pipe, a socket or a device" }));
    }
    Ok(file)
}

/// Reads a whole file of at most `bytes_max`.
///
/// # Errors
/// The same as for [`open`], or the file is longer.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    if bytes_max < size {
        return Err(too_long(bytes_max));
    }
    // The file may grow meanwhile.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes_max < bytes.len() as u64 {
        return Err(too_long(bytes_max));
    }
    Ok(bytes)
}

fn not_regular(what: &str) -> Error {
    let text = format!("it is {what}, and only regular files are read here: put a copy of the file in its place");
    Error::new(ErrorKind::InvalidInput, text)
}

fn too_long(bytes_max: u64) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("it has more than the {bytes_max} bytes that such a file may have"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[track_caller]
    fn check(path: &Path, expected: std::result::Result<&[u8], &str>) {
        match (read(path, 8), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, _) => panic!("{}: {found:?}", path.display()),
        }
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("whole"), b"12345678").expect("a new file");
        std::fs::write(at("long"), b"123456789").expect("a new file");
        symlink("/dev/zero", at("zero")).expect("a new link");
        symlink(at("whole"), at("link")).expect("a new link");
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("a new pipe");
        check(&at("whole"), Ok(b"12345678"));
        check(&at("long"), Err("more than the 8 bytes"));
        check(&at("zero"), Err("it is a link"));
        check(&at("link"), Err("it is a link"));
        check(&at("pipe"), Err("a pipe"));
        check(Path::new("/dev/zero"), Err("a pipe, a socket or a device"));
        check(folder.path(), Err("a folder"));
        check(&at("nothing"), Err("No such file"));
    }
}
