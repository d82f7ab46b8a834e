//! A node's key: it signs what the node vouches for, so that others can check it elsewhere.
//!
//! Bytes go in. Ed25519 signatures come out. The key is one file in the data folder, `node.key`: 64 hexadecimal digits,
//! readable only by its owner, and made when it is first needed. A copy of the folder has a copy of the key. This file
//! does not know what is signed. Beside the key lies `artefacts.key`, of the same form, for data that only the node
//! itself checks.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::{Signature as Raw, Signer, SigningKey, VerifyingKey};

use crate::disk::{Disk, RealDisk};

const FILE: &str = "node.key";
const ARTEFACT_FILE: &str = "artefacts.key";

/// The private half. It is never printed.
pub struct NodeKey(SigningKey);

/// The public half, by which others know the node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A signature of some bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// Why there is no key, or why a text is not one.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is not a key: it must hold 64 hexadecimal digits", path.display())]
    Malformed { path: PathBuf },
    #[error("{} can be read by others (mode {mode:o}): make it private with `chmod 600`", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("`{0}` is not hexadecimal text of the right length")]
    Hex(String),
}

impl NodeKey {
    /// The key of a data folder. It is made if there is none, and durable on return.
    pub fn of_folder(disk: &dyn Disk, folder: &Path) -> Result<Self, KeyError> {
        seed_of(disk, &folder.join(FILE)).map(|seed| Self(SigningKey::from_bytes(&seed)))
    }

    /// The key that the folder has. If there is none, none is made.
    pub fn kept_in(folder: &Path) -> Result<Self, KeyError> {
        Self::read(&folder.join(FILE))
    }

    /// The key in a file of the machine's own file system.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        read_seed(&RealDisk, path).map(|seed| Self(SigningKey::from_bytes(&seed)))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(bytes).to_bytes())
    }
}

impl PublicKey {
    pub fn of(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn bytes(self) -> [u8; 32] {
        self.0
    }

    /// The first digits, enough for people to tell keys apart.
    pub fn short(self) -> String {
        encode(&self.0[..8])
    }

    /// Whether this key has signed these bytes.
    pub fn has_signed(&self, bytes: &[u8], signature: &Signature) -> bool {
        let key = VerifyingKey::from_bytes(&self.0);
        key.is_ok_and(|key| key.verify_strict(bytes, &Raw::from_bytes(&signature.0)).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self).ok_or_else(|| KeyError::Hex(text.to_owned()))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self).ok_or_else(|| KeyError::Hex(text.to_owned()))
    }
}

/// The secret by which a node recognizes what it has compiled itself. It signs nothing. It is made if there is none,
/// and durable on return. The compiled artefacts are on the machine's own file system, and so is this secret.
pub fn artefact_key(folder: &Path) -> Result<[u8; 32], KeyError> {
    seed_of(&RealDisk, &folder.join(ARTEFACT_FILE))
}

fn seed_of(disk: &dyn Disk, path: &Path) -> Result<[u8; 32], KeyError> {
    match read_seed(disk, path) {
        Err(KeyError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => create(disk, path),
        read => read,
    }
}

fn read_seed(disk: &dyn Disk, path: &Path) -> Result<[u8; 32], KeyError> {
    let (bytes, mode) = disk.read_with_mode(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let seed = str::from_utf8(&bytes).ok().and_then(|text| decode::<32>(text.trim()));
    seed.ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
}

/// Writes the key under another name first, so that it exists completely or not at all. If two processes make one, the
/// first one wins.
fn create(disk: &dyn Disk, path: &Path) -> Result<[u8; 32], KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let seed: [u8; 32] = rand::random();
    let folder = path.parent().unwrap_or(Path::new("."));
    let partial = path.with_extension(format!("key.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let file = disk.create(&partial)?;
        file.write_at(format!("{}\n", encode(&seed)).as_bytes(), 0)?;
        file.sync()?;
        let linked = disk.link(&partial, path);
        disk.remove(&partial)?;
        match linked {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        disk.sync_dir(folder)
    };
    write().map_err(io)?;
    read_seed(disk, path)
}

fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode<const SIZE: usize>(text: &str) -> Option<[u8; SIZE]> {
    if text.len() != 2 * SIZE || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; SIZE];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{KeyError, NodeKey, artefact_key};
    use crate::disk::RealDisk;

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = NodeKey::of_folder(&RealDisk, folder.path()).expect("it is made");
        let again = NodeKey::of_folder(&RealDisk, folder.path()).expect("it is read");
        assert_eq!(first.public(), again.public());
        let path = folder.path().join("node.key");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let signature = first.sign(b"a");
        assert!(again.public().has_signed(b"a", &signature));
        assert!(!again.public().has_signed(b"b", &signature));
        let secret = artefact_key(folder.path()).expect("it is made");
        assert_eq!(artefact_key(folder.path()).expect("it is read"), secret);
        let read = NodeKey::read(&folder.path().join("artefacts.key")).expect("it has the form of a key");
        assert_ne!(read.public(), first.public());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
        assert!(matches!(NodeKey::of_folder(&RealDisk, folder.path()), Err(KeyError::Exposed { .. })));
    }
}
