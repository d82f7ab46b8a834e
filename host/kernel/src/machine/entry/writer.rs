//! Writing an entry of commands: names and callers once each, all bytes one after the other.
//!
//! In: commands, then the blocks of their ops and outcomes. Out: the entry, in the oldest format that can express it.
//! It checks nothing.

use std::sync::Arc;

use statehouse_abi::block::{BlockWriter, FLAG_OPTIONAL, kind};

use super::{
    BYTES, CALLERS, COMMANDS, Entry, EntryCommand, EntryKind, HEADER, HEADER_SIZE, Header, NAMES, OPS, OUTCOME,
    RECORDS, VOUCHER_SIZE, VOUCHERS,
};
use crate::ids::NodeId;
use crate::saga::Records;

/// Collects the commands of a batch.
#[derive(Default)]
pub struct BatchWriter {
    commands: Vec<[u8; 48]>,
    names: Vec<[u8; 8]>,
    callers: Vec<[u8; 12]>,
    /// One for each caller, or none at all.
    vouchers: Vec<[u8; VOUCHER_SIZE]>,
    name_texts: Vec<String>,
    caller_texts: Vec<(String, u32, Option<NodeId>)>,
    bytes: Vec<u8>,
}

impl BatchWriter {
    /// Adds a command and returns its index.
    pub fn command(&mut self, command: &EntryCommand<'_>) -> u32 {
        let name = self.name(command.name);
        let caller = self.caller(command.caller, command.roles, command.vouched);
        let request_id = self.push(command.request_id.as_bytes());
        let body = self.push(command.body);
        let mut raw = [0; 48];
        raw[..16].copy_from_slice(&command.id.0);
        let fields = [name, caller, request_id.0, request_id.1, body.0, body.1];
        for (to, field) in raw[16..40].as_chunks_mut::<4>().0.iter_mut().zip(fields) {
            *to = field.to_le_bytes();
        }
        raw[40..48].copy_from_slice(&command.expires.0.to_le_bytes());
        self.commands.push(raw);
        (self.commands.len() - 1) as u32
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(at) = self.name_texts.iter().position(|other| other == name) {
            return at as u32;
        }
        let (offset, len) = self.push(name.as_bytes());
        self.names.push([offset.to_le_bytes(), len.to_le_bytes()].as_flattened().try_into().expect("two times four"));
        self.name_texts.push(name.to_owned());
        (self.names.len() - 1) as u32
    }

    fn caller(&mut self, caller: &str, roles: u32, vouched: Option<NodeId>) -> u32 {
        // A batch has few callers, and the same one often follows itself.
        let is_same =
            |other: &(String, u32, Option<NodeId>)| other.1 == roles && other.2 == vouched && other.0 == caller;
        if let Some(at) = self.caller_texts.iter().rposition(is_same) {
            return at as u32;
        }
        if let Some(node) = vouched {
            self.vouchers.push(node.0.to_le_bytes());
        }
        let (offset, len) = self.push(caller.as_bytes());
        let fields = [offset.to_le_bytes(), len.to_le_bytes(), roles.to_le_bytes()];
        self.callers.push(fields.as_flattened().try_into().expect("three times four"));
        self.caller_texts.push((caller.to_owned(), roles, vouched));
        (self.callers.len() - 1) as u32
    }

    fn push(&mut self, bytes: &[u8]) -> (u32, u32) {
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        (offset, bytes.len() as u32)
    }

    pub fn command_count(&self) -> usize {
        self.commands.len()
    }

    /// The finished entry. The blocks `ops` and `outcome` were checked against each other.
    pub fn finish(&self, header: Header, ops: &[u8], outcome: &[u8], records: Records) -> Entry {
        assert!(matches!(header.kind, EntryKind::Batch | EntryKind::Saga));
        let size = HEADER_SIZE + self.commands.len() * 48 + self.bytes.len() + ops.len() + outcome.len() + 1024;
        assert!(self.vouchers.is_empty() || self.vouchers.len() == self.callers.len(), "all are vouched for, or none");
        let section_count = 7 + usize::from(!records.is_empty()) + usize::from(!self.vouchers.is_empty());
        let mut block = BlockWriter::new(Vec::with_capacity(size), kind::ENTRY, section_count);
        let format = if records.are_of_first_release() { 1 } else { 2 };
        block.section(HEADER, &header.to_bytes(format)).records(COMMANDS, &self.commands);
        block.records(NAMES, &self.names).records(CALLERS, &self.callers);
        block.section(OPS, ops).section(OUTCOME, outcome).section(BYTES, &self.bytes);
        if !records.is_empty() {
            block.section(RECORDS, &records.to_bytes());
        }
        if !self.vouchers.is_empty() {
            block.section_with(VOUCHERS, FLAG_OPTIONAL, |out| out.extend_from_slice(self.vouchers.as_flattened()));
        }
        if records.is_empty() {
            return Entry { payload: block.finish().into(), header, records: None };
        }
        Entry { payload: block.finish().into(), header, records: Some(Arc::new(records)) }
    }
}
