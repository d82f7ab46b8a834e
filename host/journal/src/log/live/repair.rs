//! Repair of a log that is corrupt below its watermark, before the node takes part in Raft with it.
//!
//! The damaged folder goes in, and the entries from peers that cannot be read here. A sound log in its place comes out,
//! with the same entries, purges and hashes; votes never go back. The damaged log is kept beside it, one generation.
//! ```text
//! examine ─► missing, lost_from ─► (caller asks peers) ─► repair: check ─► log.building ─► log.repaired ─► log
//! ```
//! Once `log.repaired` exists it is the log, and the next opening finishes the swap. This file does not know the peers.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::ids::{LogIndex, Term};
use crate::log::book::PurgePolicy;
use crate::log::frame::{Hash, NO_HASH, entry_hash};
use crate::log::live::salvage::{EntryAnchor, Hole, IntactEntry, Salvage};
use crate::log::live::state::entry_record_size;
use crate::log::recover::{Access, recover};
use crate::log::scan::read_slot;
use crate::log::segment::parse_file_name;
use crate::log::{EntryId, Log, LogEntry, LogError, LogOptions, LogScan, Misfit, Vote};

/// A damaged log, and what is known of the damage. Nothing is changed before [`DamagedLog::repair`].
///
/// Damage that leaves no trace is not found: a newest segment that is missing completely, or a log that is missing. A
/// caller that knows of such damage from elsewhere uses [`DamagedLog::forgotten`].
pub struct DamagedLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: LogOptions,
    salvage: Salvage,
    reason: String,
}

/// The result of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairReport {
    pub last: Option<EntryId>,
    pub vote: Option<Vote>,
    /// A vote later than all readable ones may have been lost, so `vote` is a barrier; see [`DamagedLog::repair`].
    pub vote_may_be_lost: bool,
    /// The folder that has the damaged log now.
    pub damaged: PathBuf,
}

/// What the repaired log consists of, in order of index.
enum RepairPiece<'a> {
    Intact(&'a IntactEntry),
    Given(&'a LogEntry),
    /// The entries up to this one were never here, or are gone. The chain continues from this hash.
    Hole(EntryId, Hash),
}

/// The state that the repaired log must have when it is read back.
#[derive(Debug, PartialEq, Eq)]
struct EndState {
    last: Option<EntryId>,
    last_hash: Hash,
    vote: Option<Vote>,
}

impl DamagedLog {
    /// Reads the whole log, purged segments included. Returns `None` if it is sound or empty. Nobody may have the log
    /// open.
    ///
    /// # Errors
    /// The folder cannot be read, or it holds another owner's log or one of a later format. Entries could not repair
    /// that.
    pub fn examine(disk: Arc<dyn Disk>, dir: &Path, options: &LogOptions) -> Result<Option<Self>, LogError> {
        finish_swap(&*disk, dir)?;
        let reason = match recover(&*disk, dir, Access::Read, PurgePolicy::Kept) {
            Ok(_) => return Ok(None),
            Err(error @ LogError::Corrupt { .. }) => error.reason(),
            Err(error) => return Err(error),
        };
        let salvage = Salvage::read(&*disk, dir, &options.stream)?;
        Ok(Some(Self { disk, dir: dir.to_owned(), options: options.clone(), salvage, reason }))
    }

    /// A log that is sound in itself, or empty, but is known from elsewhere to have lost its end: entries after those
    /// that are known to be committed, and votes. Nobody may have the log open.
    ///
    /// # Errors
    /// The same as for [`DamagedLog::examine`].
    pub fn forgotten(disk: Arc<dyn Disk>, dir: &Path, options: &LogOptions, reason: String) -> Result<Self, LogError> {
        finish_swap(&*disk, dir)?;
        let mut salvage = Salvage::read(&*disk, dir, &options.stream)?;
        salvage.on_lost_bytes();
        Ok(Self { disk, dir: dir.to_owned(), options: options.clone(), salvage, reason })
    }

    /// The last entry that can be read.
    pub fn last(&self) -> Option<EntryId> {
        self.salvage.intact.values().next_back().map(|intact| intact.slot.id).max(self.salvage.purged)
    }

    /// The first damage, in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The entries that certainly existed and cannot be read, as later records and headers show. They include the
    /// entries before them that were not known to be committed, because the lost bytes may have replaced those. What
    /// existed after the last of them is unknown; [`DamagedLog::lost_from`] says whether something may have existed.
    ///
    /// A log whose beginning is lost is assumed to have begun at index 0. A repair may begin later if the hashes agree.
    /// Entries lost directly before a purge beyond the end of the log (a snapshot replaced them) leave no trace.
    pub fn missing(&self) -> Vec<RangeInclusive<LogIndex>> {
        self.salvage.missing()
    }

    /// `Some` if acknowledged bytes at the end of the log are lost. It is unknown how many entries were in them, and
    /// whether they replaced intact entries from this index on. A repair then needs everything from here to the end of
    /// the furthest log (last term, then last index) among a majority of the group, without this node. That log has
    /// every entry that was committed with this node's help.
    pub fn lost_from(&self) -> Option<LogIndex> {
        self.salvage.is_tail_lost.then(|| self.salvage.doubtful_from())
    }

    /// Whether the disk failed to return some bytes of the log. It may return them at another attempt.
    pub fn is_unreadable(&self) -> bool {
        self.salvage.is_unreadable
    }

    /// Whether a vote later than all readable ones may be lost.
    pub fn vote_may_be_lost(&self) -> bool {
        self.salvage.is_vote_doubtful
    }

    /// The highest term that the readable part of the log names. A lost vote may have been in a higher term.
    pub fn term_known(&self) -> Term {
        let voted = self.salvage.vote.map(|vote| vote.term);
        let last = self.salvage.intact.values().next_back().map(|intact| intact.slot.id.term);
        voted.max(last).unwrap_or(Term(0))
    }

    /// The last entry, unless acknowledged bytes after it are lost or it cannot be read itself.
    pub fn last_known(&self) -> Option<EntryId> {
        let last = self.salvage.last.filter(|_| !self.salvage.is_tail_lost)?;
        self.salvage.intact.get(&last).map(|intact| intact.slot.id)
    }

    /// The entries of the range in order, up to `bytes_max` but at least one. Entries that cannot be read are left out,
    /// and so are those that the lost end of the log may have replaced.
    pub fn read(&self, range: RangeInclusive<LogIndex>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let end = self.lost_from().unwrap_or(LogIndex(u64::MAX));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (_, intact) in self.salvage.intact.range(range).take_while(|(index, _)| **index < end) {
            let entry = read_slot(&intact.slot)?;
            bytes += entry_record_size(&entry);
            if bytes_max < bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Rebuilds the log with these entries, in order of index: all that are missing, and any others, which replace
    /// intact ones. Each entry is checked by hash if an intact later record or header carries its hash. Entries after
    /// the last such hash can be checked only by their terms.
    ///
    /// `vote_floor` is the highest term that any node of a majority of the group, or of all nodes, has heard of,
    /// without this node. It is used if a vote may be lost. The repaired log then has already voted in that term, for
    /// nobody ([`Vote::barrier`]).
    ///
    /// `base` is a local snapshot that will be installed, given as its last entry and the hash of that entry. The
    /// repaired log begins after it, so that no peer needs to have the entries up to there.
    ///
    /// On return the repaired log is in place and durable. After a crash either the damaged or the repaired log is in
    /// place.
    ///
    /// # Errors
    /// [`LogError::Misfit`] if the entries are not the right ones. Errors of the disk, including a full disk, leave the
    /// damaged log in place, or the repaired one once it is complete.
    pub fn repair(
        &self,
        entries: &[LogEntry],
        base: Option<(EntryId, Hash)>,
        vote_floor: Term,
    ) -> Result<RepairReport, LogError> {
        let given = by_index(entries)?;
        let (pieces, last, last_hash) = self.assemble(&given, base)?;
        let vote = self.vote(vote_floor, last);
        let committed = self.salvage.committed.into_iter().chain(base.map(|(upto, _)| upto)).max_by_key(|id| id.index);
        self.build(&pieces, committed, &EndState { last, last_hash, vote })?;
        let damaged = finish_swap(&*self.disk, &self.dir)?.expect("a repaired log was just put there");
        tracing::warn!(reason = self.reason, damaged = %damaged.display(), "a damaged log was repaired");
        Ok(RepairReport { last, vote, vote_may_be_lost: self.salvage.is_vote_doubtful, damaged })
    }

    fn vote(&self, floor: Term, last: Option<EntryId>) -> Option<Vote> {
        if !self.salvage.is_vote_doubtful {
            return self.salvage.vote;
        }
        // An entry of a term proves that the term had a leader, whatever the caller was told.
        let term = floor.max(last.map_or(Term(0), |last| last.term));
        self.salvage.vote.into_iter().chain([Vote::barrier(term)]).max_by_key(Vote::order)
    }

    /// Puts intact and given entries in order, and checks every link.
    fn assemble<'a>(
        &'a self,
        given: &'a BTreeMap<LogIndex, &'a LogEntry>,
        base: Option<(EntryId, Hash)>,
    ) -> Result<(Vec<RepairPiece<'a>>, Option<EntryId>, Hash), LogError> {
        let salvage = &self.salvage;
        let mut chain = Chain { last: None, hash: NO_HASH };
        let mut pieces = Vec::new();
        let mut end = salvage.last.max(given.keys().next_back().copied());
        let mut next = self.start(given);
        if let Some((upto, hash)) = base {
            let (hash, is_followed) = self.on_base(upto, hash)?;
            chain = Chain { last: Some(upto), hash };
            pieces.push(RepairPiece::Hole(upto, hash));
            next = upto.index.next();
            if !is_followed {
                end = given.keys().next_back().copied();
            }
        }
        while end.is_some_and(|end| next <= end) {
            if let Some(hole) = salvage.holes.iter().find(|hole| hole.range.contains(&next.0)) {
                pieces.extend(chain.skip(hole));
                next = LogIndex(hole.range.end() + 1);
                continue;
            }
            let misfit = |misfit| LogError::Misfit { index: next, misfit };
            let mut anchor = salvage.anchors.get(&next).copied().unwrap_or_default();
            let is_last_given = given.keys().next_back() == Some(&next);
            let asked_by_next = salvage.intact.get(&next.next()).map(|intact| intact.before);
            // At a lost end, the lost bytes may have replaced intact entries. Then the given ones end the log.
            let may_end_here = salvage.is_tail_lost && is_last_given;
            if !given.contains_key(&next.next()) && !may_end_here {
                anchor.hash = anchor.hash.or(asked_by_next);
            }
            match (given.get(&next), salvage.intact.get(&next)) {
                (Some(_), _) if salvage.last < Some(next) && !salvage.is_tail_lost => {
                    return Err(misfit(Misfit::Beyond));
                }
                (Some(entry), _) => {
                    chain.add_given(entry, anchor).map_err(misfit)?;
                    pieces.push(RepairPiece::Given(entry));
                    if may_end_here && asked_by_next.is_some_and(|asked| asked != chain.hash) {
                        break;
                    }
                }
                (None, Some(intact)) => {
                    chain.add_intact(intact).map_err(misfit)?;
                    pieces.push(RepairPiece::Intact(intact));
                }
                (None, None) => return Err(misfit(Misfit::Missing)),
            }
            next = next.next();
        }
        Ok((pieces, chain.last, chain.hash))
    }

    /// The hash of a snapshot's last entry, which is committed, and whether the entries after it here follow from it.
    /// Entries that a leader of an earlier term placed there may not follow; a later leader had the committed entry.
    fn on_base(&self, upto: EntryId, hash: Hash) -> Result<(Hash, bool), LogError> {
        let own = self.salvage.intact.get(&upto.index);
        let next = self.salvage.intact.get(&upto.index.next());
        let known = own.map(|own| own.slot.hash).or(next.map(|next| next.before));
        // A snapshot may not know the hash.
        let hash = if hash == NO_HASH { known.unwrap_or(NO_HASH) } else { hash };
        let is_followed = own.is_none_or(|own| own.slot.id == upto) && known.is_none_or(|known| known == hash);
        let term = own.or(next).map(|intact| intact.slot.id.term);
        if !is_followed && Some(upto.term) <= term {
            return Err(LogError::Misfit { index: upto.index, misfit: Misfit::Chain });
        }
        Ok((hash, is_followed))
    }

    /// Where the log begins. This is after 0 if the log's beginning is lost and the given entries begin later.
    fn start(&self, given: &BTreeMap<LogIndex, &LogEntry>) -> LogIndex {
        let first_given = given.keys().next().copied().unwrap_or(LogIndex(0));
        let known = self.salvage.intact.keys().next().copied();
        let is_hole_before = self.salvage.holes.iter().any(|hole| *hole.range.start() < first_given.0);
        if is_hole_before || known.is_some_and(|known| known < first_given) { LogIndex(0) } else { first_given }
    }

    /// Writes the new log in a folder of its own, reads it back, and gives it the name that makes it the log.
    fn build(&self, pieces: &[RepairPiece], committed: Option<EntryId>, expected: &EndState) -> Result<(), LogError> {
        let building = beside(&self.dir, "building");
        let on_disk = |error| LogError::disk(building.display().to_string(), error);
        self.disk.remove_dir_all(&building).map_err(on_disk)?;
        let log = Log::open(self.disk.clone(), &building, self.options.clone())?;
        self.write(&log, pieces, committed, expected)?;
        log.close()?;
        drop(log);
        let scan = LogScan::open(&*self.disk, &building)?;
        let found = EndState { last: scan.last(), last_hash: scan.last_hash(), vote: scan.vote() };
        assert_eq!(found, *expected, "the new log is not what was written");
        self.disk.sync_dir(&building).map_err(on_disk)?;
        self.disk.rename(&building, &beside(&self.dir, "repaired")).map_err(on_disk)?;
        self.disk.sync_dir(parent(&self.dir)).map_err(on_disk)
    }

    fn write(
        &self,
        log: &Log,
        pieces: &[RepairPiece],
        committed: Option<EntryId>,
        expected: &EndState,
    ) -> Result<(), LogError> {
        let bytes_max = usize::try_from(self.options.segment_bytes_min / 2).expect("segments fit the memory");
        let mut entries = Vec::new();
        let mut bytes = 0;
        let append = |entries: &mut Vec<LogEntry>| log.append(std::mem::take(entries), Box::new(drop));
        for piece in pieces {
            let entry = match piece {
                RepairPiece::Intact(intact) => read_slot(&intact.slot)?,
                RepairPiece::Given(entry) => (*entry).clone(),
                RepairPiece::Hole(upto, hash) => {
                    append(&mut entries)?;
                    log.skip_to(*upto, *hash)?;
                    continue;
                }
            };
            bytes += entry_record_size(&entry);
            entries.push(entry);
            if bytes_max <= bytes {
                append(&mut entries)?;
                bytes = 0;
            }
        }
        append(&mut entries)?;
        if let Some(purged) = self.salvage.purged {
            log.purge(purged)?;
        }
        if let Some(vote) = expected.vote {
            // `close` makes the vote durable, or says why not.
            log.place_vote(vote, Box::new(drop))?;
        }
        if let Some(committed) = committed {
            let known = expected.last.filter(|last| last.index < committed.index);
            log.save_committed(known.unwrap_or(committed));
        }
        Ok(())
    }
}

/// The end of what is assembled so far.
struct Chain {
    last: Option<EntryId>,
    hash: Hash,
}

impl Chain {
    fn add_given(&mut self, entry: &LogEntry, anchor: EntryAnchor) -> Result<(), Misfit> {
        self.check_term(entry.id)?;
        if anchor.id.is_some_and(|id| id != entry.id) {
            return Err(Misfit::Id);
        }
        let payload_hash = blake3::hash(entry.payload.bytes());
        let hash = entry_hash(&self.hash, entry.id, &entry.payload, &payload_hash);
        if anchor.hash.is_some_and(|known| known != hash) {
            return Err(Misfit::Content);
        }
        *self = Self { last: Some(entry.id), hash };
        Ok(())
    }

    fn add_intact(&mut self, intact: &IntactEntry) -> Result<(), Misfit> {
        if intact.before != self.hash {
            return Err(Misfit::Chain);
        }
        self.check_term(intact.slot.id)?;
        *self = Self { last: Some(intact.slot.id), hash: intact.slot.hash };
        Ok(())
    }

    fn skip<'a>(&mut self, hole: &Hole) -> Option<RepairPiece<'a>> {
        self.hash = hole.hash;
        self.last = hole.upto.or(self.last);
        hole.upto.map(|upto| RepairPiece::Hole(upto, hole.hash))
    }

    fn check_term(&self, id: EntryId) -> Result<(), Misfit> {
        if self.last.is_some_and(|last| id.term < last.term) { Err(Misfit::Term) } else { Ok(()) }
    }
}

fn by_index(entries: &[LogEntry]) -> Result<BTreeMap<LogIndex, &LogEntry>, LogError> {
    match entries.windows(2).find(|pair| pair[1].id.index <= pair[0].id.index) {
        Some(pair) => Err(LogError::Misfit { index: pair[1].id.index, misfit: Misfit::Order }),
        None => Ok(entries.iter().map(|entry| (entry.id.index, entry)).collect()),
    }
}

/// Finishes a repair that was complete when the process ended: it puts the repaired log in place. A crash may follow
/// any step; the next call continues from there. Returns where the damaged log is if there was a swap to finish.
pub(super) fn finish_swap(disk: &dyn Disk, dir: &Path) -> Result<Option<PathBuf>, LogError> {
    let on_disk = |error| LogError::disk(dir.display().to_string(), error);
    let (repaired, parent) = (beside(dir, "repaired"), parent(dir));
    let names = disk.list(parent).map_err(on_disk)?;
    if !names.iter().any(|name| Some(name.as_str()) == repaired.file_name().and_then(|name| name.to_str())) {
        return Ok(None);
    }
    let generations = || names.iter().filter_map(|name| generation(dir, name));
    let mut newest = generations().max();
    let is_there = match disk.list(dir) {
        // The crash happened between the two renames.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        names => names.map_err(on_disk)?.iter().any(|name| parse_file_name(name).is_some()),
    };
    if is_there {
        newest = Some(newest.map_or(1, |newest| newest + 1));
        disk.rename(dir, &damaged(dir, newest.unwrap_or(1))).map_err(on_disk)?;
        disk.sync_dir(parent).map_err(on_disk)?;
    } else {
        // A folder without a segment holds only files that were to become one.
        disk.remove_dir_all(dir).map_err(on_disk)?;
    }
    disk.rename(&repaired, dir).map_err(on_disk)?;
    disk.sync_dir(parent).map_err(on_disk)?;
    let newest = newest.unwrap_or(1);
    for older in generations().filter(|older| *older < newest) {
        disk.remove_dir_all(&damaged(dir, older)).map_err(on_disk)?;
    }
    Ok(Some(damaged(dir, newest)))
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut name = dir.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(format!(".{what}"));
    dir.with_file_name(name)
}

fn damaged(dir: &Path, generation: u64) -> PathBuf {
    beside(dir, &format!("damaged-{generation}"))
}

/// The number in the name of a damaged log that was kept.
fn generation(dir: &Path, name: &str) -> Option<u64> {
    let rest = name.strip_prefix(dir.file_name()?.to_str()?)?;
    rest.strip_prefix(".damaged-")?.parse().ok()
}
