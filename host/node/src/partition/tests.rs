//! What a partition does with damaged state and ids: it makes them again from its log, or says why it cannot.
//!
//! The partition runs the machine `system` natively, on files in a temporary folder that are damaged between two
//! starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use statehouse_abi::cold::RenderItem;
use statehouse_abi::role;
use statehouse_abi::value::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::SystemClock;
use crate::disk::RealDisk;
use crate::features::{self, Features};
use crate::ids::{CommandId, JournalIndex, ModuleId, NodeId, PartitionId};
use crate::limits::SNAPSHOTS_ASKED_MAX;
use crate::log::EntryId;
use crate::machine::entry::{Activation, Part};
use crate::machine::logic::Logic;
use crate::machine::modules::Modules;
use crate::machine::native::NativeLogic;
use crate::machine::replica::is_key_of;
use crate::partition::tail::{Bound, Place, Start, Tail};
use crate::partition::{
    Answered, Leading, Needed, Participants, Partition, PartitionError, PartitionOptions, Remembered,
};
use crate::peer::{GroupName, GroupPeers, NoNetwork, SeenEntries};
use crate::records::command::SystemCommand;
use crate::router::answer::{Answer, Caller, CommandRequest, Unavailability, UnavailableReason};
use crate::router::{Machine, MachineOptions};
use crate::sequencer::submission::UnticketedSubmission;
use crate::store::{StoreOptions, StoreShared};
use crate::system::logic::{SYSTEM, System};

mod closing;
mod confirm_only;
mod holds;
mod jars;
mod leader;
mod timelines;
mod orders;
mod pressure;
mod released;
mod steps;

/// Provides a single module.
struct Only(Arc<dyn Logic>);

impl Modules for Only {
    fn load(&self, id: ModuleId) -> Result<Arc<dyn Logic>, String> {
        if id == self.0.id() { Ok(self.0.clone()) } else { Err("unknown".to_owned()) }
    }

    fn find_here(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.load(id).ok()
    }

    fn find_loaded(&self, id: ModuleId) -> Option<Arc<dyn Logic>> {
        self.load(id).ok()
    }
}

/// A node that has seen nothing of any other node.
struct Nobody;

impl SeenEntries for Nobody {
    fn on_durable(&self, _: NodeId, _: &GroupName, _: EntryId) {}

    fn held(&self, _: NodeId, _: &GroupName) -> Option<EntryId> {
        None
    }
}

struct NoOthers;

impl Participants for NoOthers {
    fn call(&self, _: PartitionId, calls: Vec<UnticketedSubmission>) -> BoxFuture<'static, Vec<Option<Answered>>> {
        async move { vec![None; calls.len()] }.boxed()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(180)
}

fn options(folder: &Path) -> PartitionOptions {
    PartitionOptions {
        cluster: [7; 16],
        node: NodeId(1),
        machine: SYSTEM.to_owned(),
        partition: PartitionId(0),
        folder: folder.to_owned(),
        disk: Arc::new(RealDisk),
        clock: Arc::new(SystemClock),
        modules: Arc::new(Only(Arc::new(NativeLogic::<System>::new()))),
        store: StoreOptions::new(StoreShared::new(1 << 20)),
        peers: GroupPeers {
            network: Arc::new(NoNetwork),
            group: GroupName::new(SYSTEM, PartitionId(0)),
            seen: Arc::new(Nobody),
        },
        participants: Arc::new(NoOthers),
        founders: vec![NodeId(1)],
        stands: true,
        remembered: Remembered::default(),
        had_entries: false,
        is_given_up: false,
        log_keep_bytes: None,
        snapshot_every_bytes: None,
        leading: Leading::Decides,
        features: Features::at(features::HIGHEST),
        past: None,
    }
}

async fn try_open(folder: &Path) -> Result<Arc<Partition>, PartitionError> {
    open_with(options(folder)).await
}

async fn open_with(options: PartitionOptions) -> Result<Arc<Partition>, PartitionError> {
    let partition = Partition::open(options).await?;
    partition.wait_for_leader(soon()).await?;
    Ok(partition)
}

async fn open(folder: &Path) -> Arc<Partition> {
    try_open(folder).await.unwrap_or_else(|error| panic!("the partition opens: {error}"))
}

/// The content of a partition: its state, its place in the journal, and where each id is recorded.
#[derive(Debug, PartialEq)]
struct Content {
    digest: [u8; 32],
    journal: JournalIndex,
    ids: BTreeMap<CommandId, Option<(JournalIndex, u32)>>,
}

async fn content(partition: &Partition, ids: &[CommandId]) -> Content {
    let point = partition.read_linearizable(soon()).await.expect("it can be read");
    let digest = point.view.state_digest().expect("every row can be read").0;
    let find = |id: &CommandId| partition.find_id(*id).expect("ids can be read").map(|found| (found.journal, found.n));
    Content { digest, journal: point.journal.index, ids: ids.iter().map(|id| (*id, find(id))).collect() }
}

/// Creates machines with these numbers, each by its own command; activates the module first if the partition is empty.
async fn create(partition: &Arc<Partition>, numbers: std::ops::Range<u8>) -> Vec<CommandId> {
    let logic: Arc<dyn Logic> = Arc::new(NativeLogic::<System>::new());
    if numbers.start == 0 {
        let activation = Activation { module: logic.id(), schema: logic.describe().schema, number: 0 };
        partition.activate(activation, soon()).await.expect("it activates");
    }
    let mut ids = Vec::new();
    for number in numbers {
        let answer = ask(partition, number).await;
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
        ids.push(id_of(number));
    }
    ids
}

fn id_of(number: u8) -> CommandId {
    CommandId([number + 1; 16])
}

/// The command that creates the machine with this number.
fn creation(number: u8) -> SystemCommand {
    let (name, module) = (format!("machine-{number}"), ModuleId::of(&[number]));
    SystemCommand::CreateMachine { name, partitions: 1, module }
}

/// Asks for the machine with this number.
async fn ask(partition: &Arc<Partition>, number: u8) -> Answer {
    let logic: Arc<dyn Logic> = Arc::new(NativeLogic::<System>::new());
    let machine = Machine::new(MachineOptions {
        name: SYSTEM.to_owned(),
        partition_count: 1,
        modules: Arc::new(Only(logic.clone())),
        active: logic,
        clock: Arc::new(SystemClock),
        node: NodeId(1),
        network: Arc::new(NoNetwork),
        nodes: watch::Sender::new(vec![NodeId(1)]).subscribe(),
        answering: watch::Sender::default().subscribe(),
        features: Features::at(features::HIGHEST),
    });
    drop(machine.set_replica(PartitionId(0), Ok(partition.clone())));
    let (command, body) = creation(number).to_body();
    let request = CommandRequest {
        command: command.into(),
        body: body.to_cbor().expect("no integer over 64 bits"),
        id: id_of(number),
        caller: Arc::new(Caller::unbound("test", role::ALL)),
        request_id: "test".into(),
        deadline: soon(),
    };
    machine.submit(vec![request]).await.pop().expect("one answer")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<_> = files.map(|file| file.expect("it can be listed").path()).collect();
    files.sort_unstable();
    files
}

fn file(folder: &Path, part: &str) -> PathBuf {
    let found = files(folder).into_iter().find(|path| path.to_string_lossy().contains(part));
    found.unwrap_or_else(|| panic!("no file like {part} in {}", folder.display()))
}

/// Flips one bit, at this share of the file in per mille.
fn flip(path: &Path, share: usize) {
    let mut content = std::fs::read(path).expect("it can be read");
    let position = (content.len() - 1) * share / 1000;
    content[position] ^= 4;
    std::fs::write(path, content).expect("it can be written");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for path in files(from) {
        std::fs::copy(&path, to.join(path.file_name().expect("it has a name"))).expect("copied");
    }
}

type Damage = (&'static str, Box<dyn Fn(&Path)>);

fn damages() -> Vec<Damage> {
    let mut damages: Vec<Damage> = Vec::new();
    for share in [0, 10, 100, 300, 500, 900, 990, 1000] {
        damages.push(("rows", Box::new(move |folder| flip(&file(&folder.join("state/rocks"), ".sst"), share))));
        damages.push(("ids' manifest", Box::new(move |folder| flip(&file(&folder.join("ids"), "manifest"), share))));
        damages.push(("a run of ids", Box::new(move |folder| flip(&file(&folder.join("ids"), "run-"), share))));
    }
    for share in [0, 500, 900] {
        damages.push(("MANIFEST", Box::new(move |folder| flip(&file(&folder.join("state/rocks"), "MANIFEST"), share))));
        damages.push((
            "a shorter MANIFEST",
            Box::new(move |folder| {
                let path = file(&folder.join("state/rocks"), "MANIFEST");
                let content = std::fs::read(&path).expect("it can be read");
                std::fs::write(&path, &content[..content.len() * share / 1000]).expect("it can be written");
            }),
        ));
        damages.push(("CURRENT", Box::new(move |folder| flip(&folder.join("state/rocks/CURRENT"), share))));
    }
    let remove = |path: &Path| std::fs::remove_file(path).expect("removed");
    damages.push(("no rows", Box::new(move |folder| remove(&file(&folder.join("state/rocks"), ".sst")))));
    damages.push(("no CURRENT", Box::new(move |folder| remove(&folder.join("state/rocks/CURRENT")))));
    damages.push(("no state", Box::new(|folder| std::fs::remove_dir_all(folder.join("state")).expect("removed"))));
    damages.push(("no ids", Box::new(|folder| std::fs::remove_dir_all(folder.join("ids")).expect("removed"))));
    damages
}

/// Opens the partition, and opens it again if damage shows only when it is read: the next start repairs it.
async fn check_same(folder: &Path, ids: &[CommandId], expected: &Content, what: &str) {
    let partition = open(folder).await;
    let is_readable = partition.read_stale().expect("it stands somewhere").view.state_digest().is_ok()
        && ids.iter().all(|id| partition.find_id(*id).is_ok());
    if is_readable {
        assert_eq!(content(&partition, ids).await, *expected, "{what}");
        partition.close().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        return;
    }
    // Data that could not be read may have stopped the writers too.
    drop(partition.close().await);
    drop(partition);
    let partition = open(folder).await;
    assert_eq!(content(&partition, ids).await, *expected, "{what}: after the second start");
    partition.close().await.unwrap_or_else(|error| panic!("{what}: {error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_state_and_ids_are_made_again_from_the_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let partition = open(folder.path()).await;
    let ids = create(&partition, 0..30).await;
    let expected = content(&partition, &ids).await;
    assert!(expected.ids.values().all(Option::is_some));
    partition.close().await.expect("closes");
    drop(partition);
    for (number, (what, damage)) in damages().iter().enumerate() {
        damage(folder.path());
        check_same(folder.path(), &ids, &expected, &format!("{number}: {what}")).await;
    }
    assert!(folder.path().join("state.damaged").exists(), "the damaged state is kept for whoever wants to look");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_behind_the_state_is_opened_only_once_what_it_lost_is_given_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("log");
    let partition = open(folder.path()).await;
    let mut ids = create(&partition, 0..10).await;
    let earlier = content(&partition, &ids).await;
    partition.close().await.expect("closes");
    drop(partition);
    copy(&log, &folder.path().join("earlier"));

    let partition = open(folder.path()).await;
    ids.extend(create(&partition, 10..20).await);
    partition.close().await.expect("closes");
    drop(partition);
    std::fs::remove_dir_all(&log).expect("removed");
    copy(&folder.path().join("earlier"), &log);

    for _ in 0..2 {
        let refused = try_open(folder.path()).await.err().expect("entries were lost").to_string();
        for word in ["has lost acknowledged entries", "ends at", "the state is at"] {
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
    let given_up = PartitionOptions { is_given_up: true, ..options(folder.path()) };
    let partition = open_with(given_up).await.unwrap_or_else(|error| panic!("it opens: {error}"));
    assert_eq!(content(&partition, &ids[..10]).await, earlier);
    for id in &ids[10..] {
        assert_eq!(partition.find_id(*id).expect("ids can be read"), None, "what the log lost is not known any more");
    }
    assert_eq!(create(&partition, 10..11).await.len(), 1, "it goes on");
    partition.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_are_asked_for_are_made_in_turn_and_only_so_many_wait() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let partition = open(folder.path()).await;
    create(&partition, 0..1).await;
    let together = join_all((0..SNAPSHOTS_ASKED_MAX).map(|_| partition.take_canonical())).await;
    let first = partition.canonical_snapshots().pop().expect("it was made");
    assert!(together.iter().all(|taken| taken.as_ref().is_ok_and(|taken| *taken == first)), "{together:?}");
    // A request that is answered has given its place back.
    for number in 1..20 {
        create(&partition, number..number + 1).await;
        partition.take_canonical().await.unwrap_or_else(|error| panic!("number {number}: {error}"));
    }
    assert_eq!(partition.canonical_snapshots().len(), 20);
    create(&partition, 20..21).await;
    // What is kept here is not a state, so no file can be made from it. It is tried again after a minute.
    let due = format!("canonical/due-{:012}", partition.progress().journal.index.0);
    std::fs::create_dir(folder.path().join(due)).expect("the folder is ours");
    for _ in 0..SNAPSHOTS_ASKED_MAX {
        let taken = partition.take_canonical().await;
        assert!(matches!(taken, Err(PartitionError::Canonical(_))), "{taken:?}");
    }
    create(&partition, 21..22).await;
    let refused = partition.take_canonical().await.expect_err("all places are taken");
    assert!(matches!(refused, PartitionError::SnapshotsAsked), "{refused}");
    assert_eq!(partition.canonical_snapshots().len(), 20);
    partition.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_shows_commands_as_they_are_applied() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let partition = open(folder.path()).await;
    let mut tail = Tail::open(&partition, Start::Genesis, soon()).await.expect("it runs");
    let ids = create(&partition, 0..5).await;
    let mut shown = Vec::new();
    let mut from_third = None;
    while shown.len() < ids.len() {
        let entry = tail.next().await.expect("it runs");
        for command in entry.commands() {
            let decider = tail.decider(&entry).await.expect("it is here");
            assert_eq!((command.command.caller, command.command.request_id), ("test", "test"));
            assert_eq!((command.command.name, command.part()), ("create_machine", Part::Whole));
            assert!(command.rejection().is_none());
            for (n, event) in (0..).zip(command.events()) {
                assert_eq!((event.position().index, event.position().n), (entry.index(), command.position().n + n));
                let items = [RenderItem::Event(event.facts())];
                assert_eq!(decider.render(&items).expect("it renders its own").len(), 1);
                assert!(event.keys().any(|key| is_key_of(key, event.entity)));
            }
            assert_eq!(
                partition.find_id(command.id()).expect("ids can be read").map(|at| at.journal),
                Some(entry.index())
            );
            shown.push(command.id());
        }
        if shown.len() == 3 {
            from_third = Some((entry.position(), entry.index()));
        }
    }
    assert_eq!(shown, ids, "in the order of the journal");
    partition.close().await.expect("closes");
    assert!(tail.next().await.is_err(), "it says that nothing more comes");
    let closed = Arc::downgrade(&partition);
    drop(partition);
    assert!(closed.upgrade().is_none(), "a tail keeps no partition open");

    let partition = open(folder.path()).await;
    let (position, index) = from_third.expect("each command was an entry");
    let mut tail = Tail::open(&partition, Start::After(position), soon()).await.expect("the journal is the same");
    assert_eq!(tail.next().await.expect("it runs").index(), index.next());
    partition.close().await.expect("closes");
}
