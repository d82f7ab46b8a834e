//! The writer thread takes everything that was placed since it last looked, writes it, syncs once, and tells everybody.
//!
//! ```text
//! take queue ─► encode ─► pwrite ─► fdatasync ─► publish what is durable ─► callbacks in order
//! ```
//! The first disk error is final. After a failed sync nothing is known about the pages, and a retry could falsely
//! succeed.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::Lsn;
use crate::log::frame::{Frame, Record};
use crate::log::live::shared::SharedLog;
use crate::log::live::state::{OnDurable, Roll, WriterWork};
use crate::log::segment::{Segment, WATERMARK_AT, encode_watermark};
use crate::log::{EntryId, LogError};
use crate::planted::{Bug, is_planted};

/// Bytes that are encoded before they are written. This bounds the buffer, not the group that shares a sync.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// The thread's body. It returns when the log has closed or failed.
pub(super) fn run(shared: &Arc<SharedLog>) {
    let mut writer = Writer::new(shared.clone());
    shared.guard(|| {
        if let Err(error) = writer.run() {
            shared.fail(error);
        }
    });
    writer.fail_callbacks();
}

struct Writer {
    shared: Arc<SharedLog>,
    /// The rest of the work that was taken from the queue.
    batch: VecDeque<WriterWork>,
    /// Encoded frames, all of one segment.
    buffer: Vec<u8>,
    buffer_start: Option<(Arc<Segment>, Lsn)>,
    /// A segment with writes that are not synced yet.
    unsynced: Option<Arc<Segment>>,
    /// Everything before this lsn is synced, except for sync marks.
    durable: Lsn,
    /// The end of the last encoded frame that needs a sync.
    end: Lsn,
    /// The last entry before `end`.
    last: Option<EntryId>,
    /// Truncations since the last sync; `bytes` counts the bytes of frames since then.
    truncations: usize,
    bytes: usize,
    /// Callbacks that wait for the next sync.
    done: VecDeque<OnDurable>,
}

/// The next task of the writer.
enum WriterTask {
    /// Write the batch and sync it.
    Write,
    /// Write the batch without a sync, and the watermark into the header of this segment.
    Mark(Arc<Segment>),
    Close,
}

impl Writer {
    fn new(shared: Arc<SharedLog>) -> Self {
        let (durable, last) = {
            let state = shared.state.lock();
            (state.durable, state.durable_last())
        };
        Self {
            shared,
            batch: VecDeque::new(),
            buffer: Vec::new(),
            buffer_start: None,
            unsynced: None,
            durable,
            end: durable,
            last,
            truncations: 0,
            bytes: 0,
            done: VecDeque::new(),
        }
    }

    fn run(&mut self) -> Result<(), LogError> {
        loop {
            match self.next_task()? {
                WriterTask::Write => {
                    self.carry_out()?;
                    self.sync()?;
                }
                WriterTask::Mark(segment) => {
                    self.carry_out()?;
                    self.flush()?;
                    self.write_watermark(segment)?;
                }
                WriterTask::Close => return self.sync(),
            }
        }
    }

    /// Waits for work. A stream without work for a while is idle. A sync mark then says what no frame says yet.
    fn next_task(&mut self) -> Result<WriterTask, LogError> {
        assert!(self.batch.is_empty());
        let mut state = self.shared.state.lock();
        let mut is_idle = false;
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if !state.queue.is_empty() {
                self.batch = std::mem::take(&mut state.queue).into();
                return Ok(WriterTask::Write);
            }
            let wants_mark = state.wants_mark();
            if wants_mark && (is_idle || state.is_closing) {
                state.place_mark();
                self.batch = std::mem::take(&mut state.queue).into();
                return Ok(WriterTask::Mark(state.segment.clone()));
            }
            if state.is_closing {
                return Ok(WriterTask::Close);
            }
            if wants_mark {
                is_idle = self.shared.work.wait_for(&mut state, self.shared.options.idle).timed_out();
            } else {
                state.writer_dozes = true;
                self.shared.work.wait(&mut state);
                state.writer_dozes = false;
            }
        }
    }

    fn carry_out(&mut self) -> Result<(), LogError> {
        while let Some(work) = self.batch.pop_front() {
            match work {
                WriterWork::Write { frame, segment } => self.encode(&frame, &segment)?,
                WriterWork::Roll(roll) => self.roll(&roll)?,
                WriterWork::Done(done) => self.done.push_back(done),
            }
        }
        Ok(())
    }

    fn encode(&mut self, frame: &Frame, segment: &Arc<Segment>) -> Result<(), LogError> {
        if WRITE_BYTES_MAX < self.buffer.len() + frame.size() {
            self.flush()?;
        }
        let (start_segment, start) = self.buffer_start.get_or_insert_with(|| (segment.clone(), frame.lsn));
        assert_eq!(start_segment.first_lsn, segment.first_lsn);
        assert_eq!(start.0 + self.buffer.len() as u64, frame.lsn.0);
        frame.encode(self.durable, &segment.key, &mut self.buffer);
        for record in &frame.records {
            match record {
                Record::Entry { entry, .. } => self.last = Some(entry.id),
                Record::Truncate(last) => {
                    self.truncations += 1;
                    self.last = *last;
                }
                Record::Purge { upto, .. } if self.last.is_none_or(|last| last.index < upto.index) => {
                    self.last = Some(*upto);
                }
                Record::Purge { .. } | Record::Vote(_) | Record::Commit(_) => {}
            }
        }
        if !frame.is_sync_mark {
            self.bytes += frame.size();
        }
        self.end = frame.end();
        assert!(self.end <= segment.end());
        Ok(())
    }

    /// Writes the buffer.
    fn flush(&mut self) -> Result<(), LogError> {
        let Some((segment, start)) = self.buffer_start.take() else { return Ok(()) };
        assert!(self.durable <= start);
        assert!(start.0 + self.buffer.len() as u64 <= segment.end().0);
        assert!(self.unsynced.as_ref().is_none_or(|other| other.first_lsn == segment.first_lsn));
        assert!(!self.buffer.is_empty());
        fail::fail_point!("log::before_write", |_| std::process::abort());
        let result = segment.file.write_at(&self.buffer, segment.offset_of(start));
        result.map_err(|error| LogError::disk(&segment.name, error))?;
        fail::fail_point!("log::written", |_| std::process::abort());
        self.buffer.clear();
        self.unsynced = Some(segment);
        Ok(())
    }

    /// Writes and syncs everything, then tells everybody.
    fn sync(&mut self) -> Result<(), LogError> {
        self.flush()?;
        if let Some(segment) = self.unsynced.take() {
            if !is_planted(Bug::LogUnsynced) {
                segment.file.sync().map_err(|error| LogError::disk(&segment.name, error))?;
            }
            fail::fail_point!("log::synced", |_| std::process::abort());
        }
        assert!(self.buffer.is_empty());
        assert!(self.durable <= self.end);
        self.durable = self.end;
        {
            let mut state = self.shared.state.lock();
            state.on_durable(self.durable, self.last, self.truncations, self.bytes);
            state.book.forget_payloads(self.durable, self.shared.options.tail_bytes_max);
            self.shared.announce_durable(&state);
            self.shared.tell_of_sealable(&state);
        }
        (self.truncations, self.bytes) = (0, 0);
        self.shared.tell_of_room();
        fail::fail_point!("log::published", |_| std::process::abort());
        while let Some(done) = self.done.pop_front() {
            done(Ok(()));
        }
        Ok(())
    }

    /// Switches to a new segment. The old one is durable to its end before the new one exists.
    fn roll(&mut self, roll: &Roll) -> Result<(), LogError> {
        self.sync()?;
        assert_eq!(self.end, roll.header.first_lsn);
        assert!(self.unsynced.is_none());
        fail::fail_point!("log::before_roll", |_| std::process::abort());
        roll.spare.become_segment(&*self.shared.disk, &self.shared.dir, &roll.header)
    }

    /// Writes the watermark without a sync. It serves readers before the next sync, and recovery after the process is
    /// killed.
    fn write_watermark(&mut self, segment: Arc<Segment>) -> Result<(), LogError> {
        assert!(segment.first_lsn <= self.durable);
        let watermark = encode_watermark(self.durable, &segment.key);
        let result = segment.file.write_at(&watermark, WATERMARK_AT as u64);
        result.map_err(|error| LogError::disk(&segment.name, error))?;
        self.unsynced = Some(segment);
        Ok(())
    }

    /// Ends the callbacks after the log has ended: the entries that they wait for will not be durable. Nothing is added
    /// to the queue any more.
    fn fail_callbacks(&mut self) {
        let (failed, queue) = {
            let mut state = self.shared.state.lock();
            assert!(state.failed.is_some() || state.is_closing);
            (state.failed.clone(), std::mem::take(&mut state.queue))
        };
        let error = failed.unwrap_or(LogError::Closed);
        let left = std::mem::take(&mut self.batch).into_iter().chain(queue).filter_map(|work| match work {
            WriterWork::Done(done) => Some(done),
            WriterWork::Write { .. } | WriterWork::Roll(_) => None,
        });
        for done in std::mem::take(&mut self.done).into_iter().chain(left) {
            done(Err(error.clone()));
        }
    }
}
