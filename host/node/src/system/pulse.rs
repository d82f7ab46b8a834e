//! The pulse: a durable counter that rises each second in which this node has acknowledged something; and what was
//! heard of the others' counters.
//!
//! ```text
//! this node: acknowledges ─▶ counter + 1, durable ─▶ every peer is told, with what its logs hold and how it has voted
//! at boot:   a peer heard n ─ more than on disk ─▶ the disk was set back
//!                           ├ as on disk, give or take one ─▶ what it has seen of this node is all there was
//!                           └ less, by more than one ─▶ it has not seen the end: ask further
//! ```
//! The file `pulse` in the data folder is a [`SmallFile`].
//!
//! The counter is told only once it is durable, so a disk never has less than a peer has heard, unless it was set back.
//! A damaged file has lost both: then the counter is 0, which is less than any peer has heard. It does not know what is
//! done about a disk that was set back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use parking_lot::Mutex;

use crate::data_folder::SmallFile;
use crate::disk::Disk;
use crate::ids::{NodeId, Term};
use crate::log::{EntryId, Vote};
use crate::peer::GroupName;
use crate::system::error::NodeError;

const NAME: &str = "pulse";
const MAGIC: [u8; 8] = *b"SHPULSE\0";

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Content {
    #[n(0)]
    own: u64,
    /// By node.
    #[n(1)]
    heard: BTreeMap<u64, Heard>,
}

/// What another node has told about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Heard {
    #[n(0)]
    pulse: u64,
    #[n(1)]
    votes: Vec<GroupVote>,
}

/// How a node has voted in a group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupVote {
    #[n(0)]
    pub machine: String,
    #[n(1)]
    pub partition: u32,
    #[n(2)]
    pub vote: VoteTold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct VoteTold {
    #[n(0)]
    term: u64,
    #[n(1)]
    node: Option<u64>,
    #[n(2)]
    is_committed: bool,
}

impl From<Vote> for VoteTold {
    fn from(vote: Vote) -> Self {
        Self { term: vote.term.0, node: vote.node.map(|node| node.0), is_committed: vote.committed }
    }
}

impl From<VoteTold> for Vote {
    fn from(told: VoteTold) -> Self {
        Self { term: Term(told.term), node: told.node.map(NodeId), committed: told.is_committed }
    }
}

/// What a replica has acknowledged: its last durable entry, and its vote.
pub type Mark = (Option<EntryId>, Option<Vote>);

/// The node's pulse and what it has heard, with the file, which only this type writes.
pub struct Pulse {
    file: SmallFile<Content>,
    state: Mutex<PulseState>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

struct PulseState {
    /// INVARIANT: `own` is on disk.
    content: Content,
    written: Content,
    /// The highest counter that others have heard from this node.
    heard_of_me: u64,
    /// The counter when this node last had every replica open, or when it started.
    all_open_at: u64,
    /// The counter when a replica was last open, since the node started.
    open_at: BTreeMap<GroupName, u64>,
    /// What was acknowledged when the counter last rose.
    marks: BTreeMap<GroupName, Mark>,
    /// Votes of the round before. A vote that is the same one round later is certainly on disk.
    votes_before: BTreeMap<GroupName, Vote>,
    votes: BTreeMap<GroupName, Vote>,
}

impl Pulse {
    /// # Errors
    /// The file cannot be read, or was written by a later program.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path) -> Result<Self, NodeError> {
        let file = SmallFile::<Content>::new(disk, folder, NAME, MAGIC);
        let content =
            file.read_or_make_anew("this node's counter is lost, and the other nodes must confirm what its logs held")?;
        let (open_at, marks, votes_before, votes) = Default::default();
        let (written, all_open_at) = (content.clone(), content.own);
        let state = PulseState { content, written, heard_of_me: 0, all_open_at, open_at, marks, votes_before, votes };
        Ok(Self { file, state: Mutex::new(state), writing: Mutex::default() })
    }

    /// The counter on this node's disk.
    pub fn own(&self) -> u64 {
        self.state.lock().content.own
    }

    /// The counter up to which a replica may have acknowledged anything. While it is closed, other replicas raise the
    /// counter, and nobody is told.
    pub fn own_of(&self, group: &GroupName) -> u64 {
        let state = self.state.lock();
        state.open_at.get(group).copied().unwrap_or(0).max(state.all_open_at)
    }

    /// The counter to tell the others. Call it only while all replicas are open.
    pub fn tell(&self) -> u64 {
        let mut state = self.state.lock();
        state.all_open_at = state.content.own;
        state.content.own
    }

    /// Whether all that was heard is on disk.
    #[cfg(test)]
    pub fn is_written(&self) -> bool {
        let state = self.state.lock();
        state.content == state.written
    }

    /// Whether this node ever had anything to tell, or heard anything.
    pub fn is_used(&self) -> bool {
        self.state.lock().content != Content::default()
    }

    /// What was last heard of another node's counter; 0 if nothing was.
    pub fn heard(&self, node: NodeId) -> u64 {
        self.state.lock().content.heard.get(&node.0).map_or(0, |heard| heard.pulse)
    }

    /// The highest vote that another node was heard to have given in a group.
    pub fn voted(&self, node: NodeId, group: &GroupName) -> Option<Vote> {
        let state = self.state.lock();
        let heard = state.content.heard.get(&node.0)?;
        heard.votes.iter().find(|vote| vote.is_of(group)).map(|vote| vote.vote.into())
    }

    /// Notes the counter and the votes that another node tells.
    pub fn on_told(&self, node: NodeId, pulse: u64, votes: impl IntoIterator<Item = GroupVote>) {
        let mut state = self.state.lock();
        let heard = state.content.heard.entry(node.0).or_default();
        heard.pulse = heard.pulse.max(pulse);
        for told in votes {
            let is_same = |known: &GroupVote| known.machine == told.machine && known.partition == told.partition;
            match heard.votes.iter_mut().find(|known| is_same(known)) {
                Some(known) if Vote::from(known.vote).order() < Vote::from(told.vote).order() => *known = told,
                Some(_) => {}
                None => heard.votes.push(told),
            }
        }
    }

    /// Notes what another node has heard of this one's counter.
    pub fn on_heard_of_me(&self, pulse: u64) {
        let mut state = self.state.lock();
        state.heard_of_me = state.heard_of_me.max(pulse);
    }

    /// Whether others have heard more than the disk has, which means that it was set back.
    pub fn is_behind(&self) -> bool {
        let state = self.state.lock();
        state.content.own < state.heard_of_me
    }

    /// Notes what the open replicas have acknowledged by now; once in each round.
    pub fn on_round(&self, marks: &BTreeMap<GroupName, Mark>) {
        let mut state = self.state.lock();
        let votes: BTreeMap<GroupName, Vote> =
            marks.iter().filter_map(|(group, (_, vote))| Some((group.clone(), (*vote)?))).collect();
        let is_stable = |(group, vote): &(&GroupName, &Vote)| state.votes_before.get(group) == Some(vote);
        let stable = votes.iter().filter(is_stable).map(|(group, vote)| (group.clone(), *vote)).collect();
        (state.votes, state.votes_before) = (stable, votes);
        state.note_open(marks);
    }

    /// The vote in a group that is certainly on disk.
    pub fn own_vote(&self, group: &GroupName) -> Option<Vote> {
        self.state.lock().votes.get(group).copied()
    }

    /// Makes durable what was heard before the call. With `beat`, the counter rises if anything was acknowledged since
    /// it last rose. `is_mended` says that a disk that was set back has everything again; then the counter continues
    /// after what the others have heard. Blocks. `settle` runs before anything is written, because what others have
    /// told must be on disk before this node says that it has heard them.
    ///
    /// # Errors
    /// The disk cannot be written; the counter is what it was. Or `settle` fails, before anything is written.
    pub fn write(
        &self,
        beat: Option<&BTreeMap<GroupName, Mark>>,
        is_mended: bool,
        settle: impl FnOnce() -> Result<(), NodeError>,
    ) -> Result<(), NodeError> {
        let _writing = self.writing.lock();
        let mut next = self.state.lock().content.clone();
        {
            let state = self.state.lock();
            if beat.is_some_and(|marks| *marks != state.marks) {
                next.own += 1;
            }
            if is_mended && next.own <= state.heard_of_me {
                next.own = state.heard_of_me + 1;
            }
            if next == state.written {
                return settle();
            }
        }
        settle()?;
        self.file.write(&next)?;
        let mut state = self.state.lock();
        if state.content.own < next.own
            && let Some(marks) = beat
        {
            state.marks = marks.clone();
        }
        state.content.own = next.own;
        state.written = next;
        if let Some(marks) = beat {
            state.note_open(marks);
        }
        Ok(())
    }
}

impl PulseState {
    fn note_open(&mut self, marks: &BTreeMap<GroupName, Mark>) {
        let own = self.content.own;
        self.open_at.extend(marks.keys().map(|group| (group.clone(), own)));
    }
}

impl GroupVote {
    pub fn new(group: &GroupName, vote: Vote) -> Self {
        Self { machine: group.machine.to_string(), partition: group.partition.0, vote: vote.into() }
    }

    fn is_of(&self, group: &GroupName) -> bool {
        *self.machine == *group.machine && self.partition == group.partition.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::ids::{LogIndex, PartitionId};

    const PEER: NodeId = NodeId(2);

    fn group() -> GroupName {
        GroupName::new("wallet", PartitionId(0))
    }

    fn open(disk: &SimDisk) -> Pulse {
        Pulse::open(Arc::new(disk.clone()), Path::new("/node")).expect("it can be read")
    }

    fn marks(index: u64, term: u64) -> BTreeMap<GroupName, Mark> {
        let last = EntryId { term: Term(term), node: NodeId(1), index: LogIndex(index) };
        let vote = Vote { term: Term(term), node: Some(PEER), committed: true };
        BTreeMap::from([(group(), (Some(last), Some(vote)))])
    }

    #[test]
    fn the_counter_rises_only_with_what_is_acknowledged_and_is_durable_before_it_is_told() {
        let disk = SimDisk::new();
        let pulse = open(&disk);
        assert!(!pulse.is_used());
        for (marks, expected) in
            [(marks(1, 1), 1), (marks(1, 1), 1), (marks(2, 1), 2), (marks(2, 2), 3), (marks(2, 2), 3)]
        {
            pulse.write(Some(&marks), false, || Ok(())).expect("written");
            assert_eq!(pulse.own(), expected);
            assert_eq!(open(&disk.copy().crash(expected)).own(), expected, "it survives a power cut");
        }
    }

    #[test]
    fn what_was_heard_is_kept_and_never_falls() {
        let disk = SimDisk::new();
        let pulse = open(&disk);
        let vote = |term: u64| Vote { term: Term(term), node: Some(PEER), committed: false };
        pulse.on_told(PEER, 7, [GroupVote::new(&group(), vote(3))]);
        pulse.on_told(PEER, 5, [GroupVote::new(&group(), vote(2))]);
        let mut settled = false;
        pulse
            .write(None, false, || {
                settled = true;
                Ok(())
            })
            .expect("written");
        assert!(settled, "what was told is on disk first");
        let pulse = open(&disk.crash(1));
        assert_eq!((pulse.heard(PEER), pulse.heard(NodeId(3))), (7, 0));
        assert_eq!(pulse.voted(PEER, &group()), Some(vote(3)));
    }

    #[test]
    fn a_vote_is_told_once_it_has_stood_for_a_round() {
        let pulse = open(&SimDisk::new());
        pulse.on_round(&marks(1, 1));
        assert_eq!(pulse.own_vote(&group()), None);
        pulse.on_round(&marks(2, 1));
        assert_eq!(pulse.own_vote(&group()).map(|vote| vote.term), Some(Term(1)));
        pulse.on_round(&marks(2, 2));
        assert_eq!(pulse.own_vote(&group()), None);
    }

    #[test]
    fn a_disk_that_was_set_back_goes_on_after_what_others_have_heard() {
        let pulse = open(&SimDisk::new());
        pulse.on_heard_of_me(40);
        assert!(pulse.is_behind());
        pulse.write(Some(&marks(1, 1)), false, || Ok(())).expect("written");
        assert!(pulse.is_behind(), "not before it has everything");
        pulse.write(None, true, || Ok(())).expect("written");
        assert_eq!((pulse.own(), pulse.is_behind()), (41, false));
    }

    /// What one replica acknowledges after a start says nothing about another one that is not open yet.
    #[test]
    fn a_replica_is_vouched_for_by_the_counter_of_when_it_was_last_open() {
        let disk = SimDisk::new();
        let other = GroupName::new("system", PartitionId(0));
        let marks_of = |group: &GroupName, index| BTreeMap::from([(group.clone(), marks(index, 1)[&self::group()])]);
        let pulse = open(&disk);
        let beat = |pulse: &Pulse, marks: BTreeMap<GroupName, Mark>| {
            pulse.on_round(&marks);
            pulse.write(Some(&marks), false, || Ok(())).expect("written");
        };
        (1..=8).for_each(|index| beat(&pulse, marks_of(&group(), index)));
        assert_eq!((pulse.own(), pulse.own_of(&group())), (8, 8));
        let pulse = open(&disk.crash(1));
        (10..=20).for_each(|index| beat(&pulse, marks_of(&other, index)));
        assert_eq!((pulse.own(), pulse.own_of(&group()), pulse.own_of(&other)), (19, 8, 19));
        beat(&pulse, marks_of(&other, 21).into_iter().chain(marks_of(&group(), 21)).collect());
        assert_eq!(pulse.own_of(&group()), 20, "it is open");
        beat(&pulse, marks_of(&other, 22));
        assert_eq!((pulse.own(), pulse.own_of(&group())), (21, 20), "it was closed");
        assert_eq!((pulse.tell(), pulse.own_of(&group())), (21, 21), "all are open");
    }

    #[test]
    fn a_damaged_counter_is_less_than_anything() {
        let disk = SimDisk::new();
        open(&disk).write(Some(&marks(1, 1)), false, || Ok(())).expect("written");
        disk.put(&Path::new("/node").join(NAME), b"rot".to_vec());
        assert_eq!(open(&disk).own(), 0);
    }
}
