//! Wasm modules changed or made by hand: sections are read, entries added, exports turned to other functions.
//!
//! In: a module. Out: its bytes with what was asked for. It keeps to the binary format and to no other rule: what it
//! makes may be as hostile as a test wants it. It handles modules without imports only.

/// Numbers of sections.
mod section {
    pub const TYPE: u8 = 1;
    pub const FUNCTION: u8 = 3;
    pub const MEMORY: u8 = 5;
    pub const EXPORT: u8 = 7;
    pub const CODE: u8 = 10;
    pub const DATA: u8 = 11;
}

const HEADER: &[u8] = b"\0asm\x01\0\0\0";
const FUNCTION_EXPORT: u8 = 0;
pub const I32: u8 = 0x7f;
pub const I64: u8 = 0x7e;

/// A module as a list of its sections.
#[derive(Clone)]
pub struct Wasm {
    /// In order, each with its content.
    sections: Vec<(u8, Vec<u8>)>,
}

impl Wasm {
    /// # Panics
    /// When these bytes are no module.
    pub fn of(bytes: &[u8]) -> Self {
        let mut rest = bytes.strip_prefix(HEADER).expect("a module begins so");
        let mut sections = Vec::new();
        while let Some((id, after)) = rest.split_first() {
            rest = after;
            let size = take_unsigned(&mut rest) as usize;
            let (content, after) = rest.split_at(size);
            sections.push((*id, content.to_vec()));
            rest = after;
        }
        Self { sections }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        for (id, content) in &self.sections {
            bytes.push(*id);
            bytes.extend(unsigned(content.len() as u64));
            bytes.extend_from_slice(content);
        }
        bytes
    }

    /// Adds a section as it is, after all others.
    pub fn add_section(&mut self, id: u8, content: Vec<u8>) {
        self.sections.push((id, content));
    }

    /// The number of the function that is exported under this name.
    pub fn exported(&self, name: &str) -> u64 {
        let found = self.exports().into_iter().find(|(other, kind, _)| other == name && *kind == FUNCTION_EXPORT);
        found.unwrap_or_else(|| panic!("the module exports `{name}`")).2
    }

    /// Exports another function under an existing name.
    pub fn turn(&mut self, name: &str, function: u64) {
        let mut exports = self.exports();
        let export = exports.iter_mut().find(|(other, ..)| other == name);
        export.unwrap_or_else(|| panic!("the module exports `{name}`")).2 = function;
        let mut content = unsigned(exports.len() as u64);
        for (name, kind, index) in exports {
            content.extend(unsigned(name.len() as u64));
            content.extend_from_slice(name.as_bytes());
            content.push(kind);
            content.extend(unsigned(index));
        }
        *self.content(section::EXPORT) = content;
    }

    /// Adds a function type and returns its number.
    pub fn add_type(&mut self, params: &[u8], results: &[u8]) -> u64 {
        let mut ty = vec![0x60];
        for values in [params, results] {
            ty.extend(unsigned(values.len() as u64));
            ty.extend_from_slice(values);
        }
        self.add(section::TYPE, 1, &ty)
    }

    /// Adds a function: the code that follows its declaration of locals, which are this many `i32` in this many
    /// groups. Returns its number.
    pub fn add_function(&mut self, ty: u64, locals: Locals, code: &[u8]) -> u64 {
        self.add_functions(ty, locals, code, 1)
    }

    /// Adds the same function many times; returns the number of the first.
    pub fn add_functions(&mut self, ty: u64, locals: Locals, code: &[u8], count: usize) -> u64 {
        let first = self.add(section::FUNCTION, count, &unsigned(ty).repeat(count));
        let mut body = unsigned(locals.groups as u64);
        for _ in 0..locals.groups {
            body.extend(unsigned(locals.count as u64));
            body.push(I32);
        }
        body.extend_from_slice(code);
        let sized = [unsigned(body.len() as u64), body].concat();
        self.add(section::CODE, count, &sized.repeat(count));
        first
    }

    /// Gives the export another body, of the type that the contract wants.
    pub fn replace(&mut self, name: &str, params: &[u8], results: &[u8], code: &[u8]) {
        let ty = self.add_type(params, results);
        let function = self.add_function(ty, Locals::NONE, code);
        self.turn(name, function);
    }

    /// Sets the least and the most pages of the one memory.
    pub fn set_memory(&mut self, min: u64, max: u64) {
        *self.content(section::MEMORY) = [vec![1, 1], unsigned(min), unsigned(max)].concat();
    }

    /// Adds a data segment.
    pub fn add_data(&mut self, offset: i64, bytes: &[u8]) {
        let segment =
            [vec![0, 0x41], signed(offset), vec![0x0b], unsigned(bytes.len() as u64), bytes.to_vec()].concat();
        self.add(section::DATA, 1, &segment);
    }

    /// Adds entries to a section that is a vector; returns how many there were.
    pub fn add(&mut self, id: u8, count: usize, entries: &[u8]) -> u64 {
        let content = self.content(id);
        let mut rest = content.as_slice();
        let before = take_unsigned(&mut rest);
        *content = [&unsigned(before + count as u64), rest, entries].concat();
        before
    }

    /// The section with this number, or an empty one in its place if there is none.
    fn content(&mut self, id: u8) -> &mut Vec<u8> {
        let at = self.sections.iter().position(|(other, _)| *other == id).unwrap_or_else(|| {
            let is_before = |(other, _): &(u8, Vec<u8>)| *other != 0 && *other < id;
            let at = self.sections.iter().rposition(is_before).map_or(0, |at| at + 1);
            self.sections.insert(at, (id, vec![0]));
            at
        });
        &mut self.sections[at].1
    }

    fn exports(&self) -> Vec<(String, u8, u64)> {
        let (_, content) = self.sections.iter().find(|(id, _)| *id == section::EXPORT).expect("a module has exports");
        let mut rest = content.as_slice();
        let count = take_unsigned(&mut rest);
        let export = |_| {
            let size = take_unsigned(&mut rest) as usize;
            let (name, after) = rest.split_at(size);
            let (kind, after) = after.split_first().expect("an export has a kind");
            rest = after;
            (String::from_utf8_lossy(name).into_owned(), *kind, take_unsigned(&mut rest))
        };
        (0..count).map(export).collect()
    }
}

/// The locals of a function, in groups of `count` each.
#[derive(Clone, Copy)]
pub struct Locals {
    pub groups: usize,
    pub count: usize,
}

impl Locals {
    pub const NONE: Self = Self { groups: 0, count: 0 };

    pub fn count(count: usize) -> Self {
        Self { groups: 1, count }
    }
}

/// LEB128.
pub fn unsigned(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// LEB128 with a sign.
pub fn signed(mut number: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        let is_last = (number == 0 && low & 0x40 == 0) || (number == -1 && low & 0x40 != 0);
        if is_last {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn take_unsigned(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().expect("a number ends");
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}
