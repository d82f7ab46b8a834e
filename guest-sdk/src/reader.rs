//! What a query reads rows with. A row that is not there yet stops the query, and the host runs it again with the row.
//!
//! All rounds see one position. `fetch` asks without stopping, so that several rows cost one round.
//! It does not know which partition or node it reads from.

use std::cell::RefCell;

use borsh::BorshDeserialize;
use statehouse_abi::cold::{Key, Need, QueryIn, Refusal, Row, Scan, ScanRange};
use statehouse_abi::key::key;

use crate::hot::decode;

/// Why a query has no answer (yet).
#[derive(Debug)]
pub enum QueryStop {
    /// The thing asked for does not exist: 404.
    NotFound(Refusal),
    Refused(Refusal),
    /// Made by the reader alone: rows were asked for.
    Pending,
}

impl QueryStop {
    pub fn not_found(code: &str, detail: impl Into<String>) -> Self {
        Self::NotFound(Refusal { code: code.into(), status: 404, detail: detail.into(), field: None })
    }

    /// `status` is 400, 403 or 422.
    pub fn refused(status: u16, code: &str, detail: impl Into<String>) -> Self {
        Self::Refused(Refusal { code: code.into(), status, detail: detail.into(), field: None })
    }
}

/// Rows of one entity, in order of suffix.
#[derive(Clone, Copy, Debug)]
pub struct ScanPage<'a> {
    scan: &'a Scan,
    entity_size: usize,
}

impl<'a> ScanPage<'a> {
    /// Suffix and row.
    pub fn rows(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let at = 1 + self.entity_size;
        self.scan.rows.iter().filter_map(move |row| Some((&row.key[at..], row.row.as_deref()?)))
    }

    /// Whether there are more rows behind the last one.
    pub fn has_more(&self) -> bool {
        self.scan.more
    }
}

/// Reads the rows of one position.
pub struct Reader<'a> {
    input: &'a QueryIn,
    need: RefCell<Need>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a QueryIn) -> Self {
        Self { input, need: RefCell::default() }
    }

    pub(crate) fn into_need(self) -> Need {
        self.need.into_inner()
    }

    /// Time of the position, microseconds since 1970 UTC.
    pub fn time(&self) -> i64 {
        self.input.time
    }

    /// The position, as clients see it.
    pub fn position(&self) -> &'a str {
        &self.input.position
    }

    /// Whether the caller has at least one of these roles.
    pub fn has_role(&self, roles: u32) -> bool {
        self.input.roles & roles != 0
    }

    /// Asks for a row without stopping: `?` on [`row`](Self::row) then has it in the same round as others.
    pub fn fetch(&self, entity: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>) {
        let key = key(entity.as_ref(), suffix.as_ref());
        if self.find(&key).is_none() {
            let mut need = self.need.borrow_mut();
            if !need.keys.iter().any(|known| known.0 == key) {
                need.keys.push(Key(key));
            }
        }
    }

    /// A row, or `None` when there is no such row.
    ///
    /// # Errors
    /// [`QueryStop::Pending`]: hand it on with `?`.
    pub fn row(&self, entity: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>) -> Result<Option<&'a [u8]>, QueryStop> {
        let (entity, suffix) = (entity.as_ref(), suffix.as_ref());
        if let Some(row) = self.find(&key(entity, suffix)) {
            return Ok(row.row.as_deref());
        }
        self.fetch(entity, suffix);
        Err(QueryStop::Pending)
    }

    /// A row, decoded; a malformed one panics.
    ///
    /// # Errors
    /// [`QueryStop::Pending`]: hand it on with `?`.
    pub fn read<T: BorshDeserialize>(
        &self,
        entity: impl AsRef<[u8]>,
        suffix: impl AsRef<[u8]>,
    ) -> Result<Option<T>, QueryStop> {
        Ok(self.row(entity, suffix)?.map(|row| decode("row", row)))
    }

    /// Up to `limit` rows of an entity whose suffix starts with `prefix`, behind the suffix `after`.
    ///
    /// # Errors
    /// [`QueryStop::Pending`]: hand it on with `?`.
    pub fn scan(
        &self,
        entity: impl AsRef<[u8]>,
        prefix: impl AsRef<[u8]>,
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<ScanPage<'a>, QueryStop> {
        let entity = entity.as_ref();
        let after = after.map(|after| key(entity, after));
        let range = ScanRange { prefix: key(entity, prefix.as_ref()), after, limit };
        if let Some(scan) = self.input.scans.iter().find(|scan| scan.range == range) {
            return Ok(ScanPage { scan, entity_size: entity.len() });
        }
        self.need.borrow_mut().scans.push(range);
        Err(QueryStop::Pending)
    }

    fn find(&self, key: &[u8]) -> Option<&'a Row> {
        self.input.rows.iter().find(|row| row.key == key)
    }
}
