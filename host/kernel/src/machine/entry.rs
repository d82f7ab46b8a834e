//! The entry: one record of the journal, a batch of commands with their outcomes. Written once, by the leader.
//!
//! An entry's payload is one block (kind [`kind::ENTRY`]). It has no Raft id, so its hash is the same in every log.
//!
//! | section | record | fields |
//! |---|---|---|
//! | 1 HEADER | 256 B | `format u16, kind u16, 0 u32, index u64, time i64, parent 32 B, seed 32 B,` |
//! | | | `planner 32 B, decider 32 B, digest 32 B`, zeros |
//! | 2 COMMANDS | 48 B | `id 16 B, name u32, caller u32, request id offset u32, len u32,` |
//! | | | `body offset u32, len u32, expires i64` |
//! | 3 NAMES | 8 B | `offset u32, len u32` of a command's name |
//! | 4 CALLERS | 12 B | `offset u32, len u32, roles u32` |
//! | 5 OPS | – | OPS block; group `command` indexes COMMANDS |
//! | 6 OUTCOME | – | OUTCOME block |
//! | 7 BYTES | – | what the offsets point into |
//! | 8 ACTIVATION | – | of an `activate` entry: `module 32 B, schema u32, number u64` |
//! | 9 RECORDS | – | CBOR of [`Records`], if the entry concerns commands on several partitions |
//! | 10 VOUCHERS | 8 B | for each record of CALLERS: `node u64`, which told the leader of caller and roles; |
//! | | | optional, since feature level 3 |
//!
//! `index` is the journal index that the entry gets if it is effective, `digest` is that of the row writes. Format 2 is
//! format 1 with RECORDS that the first release cannot read (`saga/record.rs`); an entry without any is written in
//! format 1, byte for byte. A `tick` has no sections but HEADER. The commands of a `saga` entry are those that end with
//! it. Its ops and events were recorded in other entries and are not applied; they are repeated so that one entry tells
//! the end of a command. This file knows nothing of Raft, and an entry never has rows.

mod writer;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use statehouse_abi::block::{AbiError, Block, BlockWriter, kind, slice, u16_at, u32_at, u64_at};
use statehouse_abi::call::Context;
use statehouse_abi::ops::OpsBlock;
use statehouse_abi::outcome::{GroupOutcome, OutcomeBlock};

use crate::ids::{CommandId, Digest, Fingerprint, Head, JournalIndex, Micros, ModuleId, NodeId, PartitionId};
use crate::saga::{Identity, Origin, Records, read_records};

pub use writer::BatchWriter;

/// The newest version of this layout. An entry that needs nothing of it has an earlier version.
pub const FORMAT: u16 = 2;
const HEADER_SIZE: usize = 256;

const VOUCHER_SIZE: usize = 8;

const HEADER: u16 = 1;
const COMMANDS: u16 = 2;
const NAMES: u16 = 3;
const CALLERS: u16 = 4;
const OPS: u16 = 5;
const OUTCOME: u16 = 6;
const BYTES: u16 = 7;
const ACTIVATION: u16 = 8;
const RECORDS: u16 = 9;
const VOUCHERS: u16 = 10;
const KNOWN: [u16; 10] = [HEADER, COMMANDS, NAMES, CALLERS, OPS, OUTCOME, BYTES, ACTIVATION, RECORDS, VOUCHERS];

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum EntryKind {
    /// Commands with their outcomes.
    Batch = 1,
    /// A time and nothing else: somebody waits for that time to pass.
    Tick = 2,
    /// After this entry another module decides.
    Activate = 3,
    /// Progress of commands that span partitions.
    Saga = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: EntryKind,
    pub index: JournalIndex,
    pub time: Micros,
    /// The head that this entry was computed on. If it differs from the head of the journal, the entry is void.
    pub parent: Head,
    pub seed: [u8; 32],
    pub planner: ModuleId,
    pub decider: ModuleId,
    pub digest: Digest,
}

impl Header {
    /// What a module may know about this entry.
    pub fn context(&self) -> Context {
        Context { time: self.time.0, seed: self.seed }
    }

    fn to_bytes(self, format: u16) -> [u8; HEADER_SIZE] {
        let mut raw = [0; HEADER_SIZE];
        raw[0..2].copy_from_slice(&format.to_le_bytes());
        raw[2..4].copy_from_slice(&(self.kind as u16).to_le_bytes());
        raw[8..16].copy_from_slice(&self.index.0.to_le_bytes());
        raw[16..24].copy_from_slice(&self.time.0.to_le_bytes());
        let hashes = [&self.parent.0, &self.seed, &self.planner.0, &self.decider.0, &self.digest.0];
        for (to, hash) in raw[24..184].as_chunks_mut::<32>().0.iter_mut().zip(hashes) {
            *to = *hash;
        }
        raw
    }

    fn parse(raw: &[u8]) -> Result<Self, EntryError> {
        if raw.len() != HEADER_SIZE {
            return Err(EntryError::Header);
        }
        let format = u16_at(raw, 0);
        if format == 0 || FORMAT < format {
            return Err(EntryError::Format { found: format });
        }
        let kind = match u16_at(raw, 2) {
            1 => EntryKind::Batch,
            2 => EntryKind::Tick,
            3 => EntryKind::Activate,
            4 => EntryKind::Saga,
            found => return Err(EntryError::Kind { found }),
        };
        let hashes = raw[24..184].as_chunks::<32>().0;
        Ok(Self {
            kind,
            index: JournalIndex(u64_at(raw, 8)),
            time: Micros(u64_at(raw, 16) as i64),
            parent: Head(hashes[0]),
            seed: hashes[1],
            planner: ModuleId(hashes[2]),
            decider: ModuleId(hashes[3]),
            digest: Digest(hashes[4]),
        })
    }
}

/// One command of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryCommand<'a> {
    pub id: CommandId,
    /// Name in the deciding module's `describe`.
    pub name: &'a str,
    pub caller: &'a str,
    pub roles: u32,
    /// The node that has authenticated the caller for the leader. `None` in entries from before feature level 3, and
    /// for commands that end.
    pub vouched: Option<NodeId>,
    pub request_id: &'a str,
    /// The canonical body, CBOR of a value.
    pub body: &'a [u8],
    /// The command was not to be executed at an entry time past this.
    pub expires: Micros,
}

impl EntryCommand<'_> {
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_command(self.name, self.body)
    }
}

/// After this entry `module` decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    pub module: ModuleId,
    pub schema: u32,
    /// Number of the activation in `system`.
    pub number: u64,
}

/// Which part of a client's command one command of an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// All of it: it needs no other partition, or it was rejected before another partition was asked.
    Whole,
    /// Its first branch; the command continues in other partitions.
    Start,
    /// The branch that this partition carries out, or the undo of that branch.
    Call(&'a Origin),
    /// Its outcome. The events with it are those of its parts, which were recorded and applied in other entries.
    End,
}

impl Part<'_> {
    /// Whether it has the outcome that clients are told.
    pub fn is_outcome(self) -> bool {
        matches!(self, Self::Whole | Self::End)
    }
}

/// A checked entry: its header is decoded, and its blocks are well-formed.
#[derive(Clone, Debug)]
pub struct Entry {
    payload: Bytes,
    header: Header,
    /// `None` if it concerns one partition only, like most entries.
    records: Option<Arc<Records>>,
}

impl Entry {
    /// Checks all of a payload that came from a log or from a peer.
    pub fn parse(payload: Bytes) -> Result<Self, EntryError> {
        let block = Block::parse(&payload, kind::ENTRY, &KNOWN)?;
        let header = Header::parse(block.section(HEADER)?)?;
        let mut entry = Self { payload: payload.clone(), header, records: None };
        match header.kind {
            EntryKind::Batch | EntryKind::Saga => {
                let command_count = entry.check_batch()?;
                if let Some(section) = block.find_section(RECORDS) {
                    let records = read_records(section, command_count);
                    entry.records = Some(Arc::new(records.map_err(|reason| EntryError::Records { reason })?));
                }
                let flaw = match header.kind {
                    EntryKind::Saga => entry.records().flaw_of_outcomes(command_count),
                    _ => entry.records().flaw_of_batch(),
                };
                if let Some(reason) = flaw {
                    return Err(EntryError::Records { reason: reason.to_owned() });
                }
            }
            EntryKind::Activate => drop(entry.activation()?),
            EntryKind::Tick => {}
        }
        Ok(entry)
    }

    /// Checks the sections of a batch; returns how many commands it has.
    fn check_batch(&self) -> Result<usize, EntryError> {
        let block = self.block();
        let bytes = block.section(BYTES)?;
        let text = |offset, len, what| {
            let raw = slice(bytes, offset, len, kind::ENTRY, what)?;
            std::str::from_utf8(raw).map_err(|_| AbiError::Range { kind: kind::ENTRY, what })
        };
        let names = block.records::<8>(NAMES)?;
        let callers = block.records::<12>(CALLERS)?;
        let commands = block.records::<48>(COMMANDS)?;
        for name in names {
            text(u32_at(name, 0), u32_at(name, 4), "command name")?;
        }
        for caller in callers {
            text(u32_at(caller, 0), u32_at(caller, 4), "caller")?;
        }
        if let Some(vouchers) = block.find_section(VOUCHERS)
            && vouchers.len() != callers.len() * VOUCHER_SIZE
        {
            return Err(AbiError::Range { kind: kind::ENTRY, what: "vouchers" }.into());
        }
        for command in commands {
            if u32_at(command, 16) as usize >= names.len() || u32_at(command, 20) as usize >= callers.len() {
                return Err(AbiError::Range { kind: kind::ENTRY, what: "name or caller of a command" }.into());
            }
            text(u32_at(command, 24), u32_at(command, 28), "request id")?;
            slice(bytes, u32_at(command, 32), u32_at(command, 36), kind::ENTRY, "body")?;
        }
        // All readers take the number of a command for that of its group.
        let ops = OpsBlock::parse(block.section(OPS)?)?;
        let is_numbered = (0..).zip(0..ops.group_count()).all(|(command, at)| ops.group(at).command == command);
        if ops.group_count() != commands.len() || !is_numbered {
            return Err(AbiError::Range { kind: kind::ENTRY, what: "command of a group" }.into());
        }
        let outcome = OutcomeBlock::parse(block.section(OUTCOME)?, &ops)?;
        if (0..outcome.group_count()).any(|at| outcome.group(at) == GroupOutcome::NeedsKeys) {
            return Err(AbiError::Range { kind: kind::ENTRY, what: "outcome of a group" }.into());
        }
        Ok(commands.len())
    }

    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the entry says about commands on several partitions.
    pub fn records(&self) -> &Records {
        static NONE: Records = Records {
            starts: Vec::new(),
            origins: Vec::new(),
            progress: Vec::new(),
            marks: Vec::new(),
            ordered: None,
            ended: None,
        };
        self.records.as_deref().unwrap_or(&NONE)
    }

    /// Which part of a client's command a command of this entry is.
    pub fn part(&self, command: u32) -> Part<'_> {
        if self.header.kind == EntryKind::Saga {
            return Part::End;
        }
        if let Some(origin) = self.records().origin(command) {
            return Part::Call(origin);
        }
        if self.is_started(command) { Part::Start } else { Part::Whole }
    }

    /// Whether the command continues after this entry: it was started and not rejected.
    pub fn is_started(&self, command: u32) -> bool {
        // Most entries start none. This check is cheaper than reading the batch.
        if self.records().start(command).is_none() {
            return false;
        }
        let Some(batch) = self.batch() else { return false };
        matches!(batch.outcome.group(command as usize), GroupOutcome::Events { .. })
    }

    /// What the ids of a command are derived from that starts, is called or ends in this entry. `here` is the partition
    /// of the entry.
    pub fn identity(&self, command: u32, here: PartitionId) -> Option<Identity> {
        let EntryCommand { id, name, body, .. } = self.batch()?.command(command as usize);
        let fingerprint = Fingerprint::of_command(name, body);
        let derivation = match self.part(command) {
            Part::Call(origin) => return Some(origin.identity(fingerprint)),
            Part::End => self.records().derivation_ended(command as usize),
            Part::Start => self.records().start(command)?.derivation(),
            Part::Whole => return None,
        };
        Some(Identity { command: id, home: here, fingerprint, derivation })
    }

    /// The head of the journal once this entry is effective.
    pub fn head_after(&self) -> Head {
        head_after(self.header.parent, &self.payload)
    }

    /// The entry with the digest of its row writes, once these are known.
    pub fn with_digest(mut self, digest: Digest) -> Self {
        const DIGEST_AT: usize = 152;
        let header_at = self.block().section(HEADER).expect("every entry has one").as_ptr() as usize
            - self.payload.as_ptr() as usize;
        // Nobody else has seen the payload yet, so this copies nothing.
        let mut payload = BytesMut::from(std::mem::take(&mut self.payload));
        payload[header_at + DIGEST_AT..][..32].copy_from_slice(&digest.0);
        self.header.digest = digest;
        self.payload = payload.freeze();
        assert!(self.block().section(HEADER).is_ok_and(|raw| raw == self.header.to_bytes(u16_at(raw, 0))));
        self
    }

    fn block(&self) -> Block<'_> {
        Block::parse(&self.payload, kind::ENTRY, &KNOWN).expect("the payload was checked when the entry was made")
    }

    /// The parts of a batch; `None` if the entry is no batch.
    pub fn batch(&self) -> Option<Batch<'_>> {
        if !matches!(self.header.kind, EntryKind::Batch | EntryKind::Saga) {
            return None;
        }
        Some(Batch::of(&self.block()).expect("the payload was checked when the entry was made"))
    }

    pub fn activation(&self) -> Result<Activation, EntryError> {
        let raw = self.block().section(ACTIVATION)?;
        if raw.len() != 44 {
            return Err(EntryError::Header);
        }
        let module = ModuleId(raw[..32].as_chunks::<32>().0[0]);
        Ok(Activation { module, schema: u32_at(raw, 32), number: u64_at(raw, 36) })
    }

    pub fn tick(header: Header) -> Self {
        assert!(header.kind == EntryKind::Tick);
        let mut block = BlockWriter::new(Vec::new(), kind::ENTRY, 1);
        block.section(HEADER, &header.to_bytes(1));
        Self { payload: block.finish().into(), header, records: None }
    }

    pub fn activate(header: Header, activation: Activation) -> Self {
        assert!(header.kind == EntryKind::Activate);
        let mut raw = [0; 44];
        raw[..32].copy_from_slice(&activation.module.0);
        raw[32..36].copy_from_slice(&activation.schema.to_le_bytes());
        raw[36..44].copy_from_slice(&activation.number.to_le_bytes());
        let mut block = BlockWriter::new(Vec::new(), kind::ENTRY, 2);
        block.section(HEADER, &header.to_bytes(1)).section(ACTIVATION, &raw);
        Self { payload: block.finish().into(), header, records: None }
    }
}

/// The header of a payload; nothing else is read or checked.
pub fn read_header(payload: &[u8]) -> Result<Header, EntryError> {
    Header::parse(Block::parse(payload, kind::ENTRY, &KNOWN)?.section(HEADER)?)
}

/// `head' = blake3(head ‖ payload)`.
pub fn head_after(head: Head, payload: &[u8]) -> Head {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&head.0).update(payload);
    Head(*hasher.finalize().as_bytes())
}

/// A batch, borrowed from its entry.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    commands: &'a [[u8; 48]],
    names: &'a [[u8; 8]],
    callers: &'a [[u8; 12]],
    vouchers: Option<&'a [[u8; VOUCHER_SIZE]]>,
    bytes: &'a [u8],
    pub ops: OpsBlock<'a>,
    pub outcome: OutcomeBlock<'a>,
}

impl<'a> Batch<'a> {
    fn of(block: &Block<'a>) -> Result<Self, AbiError> {
        Ok(Self {
            commands: block.records(COMMANDS)?,
            names: block.records(NAMES)?,
            callers: block.records(CALLERS)?,
            vouchers: block.find_section(VOUCHERS).map(|raw| raw.as_chunks().0),
            bytes: block.section(BYTES)?,
            ops: OpsBlock::parse_trusted(block.section(OPS)?)?,
            outcome: OutcomeBlock::parse_trusted(block.section(OUTCOME)?)?,
        })
    }

    pub fn command_count(&self) -> usize {
        self.commands.len()
    }

    pub fn command_id(&self, at: usize) -> CommandId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.commands[at][..16]);
        CommandId(id)
    }

    /// The number of a command, which is also the number of its group.
    pub fn find(&self, id: CommandId) -> Option<u32> {
        (0..).zip(self.commands).find(|(_, raw)| raw[..16] == id.0).map(|(at, _)| at)
    }

    pub fn command(&self, at: usize) -> EntryCommand<'a> {
        let raw = &self.commands[at];
        let caller_at = u32_at(raw, 20) as usize;
        let (name, caller) = (&self.names[u32_at(raw, 16) as usize], &self.callers[caller_at]);
        EntryCommand {
            id: self.command_id(at),
            name: self.text(u32_at(name, 0), u32_at(name, 4)),
            caller: self.text(u32_at(caller, 0), u32_at(caller, 4)),
            roles: u32_at(caller, 8),
            vouched: self.vouchers.map(|vouchers| NodeId(u64_at(&vouchers[caller_at], 0))),
            request_id: self.text(u32_at(raw, 24), u32_at(raw, 28)),
            body: &self.bytes[u32_at(raw, 32) as usize..][..u32_at(raw, 36) as usize],
            expires: Micros(u64_at(raw, 40) as i64),
        }
    }

    pub fn commands(&self) -> impl ExactSizeIterator<Item = EntryCommand<'a>> + use<'a> {
        let this = *self;
        (0..this.commands.len()).map(move |at| this.command(at))
    }

    fn text(&self, offset: u32, len: u32) -> &'a str {
        let raw = &self.bytes[offset as usize..offset as usize + len as usize];
        std::str::from_utf8(raw).expect("texts were checked when the entry was made")
    }
}

/// Why a payload is no entry. A replica that reads such a payload halts its partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("entry format {found} is not supported by this version (it writes {FORMAT}); upgrade before starting it")]
    Format { found: u16 },
    #[error("entry kind {found} is not known to this version; upgrade before starting it")]
    Kind { found: u16 },
    #[error("malformed header of an entry")]
    Header,
    #[error("malformed entry")]
    Block(#[from] AbiError),
    #[error("malformed records of commands on several partitions: {reason}")]
    Records { reason: String },
}
