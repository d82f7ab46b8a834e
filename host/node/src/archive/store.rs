//! The archive: an object store that keeps journal segments, snapshots and modules for ever.
//!
//! ```text
//! <url>/archive.json                                         the owner, written once
//!       modules/<ModuleId>.wasm
//!       <machine>/<partition>/<first>-<last>-<hash>.journal
//!                             <index>[-<day>]-<hash>.snapshot
//!       _uploading/<machine>/<partition>/…                   objects that were not read back yet
//! ```
//! Files that are the same from every replica, named by their hash, go in. The same files come out, or a folder that an
//! audit reads like an export. An object gets its name only after it was read back and had the bytes that were sent. So
//! every listed object is complete, and uploading an object twice gives the same result. This file does not know which
//! files exist, nor who uploads them.

use std::io::ErrorKind;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    ClientConfigKey, Error as StoreError, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RetryConfig, WriteMultipart,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::error::ArchiveError;
use crate::durable::{self, PRIVATE_FOLDER};
use crate::ids::{ClusterId, ModuleId, PartitionId};
use crate::limits::{ARCHIVE_COPY_BYTES_MAX, ARCHIVE_PART_BYTES, ARCHIVE_PATIENCE};
use crate::regular;
use crate::segments::{OWNER, SegmentName, SegmentsError, UPLOADING, decode_owner, encode_owner};

const MODULES: &str = "modules";
const SNAPSHOT: &str = ".snapshot";
/// The suffix of the mark for an object that already has its name but was not read back yet.
const MARK: &str = ".unread";
/// The most time for one request. A request is repeated until [`ARCHIVE_PATIENCE`] is over.
const CLIENT: [(ClientConfigKey, &str); 2] =
    [(ClientConfigKey::Timeout, "30 seconds"), (ClientConfigKey::ConnectTimeout, "5 seconds")];
const BUFFER_BYTES: usize = 1 << 20;

/// An object store, and a place in it.
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    root: Path,
    url: String,
    /// The folder, if the archive is a folder of this machine.
    folder: Option<PathBuf>,
    /// Larger objects cannot be renamed.
    copy_bytes_max: u64,
}

impl Archive {
    /// Opens an archive by its URL: `s3://bucket/prefix` with the usual environment variables (`AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`), `file:///folder`, or a folder. This
    /// sends no request yet.
    ///
    /// # Errors
    /// The URL has another scheme; a variable is missing or wrong; the folder cannot be made.
    pub fn open(url: &str) -> Result<Self, ArchiveError> {
        let wrong = |reason: String| ArchiveError::Url { url: url.to_owned(), reason };
        let parsed = Url::parse(url).ok();
        let on_disk = |folder: &FilePath| -> Result<Self, ArchiveError> {
            let (store, folder) = local(folder)?;
            Ok(Self {
                store,
                root: Path::default(),
                url: url.to_owned(),
                folder: Some(folder),
                copy_bytes_max: u64::MAX,
            })
        };
        match &parsed {
            Some(parsed) if parsed.scheme() == "s3" => {
                // The process may already have one.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let retry = RetryConfig { retry_timeout: ARCHIVE_PATIENCE, ..RetryConfig::default() };
                let builder = AmazonS3Builder::from_env().with_url(url).with_retry(retry);
                let builder = CLIENT
                    .into_iter()
                    .fold(builder, |builder, (key, value)| builder.with_config(AmazonS3ConfigKey::Client(key), value));
                let store = builder.build().map_err(|error| wrong(error.to_string()))?;
                let root = Path::from_url_path(parsed.path()).map_err(|error| wrong(error.to_string()))?;
                let copy_bytes_max = ARCHIVE_COPY_BYTES_MAX;
                Ok(Self { store: Arc::new(store), root, url: url.to_owned(), folder: None, copy_bytes_max })
            }
            Some(parsed) if parsed.scheme() == "file" => {
                on_disk(&parsed.to_file_path().map_err(|()| wrong("no path of this machine".to_owned()))?)
            }
            Some(parsed) if url.contains("://") => {
                Err(wrong(format!("`{}` is not supported: use s3://, file:// or a folder", parsed.scheme())))
            }
            _ => on_disk(FilePath::new(url)),
        }
    }

    /// An archive over a test's store that cannot rename objects larger than this.
    #[cfg(test)]
    pub fn over(store: Arc<dyn ObjectStore>, copy_bytes_max: u64) -> Self {
        Self { store, root: Path::default(), url: "memory:///".to_owned(), folder: None, copy_bytes_max }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder, if the archive is a folder of this machine.
    pub fn folder(&self) -> Option<&FilePath> {
        self.folder.as_deref()
    }

    /// Records that this is the archive of this cluster, if it has no owner.
    ///
    /// # Errors
    /// It belongs to another cluster, or cannot be reached.
    pub async fn claim(&self, cluster: ClusterId) -> Result<(), ArchiveError> {
        let text = encode_owner(cluster);
        let path = self.at([OWNER]);
        match self.store.put_opts(&path, PutPayload::from(text), PutMode::Create.into()).await {
            Ok(_) => return Ok(()),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {}
            Err(error) => return Err(self.failed(OWNER, error)),
        }
        let found = self.owner().await?;
        match found {
            Some(found) if found != cluster => Err(SegmentsError::OtherCluster {
                path: self.url.clone().into(),
                expected: cluster.to_string(),
                found: found.to_string(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// The owner of the archive; `None` if no cluster has claimed it.
    ///
    /// # Errors
    /// The archive cannot be reached, or the file is not what this program writes.
    pub async fn owner(&self) -> Result<Option<ClusterId>, ArchiveError> {
        if let Some(folder) = &self.folder {
            // Something that is not a regular file is detected here, before a read waits for it.
            match regular::open(&folder.join(OWNER)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(ArchiveError::io(&folder.join(OWNER))(error));
                }
                _ => {}
            }
        }
        let bytes = match self.store.get(&self.at([OWNER])).await {
            Ok(found) => found.bytes().await.map_err(|error| self.failed(OWNER, error))?,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed(OWNER, error)),
        };
        Ok(Some(decode_owner(&bytes, &FilePath::new(&self.url).join(OWNER))?))
    }

    /// All partitions of all machines of which anything is kept, in order.
    ///
    /// # Errors
    /// The archive cannot be reached.
    pub async fn partitions(&self) -> Result<Vec<(String, PartitionId)>, ArchiveError> {
        let mut found = Vec::new();
        for machine in self.folders(&self.root).await? {
            let Some(name) = machine.filename() else { continue };
            for partition in self.folders(&machine).await? {
                let number = partition.filename().and_then(|number| number.parse().ok());
                found.extend(number.map(|number| (name.to_owned(), PartitionId(number))));
            }
        }
        found.sort();
        Ok(found)
    }

    async fn folders(&self, path: &Path) -> Result<Vec<Path>, ArchiveError> {
        let listed = self.store.list_with_delimiter(Some(path)).await.map_err(|error| self.failed(path, error))?;
        Ok(listed.common_prefixes)
    }

    /// The modules that are kept.
    ///
    /// # Errors
    /// The archive cannot be reached.
    pub async fn modules(&self) -> Result<Vec<ModuleId>, ArchiveError> {
        let names = self.names(&self.at([MODULES])).await?;
        let id = |name: &String| name.strip_suffix(".wasm").and_then(|id| id.parse().ok());
        let mut found: Vec<ModuleId> = names.iter().filter_map(id).collect();
        found.sort();
        Ok(found)
    }

    /// The journal segments of a partition, by their first entry; of those with the same first entry the longest is
    /// last.
    ///
    /// # Errors
    /// The archive cannot be reached.
    pub async fn segments(&self, machine: &str, partition: PartitionId) -> Result<Vec<SegmentName>, ArchiveError> {
        let names = self.names_of(machine, partition).await?;
        let mut found: Vec<SegmentName> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
        found.sort();
        Ok(found)
    }

    /// The names of the canonical snapshots of a partition, in order.
    ///
    /// # Errors
    /// The archive cannot be reached.
    pub async fn snapshots(&self, machine: &str, partition: PartitionId) -> Result<Vec<String>, ArchiveError> {
        let mut names = self.names_of(machine, partition).await?;
        names.retain(|name| name.ends_with(SNAPSHOT));
        names.sort();
        Ok(names)
    }

    /// The names of the objects that were read back.
    async fn names_of(&self, machine: &str, partition: PartitionId) -> Result<Vec<String>, ArchiveError> {
        let mut names = self.names(&self.of(machine, partition)).await?;
        if self.copy_bytes_max < u64::MAX {
            // Marks are listed after names. A mark that is gone was there before the name, so the object was since read
            // back.
            let marks = self.names(&self.uploading(machine, partition)).await?;
            names.retain(|name| !marks.iter().any(|mark| mark.strip_suffix(MARK) == Some(name)));
        }
        Ok(names)
    }

    async fn names(&self, folder: &Path) -> Result<Vec<String>, ArchiveError> {
        let listed = self.store.list_with_delimiter(Some(folder)).await;
        let objects = listed.map_err(|error| self.failed(folder, error))?.objects;
        Ok(objects.iter().filter_map(|object| object.location.filename().map(str::to_owned)).collect())
    }

    /// Keeps a file of a partition: reads it back, then gives it its name. Stores cannot rename an object larger than
    /// [`ARCHIVE_COPY_BYTES_MAX`]. Such an object has its name at once, and a mark hides it from lists until it was
    /// read back.
    ///
    /// # Errors
    /// The file cannot be read; or the archive cannot be reached, or does not return what it was given. The file then
    /// has no name.
    pub async fn keep(&self, machine: &str, partition: PartitionId, file: &FilePath) -> Result<u64, ArchiveError> {
        let name = file.file_name().and_then(|name| name.to_str()).expect("files of the archive have plain names");
        let path = self.of(machine, partition).join(name);
        let bytes = tokio::fs::metadata(file).await.map_err(ArchiveError::io(file))?.len();
        let uploading = self.uploading(machine, partition);
        if self.copy_bytes_max < bytes {
            let mark = uploading.join(format!("{name}{MARK}"));
            self.store.put(&mark, PutPayload::new()).await.map_err(|error| self.failed(&mark, error))?;
            self.upload(&path, file).await?;
            self.delete(&mark).await?;
        } else {
            let uploaded = uploading.join(name);
            self.upload(&uploaded, file).await?;
            self.give_name(&uploaded, &path).await?;
        }
        Ok(bytes)
    }

    /// Keeps a module, after it was read back.
    ///
    /// # Errors
    /// The same as for [`Self::keep`].
    pub async fn keep_module(&self, id: ModuleId, wasm: Vec<u8>) -> Result<(), ArchiveError> {
        assert_eq!(ModuleId::of(&wasm), id);
        let name = format!("{id}.wasm");
        let (hash, wasm) = (blake3::hash(&wasm), PutPayload::from(wasm));
        let uploaded = self.at([UPLOADING]).join(name.as_str());
        self.store.put(&uploaded, wasm).await.map_err(|error| self.failed(&uploaded, error))?;
        self.check(&uploaded, hash).await?;
        self.give_name(&uploaded, &self.at([MODULES]).join(name)).await
    }

    async fn give_name(&self, uploaded: &Path, name: &Path) -> Result<(), ArchiveError> {
        self.store.rename(uploaded, name).await.map_err(|error| self.failed(name, error))
    }

    /// Removes what an unfinished upload of this partition has left.
    ///
    /// # Errors
    /// The archive cannot be reached.
    pub async fn clear(&self, machine: &str, partition: PartitionId) -> Result<(), ArchiveError> {
        let folder = self.uploading(machine, partition);
        for name in self.names(&folder).await? {
            if let Some(marked) = name.strip_suffix(MARK) {
                self.delete(&self.of(machine, partition).join(marked)).await?;
            }
            self.delete(&folder.clone().join(name)).await?;
        }
        Ok(())
    }

    async fn upload(&self, path: &Path, file: &FilePath) -> Result<(), ArchiveError> {
        let mut reader = tokio::fs::File::open(file).await.map_err(ArchiveError::io(file))?;
        let upload = self.store.put_multipart(path).await.map_err(|error| self.failed(path, error))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, ARCHIVE_PART_BYTES);
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; BUFFER_BYTES]);
        loop {
            let read = reader.read(&mut buffer).await.map_err(ArchiveError::io(file));
            let ready = match read {
                Ok(0) => break,
                Ok(read) => upload.wait_for_capacity(1).await.map(|()| read).map_err(|error| self.failed(path, error)),
                Err(error) => Err(error),
            };
            let size = match ready {
                Ok(size) => size,
                Err(error) => {
                    // The bytes that were sent have no name. If the upload cannot even be aborted, the store's own
                    // rules remove it.
                    let _ = upload.abort().await;
                    return Err(error);
                }
            };
            hasher.update(&buffer[..size]);
            upload.write(&buffer[..size]);
        }
        upload.finish().await.map_err(|error| self.failed(path, error))?;
        self.check(path, hasher.finalize()).await
    }

    /// Checks that the object has the bytes that it was given.
    async fn check(&self, path: &Path, expected: blake3::Hash) -> Result<(), ArchiveError> {
        let mut hasher = blake3::Hasher::new();
        self.read(path, |chunk| {
            hasher.update(chunk);
        })
        .await?;
        if hasher.finalize() == expected {
            return Ok(());
        }
        Err(ArchiveError::NotKept { url: self.url.clone(), object: path.to_string() })
    }

    async fn read(&self, path: &Path, mut on_chunk: impl FnMut(&[u8])) -> Result<(), ArchiveError> {
        let found = self.store.get(path).await.map_err(|error| self.failed(path, error))?;
        let mut stream = found.into_stream();
        while let Some(chunk) = stream.try_next().await.map_err(|error| self.failed(path, error))? {
            on_chunk(&chunk);
        }
        Ok(())
    }

    /// The last bytes of a file of a partition, or all of it if it is shorter.
    pub(super) async fn read_end(
        &self,
        machine: &str,
        partition: PartitionId,
        name: &str,
        bytes: u64,
    ) -> Result<Bytes, ArchiveError> {
        let path = self.of(machine, partition).join(name);
        let end = GetOptions { range: Some(GetRange::Suffix(bytes)), ..GetOptions::default() };
        let failed = |error| self.failed(&path, error);
        self.store.get_opts(&path, end).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// Removes a file of a partition whose entries another file has as well.
    ///
    /// # Errors
    /// The archive cannot be reached.
    pub async fn remove(&self, machine: &str, partition: PartitionId, name: &str) -> Result<(), ArchiveError> {
        self.delete(&self.of(machine, partition).join(name)).await
    }

    async fn delete(&self, path: &Path) -> Result<(), ArchiveError> {
        match self.store.delete(path).await {
            Err(StoreError::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(self.failed(path, error)),
        }
    }

    /// Downloads a file of a partition into a folder, completely or not at all. Its content is not checked.
    ///
    /// # Errors
    /// An error of the disk, or the archive cannot be reached.
    pub async fn fetch(
        &self,
        machine: &str,
        partition: PartitionId,
        name: &str,
        folder: &FilePath,
    ) -> Result<u64, ArchiveError> {
        self.download(&self.of(machine, partition).join(name), folder, name).await
    }

    /// Downloads a module into a folder.
    ///
    /// # Errors
    /// The same as for [`Self::fetch`].
    pub async fn fetch_module(&self, id: ModuleId, folder: &FilePath) -> Result<u64, ArchiveError> {
        let name = format!("{id}.wasm");
        self.download(&self.at([MODULES]).join(name.as_str()), folder, &name).await
    }

    async fn download(&self, path: &Path, folder: &FilePath, name: &str) -> Result<u64, ArchiveError> {
        let io = || ArchiveError::io(folder);
        let mut builder = tokio::fs::DirBuilder::new();
        builder.recursive(true).mode(PRIVATE_FOLDER).create(folder).await.map_err(io())?;
        let temporary = tempfile::NamedTempFile::new_in(folder).map_err(io())?;
        let mut file = tokio::fs::File::from_std(temporary.reopen().map_err(io())?);
        let found = self.store.get(path).await.map_err(|error| self.failed(path, error))?;
        let mut stream = found.into_stream();
        let mut bytes = 0;
        while let Some(chunk) = stream.try_next().await.map_err(|error| self.failed(path, error))? {
            file.write_all(&chunk).await.map_err(io())?;
            bytes += chunk.len() as u64;
        }
        file.sync_all().await.map_err(io())?;
        temporary.persist(folder.join(name)).map_err(|error| io()(error.error))?;
        Ok(bytes)
    }

    fn at<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> Path {
        parts.into_iter().fold(self.root.clone(), |path, part| path.join(part))
    }

    fn of(&self, machine: &str, partition: PartitionId) -> Path {
        self.at([machine, &partition.to_string()])
    }

    fn uploading(&self, machine: &str, partition: PartitionId) -> Path {
        self.at([UPLOADING, machine, &partition.to_string()])
    }

    fn failed(&self, object: impl std::fmt::Display, source: StoreError) -> ArchiveError {
        ArchiveError::Store { url: self.url.clone(), object: object.to_string(), source }
    }
}

fn local(folder: &FilePath) -> Result<(Arc<dyn ObjectStore>, PathBuf), ArchiveError> {
    durable::create_dir_all(folder).map_err(ArchiveError::io(folder))?;
    let folder = folder.canonicalize().map_err(ArchiveError::io(folder))?;
    let store = LocalFileSystem::new_with_prefix(&folder);
    let wrong = |error: StoreError| ArchiveError::Url { url: folder.display().to_string(), reason: error.to_string() };
    Ok((Arc::new(store.map_err(wrong)?.with_fsync(true)), folder))
}
