//! The node's own record: which replicas have had entries here, and what an operator has given up here. It exists
//! before the node knows anything of its cluster, and it still exists when a partition's folder is gone.
//!
//! The file `record` in the data folder is a [`SmallFile`].
//!
//! Every change is durable on return. If the file is damaged, the node logs that and begins a new one: what it knew is
//! evidence, and no node needs it to serve. The record does not know what follows from its content.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::data_folder::{GivenUp, RecordContent, RecordedClaim, SmallFile, record_file};
use crate::disk::Disk;
use crate::ids::{NodeId, PartitionId};
use crate::limits::LOSS_TEXT_CHARS_MAX;
use crate::peer::GroupName;
use crate::system::error::NodeError;
use crate::system::loss_row::AcceptedLoss;

/// The word of an operator as `system` records it, for this node.
pub fn loss_of(word: &GivenUp, node: NodeId) -> AcceptedLoss {
    let bounded = |text: &str| text.chars().take(LOSS_TEXT_CHARS_MAX).collect();
    AcceptedLoss {
        machine: word.machine.clone(),
        partition: word.partition,
        node: node.0,
        by: bounded(&word.by),
        why: bounded(&word.why),
        time: word.time,
        refusal: bounded(&word.refusal),
    }
}

/// The record in memory, and its file, which only this type writes.
pub struct NodeRecord {
    file: SmallFile<RecordContent>,
    content: Mutex<RecordContent>,
    /// Held while the file is written, which may take as long as the disk does. Readers do not wait for that.
    writing: Mutex<()>,
    /// Signals a new claim.
    claimed: Notify,
}

impl NodeRecord {
    /// # Errors
    /// The file cannot be read, or was written by a later program.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path) -> Result<Self, NodeError> {
        let file = record_file(disk, folder);
        let content = file.read_or_make_anew("it had only additional evidence, so the node can serve without it")?;
        Ok(Self { file, content: Mutex::new(content), writing: Mutex::default(), claimed: Notify::new() })
    }

    /// Whether a replica has had entries here.
    pub fn had_entries(&self, group: &GroupName) -> bool {
        self.content.lock().with_entries.contains(&key(group))
    }

    /// Notes that these replicas have entries; durable on return.
    pub fn note_entries(&self, groups: &[GroupName]) -> Result<(), NodeError> {
        self.change(|content| {
            let new = groups.iter().map(key).filter(|key| !content.with_entries.contains(key));
            let new: Vec<_> = new.collect();
            content.with_entries.extend(new);
            content.with_entries.sort_unstable();
        })
    }

    /// Notes that a replica's history differs from another node's, and the claim that the others are to hear; durable
    /// on return.
    pub fn note_divided(&self, group: &GroupName, what: String, claim: Option<Vec<u8>>) -> Result<(), NodeError> {
        let (machine, partition) = key(group);
        let is_claimed = claim.is_some();
        self.change(|content| {
            content.divided.retain(|(of, id, _)| (of, id) != (&machine, &partition));
            if let Some(body) = claim {
                let claims = content.claims.get_or_insert_default();
                claims.retain(|claimed| group_of(claimed) != *group);
                claims.push(RecordedClaim { machine: machine.clone(), partition, body });
            }
            content.divided.push((machine, partition, what));
        })?;
        if is_claimed {
            self.claimed.notify_one();
        }
        Ok(())
    }

    /// Waits for a claim that was not there when this was called last.
    pub async fn next_claim(&self) {
        self.claimed.notified().await;
    }

    /// The claims about which no operator has decided.
    pub fn claims(&self) -> Vec<(GroupName, Vec<u8>)> {
        let content = self.content.lock();
        content.claims.iter().flatten().map(|claimed| (group_of(claimed), claimed.body.clone())).collect()
    }

    /// What is known about the other history of a replica, if there is one.
    pub fn divided(&self, group: &GroupName) -> Option<String> {
        let (machine, partition) = key(group);
        let content = self.content.lock();
        let known = content.divided.iter().find(|(of, id, _)| (of, id) == (&machine, &partition));
        known.map(|(_, _, what)| what.clone())
    }

    pub fn given_up(&self) -> Vec<GivenUp> {
        self.content.lock().given_up.clone()
    }

    /// The losses that are `known` in `system`, and those that only this node has recorded so far; oldest first.
    pub fn losses_with(&self, mut known: Vec<AcceptedLoss>, node: NodeId) -> Vec<AcceptedLoss> {
        for word in self.given_up() {
            let loss = loss_of(&word, node);
            if !known.contains(&loss) {
                known.push(loss);
            }
        }
        known.sort_by_key(|loss| loss.time);
        known
    }

    /// Records an operator's word; durable on return.
    pub fn give_up(&self, word: GivenUp) -> Result<(), NodeError> {
        self.change(|content| content.given_up.push(word))
    }

    /// Whether there is a word for the replica that was not used to open it yet.
    pub fn is_given_up(&self, group: &GroupName) -> bool {
        self.content.lock().given_up.iter().any(|word| !word.is_used && is_of(word, group))
    }

    /// Notes that the replica was opened, which uses up its words; durable on return.
    pub fn use_up(&self, group: &GroupName) -> Result<(), NodeError> {
        self.change(|content| {
            let words = content.given_up.iter_mut().filter(|word| is_of(word, group));
            words.for_each(|word| word.is_used = true);
            let (machine, partition) = key(group);
            content.divided.retain(|(of, id, _)| (of, id) != (&machine, &partition));
            if let Some(claims) = &mut content.claims {
                claims.retain(|claimed| group_of(claimed) != *group);
            }
        })
    }

    /// Notes that `system` has recorded a word; durable on return.
    pub fn set_in_system(&self, of: &GivenUp) -> Result<(), NodeError> {
        let is_it =
            |word: &GivenUp| word.time == of.time && word.machine == of.machine && word.partition == of.partition;
        self.change(|content| {
            content.given_up.iter_mut().filter(|word| is_it(word)).for_each(|word| word.is_in_system = true);
        })
    }

    /// Memory has only what is on disk. After an error the file has the old or the new content, and the next change
    /// writes it as a whole.
    fn change(&self, change: impl FnOnce(&mut RecordContent)) -> Result<(), NodeError> {
        let _writing = self.writing.lock();
        let before = self.content.lock().clone();
        let mut changed = before.clone();
        change(&mut changed);
        if changed != before {
            self.file.write(&changed)?;
            *self.content.lock() = changed;
        }
        Ok(())
    }
}

fn group_of(claimed: &RecordedClaim) -> GroupName {
    GroupName::new(&claimed.machine, PartitionId(claimed.partition))
}

fn is_of(word: &GivenUp, group: &GroupName) -> bool {
    word.is_of(&group.machine, group.partition)
}

fn key(group: &GroupName) -> (String, u32) {
    (group.machine.to_string(), group.partition.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::ids::PartitionId;

    fn group(partition: u32) -> GroupName {
        GroupName::new("wallet", PartitionId(partition))
    }

    fn open(disk: &SimDisk) -> NodeRecord {
        NodeRecord::open(Arc::new(disk.clone()), Path::new("/node")).expect("it can be read")
    }

    fn word(partition: u32, time: i64) -> GivenUp {
        let (machine, by, why) = ("wallet".to_owned(), "eve".to_owned(), "the disk is gone".to_owned());
        let refusal = "it waits".to_owned();
        GivenUp { machine, partition, by, why, time, refusal, is_used: false, is_in_system: false }
    }

    #[test]
    fn what_is_recorded_survives_a_power_cut_and_a_word_opens_once() {
        let mut disk = SimDisk::new();
        let record = open(&disk);
        assert!(!record.had_entries(&group(1)));
        record.note_entries(&[group(1), group(2)]).expect("written");
        record.give_up(word(1, 7)).expect("written");
        for seed in 0..8 {
            disk = disk.crash(seed);
            let record = open(&disk);
            assert!(record.had_entries(&group(1)) && record.had_entries(&group(2)) && !record.had_entries(&group(3)));
            assert!(record.is_given_up(&group(1)) && !record.is_given_up(&group(2)));
        }
        let record = open(&disk);
        record.use_up(&group(1)).expect("written");
        record.set_in_system(&word(1, 7)).expect("written");
        let record = open(&disk.crash(9));
        assert!(!record.is_given_up(&group(1)), "once");
        assert_eq!(record.given_up(), [GivenUp { is_used: true, is_in_system: true, ..word(1, 7) }], "and for ever");
    }

    #[test]
    fn a_claim_survives_a_power_cut_until_an_operator_has_decided() {
        let mut disk = SimDisk::new();
        let record = open(&disk);
        for (partition, claim) in [(1, Some(vec![1, 2])), (2, Some(vec![3])), (3, None)] {
            record.note_divided(&group(partition), "two".to_owned(), claim).expect("written");
        }
        for seed in 0..8 {
            disk = disk.crash(seed);
            assert_eq!(open(&disk).claims(), [(group(1), vec![1, 2]), (group(2), vec![3])]);
        }
        open(&disk).use_up(&group(2)).expect("written");
        let record = open(&disk.crash(9));
        assert_eq!(record.claims(), [(group(1), vec![1, 2])]);
        assert!(record.divided(&group(1)).is_some() && record.divided(&group(2)).is_none());
    }

    #[test]
    fn a_record_from_before_there_were_claims_is_read() {
        #[derive(Default, minicbor::Encode, minicbor::Decode)]
        struct Earlier {
            #[n(0)]
            with_entries: Vec<(String, u32)>,
            #[n(1)]
            given_up: Vec<GivenUp>,
            #[n(2)]
            divided: Vec<(String, u32, String)>,
        }
        let disk = SimDisk::new();
        let earlier: SmallFile<Earlier> =
            SmallFile::new(Arc::new(disk.clone()), Path::new("/node"), "record", *b"SHRECORD");
        let divided = vec![("wallet".to_owned(), 1, "two".to_owned())];
        earlier.write(&Earlier { divided, ..Earlier::default() }).expect("written");
        let record = open(&disk);
        assert_eq!((record.divided(&group(1)), record.claims()), (Some("two".to_owned()), Vec::new()));
        record.note_entries(&[group(1)]).expect("written");
        assert_eq!(earlier.read().expect("the earlier program reads it").with_entries, [("wallet".to_owned(), 1)]);
    }

    #[test]
    fn a_damaged_record_is_made_anew() {
        let disk = SimDisk::new();
        open(&disk).note_entries(&[group(1)]).expect("written");
        disk.put(&Path::new("/node").join("record"), b"rot".to_vec());
        assert!(!open(&disk).had_entries(&group(1)));
    }
}
