//! What a view's query reads rows with: by key or by range, of one partition or of all. A row that is not there yet stops the query, and the
//! host runs it again with the row.
//!
//! All rounds see one moment of the view. It does not know which node it reads on.

use std::cell::RefCell;

use borsh::BorshDeserialize;
use statehouse_abi::key::key;
use statehouse_guest::QueryStop;

use crate::abi::{Followed, Need, Order, QueryIn, Scan, ScanRange, WantedRow};

/// Rows of one entity, in order of suffix.
#[derive(Clone, Debug)]
pub struct Range<'a> {
    /// One partition's rows; without it those of all.
    pub partition: Option<u32>,
    pub entity: &'a [u8],
    /// Of the suffix.
    pub prefix: &'a [u8],
    /// Only suffixes behind this one, in the order of reading.
    pub after: Option<&'a [u8]>,
    pub limit: u32,
    pub order: Order,
}

/// What a range holds, up to its limit.
#[derive(Clone, Copy, Debug)]
pub struct ScanPage<'a> {
    scan: &'a Scan,
    entity_size: usize,
}

impl<'a> ScanPage<'a> {
    /// Partition, suffix and row.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = (u32, &'a [u8], &'a [u8])> + use<'a> {
        let at = 1 + self.entity_size;
        self.scan.rows.iter().filter_map(move |row| Some((row.partition, &row.key[at..], row.row.as_deref()?)))
    }

    /// Whether there are more rows behind the last one.
    pub fn has_more(&self) -> bool {
        self.scan.more
    }
}

/// Reads the rows of one moment.
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

    /// The moment that is asked about, microseconds since 1970 UTC; without one the newest.
    pub fn at(&self) -> Option<i64> {
        self.input.at
    }

    /// How far the view is in each partition.
    pub fn partitions(&self) -> &'a [Followed] {
        &self.input.partitions
    }

    /// The partition where the entity lives that the query names.
    pub fn home(&self) -> Option<u32> {
        self.input.home
    }

    /// Whether the caller has at least one of these roles.
    pub fn has_role(&self, roles: u32) -> bool {
        self.input.roles & roles != 0
    }

    /// A row, or `None` when there is no such row.
    ///
    /// # Errors
    /// [`QueryStop::Pending`]: hand it on with `?`.
    pub fn row(
        &self,
        partition: u32,
        entity: impl AsRef<[u8]>,
        suffix: impl AsRef<[u8]>,
    ) -> Result<Option<&'a [u8]>, QueryStop> {
        let key = key(entity.as_ref(), suffix.as_ref());
        if let Some(row) = self.input.rows.iter().find(|row| row.partition == partition && row.key == key) {
            return Ok(row.row.as_deref());
        }
        self.need.borrow_mut().rows.push(WantedRow { partition, key });
        Err(QueryStop::Pending)
    }

    /// A row, decoded; a malformed one panics.
    ///
    /// # Errors
    /// [`QueryStop::Pending`]: hand it on with `?`.
    pub fn read<T: BorshDeserialize>(
        &self,
        partition: u32,
        entity: impl AsRef<[u8]>,
        suffix: impl AsRef<[u8]>,
    ) -> Result<Option<T>, QueryStop> {
        Ok(self.row(partition, entity, suffix)?.map(decode))
    }

    /// # Errors
    /// [`QueryStop::Pending`]: hand it on with `?`.
    pub fn scan(&self, range: &Range<'_>) -> Result<ScanPage<'a>, QueryStop> {
        self.scans(std::slice::from_ref(range)).map(|mut pages| pages.remove(0))
    }

    /// Several ranges in one round.
    ///
    /// # Errors
    /// [`QueryStop::Pending`]: hand it on with `?`.
    pub fn scans(&self, ranges: &[Range<'_>]) -> Result<Vec<ScanPage<'a>>, QueryStop> {
        let wanted: Vec<ScanRange> = ranges.iter().map(Range::wanted).collect();
        let find = |wanted: &ScanRange| self.input.scans.iter().find(|scan| scan.range == *wanted);
        let missing: Vec<&ScanRange> = wanted.iter().filter(|wanted| find(wanted).is_none()).collect();
        if !missing.is_empty() {
            self.need.borrow_mut().scans.extend(missing.into_iter().cloned());
            return Err(QueryStop::Pending);
        }
        let page = |(wanted, range): (&ScanRange, &Range<'_>)| {
            find(wanted).map(|scan| ScanPage { scan, entity_size: range.entity.len() })
        };
        Ok(wanted.iter().zip(ranges).filter_map(page).collect())
    }
}

impl Range<'_> {
    fn wanted(&self) -> ScanRange {
        ScanRange {
            partition: self.partition,
            prefix: key(self.entity, self.prefix),
            after: self.after.map(|after| key(self.entity, after)),
            limit: self.limit,
            order: self.order,
        }
    }
}

/// A row that the view wrote.
fn decode<T: BorshDeserialize>(row: &[u8]) -> T {
    borsh::from_slice(row).expect("a view's row is one that it wrote itself")
}
