//! Uploads: whatever the store does, everything listed in the archive is complete, and the result is what an export
//! writes.
//!
//! The store is in memory and misbehaves at random: it cannot be reached, loses a part, or keeps other bytes than it
//! was given. The tests use the store's own interface, below which there is no code of ours. A failure's message has
//! its seed.

use std::fmt::{Display, Formatter};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Archive, ArchiveError, Upload};
use crate::ids::{ClusterId, JournalIndex, PartitionId};
use crate::machine::entry::Entry;
use crate::segments::kit::*;
use crate::segments::{Mirror, SegmentName, SegmentsError, SegmentsReader};

/// The faults of one upload in three, and of one request in six.
#[derive(Debug)]
struct FaultyStore {
    inner: Arc<InMemory>,
    random: Arc<Mutex<StdRng>>,
    is_faulty: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug)]
enum UploadFault {
    Nothing,
    Part,
    Bytes,
    Cut,
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    wrong: UploadFault,
}

fn unreachable() -> Error {
    Error::Generic { store: "faulty", source: "it cannot be reached".into() }
}

impl FaultyStore {
    fn ask(&self) -> Result<()> {
        let is_lost = self.is_faulty.load(Ordering::Relaxed) && self.random.lock().random_ratio(1, 6);
        if is_lost { Err(unreachable()) } else { Ok(()) }
    }
}

impl Display for FaultyStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "faulty")
    }
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut bytes: Vec<u8> = data.iter().flatten().copied().collect();
        match self.wrong {
            UploadFault::Nothing => {}
            UploadFault::Part => return Box::pin(async { Err(unreachable()) }),
            UploadFault::Bytes => bytes[0] ^= 1,
            UploadFault::Cut => bytes.truncate(bytes.len() / 2),
        }
        self.inner.put_part(bytes.into())
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.ask()?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.ask()?;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        let drawn = if self.is_faulty.load(Ordering::Relaxed) { self.random.lock().random_range(0..9) } else { 9 };
        let wrong = [UploadFault::Part, UploadFault::Bytes, UploadFault::Cut]
            .get(drawn)
            .copied()
            .unwrap_or(UploadFault::Nothing);
        Ok(Box::new(FaultyUpload { inner, wrong }))
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.ask()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.ask()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.ask()?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// Some of the segments are larger.
const COPY_BYTES_MAX: u64 = 2_000;

struct World {
    archive: Archive,
    is_faulty: Arc<AtomicBool>,
    inner: Arc<InMemory>,
    folder: tempfile::TempDir,
}

impl World {
    fn new(seed: u64) -> Self {
        let (inner, is_faulty) = (Arc::new(InMemory::new()), Arc::new(AtomicBool::new(false)));
        let random = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        let store = FaultyStore { inner: inner.clone(), random, is_faulty: is_faulty.clone() };
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { archive: Archive::over(Arc::new(store), COPY_BYTES_MAX), is_faulty, inner, folder }
    }

    fn set_faulty(&self, is_faulty: bool) {
        self.is_faulty.store(is_faulty, Ordering::Relaxed);
    }

    async fn begin(&self, spool: &str) -> std::result::Result<Upload, ArchiveError> {
        let spool = self.folder.path().join(spool);
        Upload::begin(self.archive.clone(), stream(), BOUNDARY, (JournalIndex(0), genesis().head), spool).await
    }

    /// The mirror that an audit would read. It must be complete however the store behaves.
    async fn mirror(&self) -> (tempfile::TempDir, Mirror) {
        let was_faulty = self.is_faulty.swap(false, Ordering::Relaxed);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mirror = self.archive.mirror(folder.path(), &|_| {}).await.expect("it can be reached");
        self.set_faulty(was_faulty);
        (folder, mirror)
    }

    async fn count(&self) -> u64 {
        let (_folder, mirror) = self.mirror().await;
        let Some(facts) = mirror.manifest.partitions.first() else { return 0 };
        let (count, error) = read(&mirror.folder, facts);
        assert!(error.is_none(), "{error:?}");
        count
    }
}

/// Uploads up to `count`, from wherever the upload is.
async fn go(upload: &mut Upload, entries: &[Entry], count: usize) -> std::result::Result<(), ArchiveError> {
    let sealed = usize::try_from(upload.sealed().0.0).expect("few entries");
    let mut go = upload.go()?;
    for entry in &entries[sealed..count] {
        go.push(entry).await?;
    }
    go.finish().await.map(drop)
}

#[tokio::test]
async fn whatever_the_store_does_the_archive_is_whole_and_in_the_end_that_of_an_export() {
    let entries = journal(40);
    let seeds = if is_chaos() { 100 } else { 4 };
    for seed in 0..seeds {
        let world = World::new(seed);
        world.archive.claim(CLUSTER).await.expect("it is nobody's yet");
        world.set_faulty(true);
        let mut random = StdRng::seed_from_u64(seed);
        let (mut count, mut kept, mut upload) = (0, 0, None);
        while kept < entries.len() as u64 {
            count = (count + random.random_range(1..9)).min(entries.len());
            // After a fault the upload finds out again up to where the archive has the journal, as after a crash.
            let begun = match upload.take() {
                Some(upload) => Ok(upload),
                None => world.begin("spool").await,
            };
            if let Ok(mut begun) = begun
                && go(&mut begun, &entries, count).await.is_ok()
            {
                assert_eq!(begun.last().0, count as u64, "seed {seed}");
                upload = Some(begun).filter(|_| random.random_ratio(3, 4));
            }
            let now = world.count().await;
            assert!(kept <= now && now <= count as u64, "seed {seed}: {kept}, then {now} of {count}");
            kept = now;
        }
        let (folder, mirror) = world.mirror().await;
        let exported = tempfile::tempdir().expect("a temporary folder");
        let facts = write(exported.path(), &entries, JournalIndex(0), genesis().head);
        assert_eq!(mirror.manifest.partitions, std::slice::from_ref(&facts), "seed {seed}");
        for file in &facts.files {
            let of = |folder: &Path| std::fs::read(path_of(folder, file)).expect("it is there");
            assert_eq!(of(folder.path()), of(exported.path()), "seed {seed}: {}", file.name);
        }
    }
}

#[tokio::test]
async fn two_who_upload_the_same_do_not_harm_each_other() {
    let (world, entries) = (World::new(1), journal(40));
    world.archive.claim(CLUSTER).await.expect("it is nobody's yet");
    let (mut one, mut other) =
        (world.begin("one").await.expect("it begins"), world.begin("other").await.expect("it begins"));
    for count in [3, 9, 12, 30] {
        go(&mut one, &entries, count).await.expect("it is kept");
        assert_eq!(world.count().await, count as u64);
        // An upload that lags does not remove what the other one has uploaded.
        go(&mut other, &entries, count - 2).await.expect("it is kept");
        assert_eq!(world.count().await, count as u64);
    }
}

#[tokio::test]
async fn a_last_object_that_has_rotted_is_not_gone_on_from() {
    let (world, entries) = (World::new(1), journal(40));
    world.archive.claim(CLUSTER).await.expect("it is nobody's yet");
    go(&mut world.begin("one").await.expect("it begins"), &entries, 30).await.expect("it is kept");
    let names = world.archive.segments("wallet", PartitionId(3)).await.expect("it is listed");
    let last = ObjectPath::from(format!("wallet/3/{}", names.last().expect("there is one")));
    world.inner.put(&last, PutPayload::from_static(b"half")).await.expect("memory");
    let mut upload = world.begin("two").await.expect("it begins");
    assert_eq!(upload.last(), names[names.len() - 2].last);
    go(&mut upload, &entries, 30).await.expect("it is kept");
    assert_eq!(world.count().await, 30);
}

#[tokio::test]
async fn an_archive_belongs_to_one_cluster_and_has_one_history() {
    let (world, entries) = (World::new(1), journal(20));
    let nobodys = world.archive.mirror(world.folder.path(), &|_| {}).await;
    assert!(matches!(nobodys, Err(ArchiveError::NoOwner { .. })));
    world.archive.claim(CLUSTER).await.expect("it is nobody's yet");
    world.archive.claim(CLUSTER).await.expect("it is its own");
    let others = world.archive.claim(ClusterId([8; 16])).await;
    assert!(matches!(others, Err(ArchiveError::Segments(SegmentsError::OtherCluster { .. }))), "{others:?}");
    go(&mut world.begin("one").await.expect("it begins"), &entries, 5).await.expect("it is kept");
    let names = world.archive.segments("wallet", PartitionId(3)).await.expect("it is listed");
    let forged = SegmentName { hash: "0123456789abcdef".to_owned(), ..names[0].clone() };
    let forged = ObjectPath::from(format!("wallet/3/{forged}"));
    world.inner.put(&forged, PutPayload::from_static(b"another history")).await.expect("memory");
    let (folder, uploaded) = (tempfile::tempdir().expect("a temporary folder"), world.begin("two").await);
    assert!(matches!(uploaded, Err(ArchiveError::Segments(SegmentsError::Fork { first: JournalIndex(1), .. }))));
    let mirrored = world.archive.mirror(folder.path(), &|_| {}).await;
    assert!(matches!(mirrored, Err(ArchiveError::Segments(SegmentsError::Fork { .. }))));
}

#[tokio::test]
async fn nothing_of_another_history_takes_the_place_of_what_is_there() {
    let (world, entries) = (World::new(1), journal(40));
    world.archive.claim(CLUSTER).await.expect("it is nobody's yet");
    go(&mut world.begin("one").await.expect("it begins"), &entries, 9).await.expect("it is kept");
    let before = world.archive.segments("wallet", PartitionId(3)).await.expect("it is listed");
    // The upload begins after the last sealed entry.
    let mut upload = world.begin("two").await.expect("it begins");
    let sealed = usize::try_from(upload.sealed().0.0).expect("few entries");
    let others = grow(entries[..sealed].to_vec(), 40, 2_000);
    let refused = go(&mut upload, &others, 30).await;
    assert!(matches!(refused, Err(ArchiveError::OtherHistory { index: JournalIndex(9), .. })), "{refused:?}");
    let names = world.archive.segments("wallet", PartitionId(3)).await.expect("it is listed");
    assert_eq!(names, before);
    for name in &names {
        let head = world.archive.head_after("wallet", PartitionId(3), name).await.expect("it is whole");
        assert_eq!(head, entries[usize::try_from(name.last.0).expect("few entries") - 1].head_after());
    }
}

#[tokio::test]
async fn where_the_beginning_is_gone_what_is_there_is_kept() {
    let (world, entries) = (World::new(1), journal(40));
    world.archive.claim(CLUSTER).await.expect("it is nobody's yet");
    let (spool, beginning) = (world.folder.path().join("one"), (JournalIndex(12), entries[11].head_after()));
    let mut upload =
        Upload::begin(world.archive.clone(), stream(), BOUNDARY, beginning, spool).await.expect("it begins");
    assert_eq!(upload.last(), JournalIndex(12));
    go(&mut upload, &entries, 30).await.expect("it is kept");
    let (folder, mirror) = world.mirror().await;
    let facts = &mirror.manifest.partitions[0];
    let reader = SegmentsReader::new(folder.path().to_owned(), CLUSTER, facts);
    let read: Vec<_> = reader.entries(beginning.0, beginning.1).map(|placed| placed.expect("it is whole")).collect();
    assert_eq!((read.len(), reader.first(), reader.last()), (18, Some(JournalIndex(13)), JournalIndex(30)));
}

#[tokio::test]
async fn a_reader_goes_on_in_the_segment_that_replaced_the_one_it_was_told_of() {
    let entries = journal(40);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = Archive::open(&folder.path().display().to_string()).expect("a folder");
    archive.claim(CLUSTER).await.expect("it is nobody's yet");
    let spool = tempfile::tempdir().expect("a temporary folder");
    let beginning = (JournalIndex(0), genesis().head);
    let begun = Upload::begin(archive.clone(), stream(), BOUNDARY, beginning, spool.path().join("one")).await;
    let mut upload = begun.expect("it begins");
    let mut sealed = upload.sealed();
    let mut at = 0;
    // Continues to an entry after which no segment is sealed at once.
    while upload.last().0 == sealed.0.0 || at < 5 {
        at += 1;
        go(&mut upload, &entries, at).await.expect("it is kept");
        sealed = upload.sealed();
    }
    let mirror = archive.mirror(Path::new("unused"), &|_| {}).await.expect("it is listed");
    let listed = mirror.manifest.partitions[0].clone();
    go(&mut upload, &entries, at + 1).await.expect("it is kept");
    assert!(!path_of(folder.path(), listed.files.last().expect("there is one")).exists());
    let (count, error) = read(folder.path(), &listed);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(count, at as u64);
}

#[test]
fn a_url_says_which_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("archive");
    for url in [path.display().to_string(), format!("file://{}", path.display())] {
        let archive = Archive::open(&url).expect("a folder");
        assert_eq!(archive.folder(), path.canonicalize().ok().as_deref(), "{url}");
    }
    let archive = Archive::open("s3://bucket/some/prefix").expect("nothing is asked of it yet");
    assert_eq!(archive.folder(), None);
    for (url, expected) in
        [("gs://bucket", "`gs` is not supported"), ("http://host/x", "use s3://, file:// or a folder")]
    {
        let error = Archive::open(url).map(drop).expect_err(url).to_string();
        assert!(error.contains(expected), "{url}: {error}");
    }
}
