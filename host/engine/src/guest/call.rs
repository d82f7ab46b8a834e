//! Calls of exports, each in an instance of its own: input in, output out, and every misbehaviour turned into a
//! [`GuestFault`].
//!
//! The host trusts nothing that a guest returns: it checks pointers and lengths against the guest's memory and the
//! limits, and asks a guest that trapped for its text within a budget. It knows nothing of what the bytes mean.

use wasmtime::{InstancePre, Memory, Store, Trap, TypedFunc, WasmBacktrace};

use super::engine::{EngineLane, Permit, WATCHDOG_TICKS};
use super::error::GuestFault;
use super::module::Pace;
use crate::limits;
use statehouse_abi::export;

/// Frames of a trap's backtrace that are kept.
const BACKTRACE_FRAMES_MAX: usize = 16;

/// Ticks of the watchdog within which a guest that trapped must have said why. One tick could end at once if the next
/// is near.
const LAST_WORDS_TICKS: u32 = 2;

/// A fresh instance, for one call; or for several, if the caller accepts what one call leaves to the next.
pub(super) struct GuestCall<'a> {
    lane: &'a EngineLane,
    store: Store<()>,
    instance: wasmtime::Instance,
    memory: Memory,
    /// Returned after the instance is gone.
    _permit: Permit<'a>,
}

impl<'a> GuestCall<'a> {
    /// Takes an instance from the pool; waits for a free one. `fuel` is the budget if the lane is metered.
    pub(super) fn new(lane: &'a EngineLane, pre: &InstancePre<()>, fuel: u64) -> Result<Self, GuestFault> {
        let permit = lane.enter();
        let mut store = Store::new(&lane.engine, ());
        let host = |error: wasmtime::Error| GuestFault::Host { what: format!("{error:#}") };
        match lane.pace {
            Pace::Fast => lane.ticks.allow(&mut store, WATCHDOG_TICKS),
            Pace::Metered => refuel(&mut store, fuel),
        }
        let instance = pre.instantiate(&mut store).map_err(host)?;
        let memory = instance
            .get_memory(&mut store, export::MEMORY)
            .ok_or_else(|| GuestFault::Host { what: "a validated module lost its memory".to_owned() })?;
        Ok(Self { lane, store, instance, memory, _permit: permit })
    }

    /// Gives the next call on the fast lane as much time as the first one.
    pub(super) fn rewind(&mut self) {
        if self.lane.pace == Pace::Fast {
            self.lane.ticks.allow(&mut self.store, WATCHDOG_TICKS);
        }
    }

    /// Calls an export that takes no input.
    pub(super) fn call(mut self, name: &str) -> Result<Vec<u8>, GuestFault> {
        let packed = self.func::<(), u64>(name)?.call(&mut self.store, ());
        let packed = packed.map_err(|error| self.fault(&error))?;
        self.output(packed, name).map(<[u8]>::to_vec)
    }

    /// Has the guest allocate `len` bytes, lets `fill` write all of them in the guest's memory, and calls the export.
    pub(super) fn call_with(
        mut self,
        name: &str,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Vec<u8>, GuestFault> {
        self.call_again(name, len, fill)
    }

    /// The same, but the instance remains as the call left it, unless the call failed.
    pub(super) fn call_again(
        &mut self,
        name: &str,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Vec<u8>, GuestFault> {
        let too_long = || GuestFault::Host { what: format!("input of {len} bytes is over the limit") };
        let size = u32::try_from(len).ok().filter(|_| len <= limits::GUEST_INPUT_BYTES_MAX).ok_or_else(too_long)?;
        let ptr = self.func::<u32, u32>(export::ALLOC)?.call(&mut self.store, size);
        let ptr = ptr.map_err(|error| self.fault(&error))?;
        let memory = self.memory.data_mut(&mut self.store);
        let out_of_range =
            || GuestFault::output(format_args!("sh1_alloc({size}) returned {ptr}, outside of the memory"));
        let input = memory.get_mut(ptr as usize..).and_then(|rest| rest.get_mut(..len)).ok_or_else(out_of_range)?;
        fill(input);
        let packed = self.func::<(u32, u32), u64>(name)?.call(&mut self.store, (ptr, size));
        let packed = packed.map_err(|error| self.fault(&error))?;
        self.output(packed, name).map(<[u8]>::to_vec)
    }

    fn func<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        name: &str,
    ) -> Result<TypedFunc<P, R>, GuestFault> {
        let func = self.instance.get_typed_func(&mut self.store, name);
        func.map_err(|error| GuestFault::Host { what: format!("a validated module lost `{name}`: {error:#}") })
    }

    /// The bytes that a packed result points to.
    fn output(&self, packed: u64, name: &str) -> Result<&[u8], GuestFault> {
        let (ptr, len) = ((packed >> 32) as usize, (packed & u64::from(u32::MAX)) as usize);
        if len > limits::GUEST_OUTPUT_BYTES_MAX {
            return Err(GuestFault::output(format_args!("`{name}` returned {len} bytes, over the limit")));
        }
        let memory = self.memory.data(&self.store);
        memory.get(ptr..).and_then(|rest| rest.get(..len)).ok_or_else(|| {
            GuestFault::output(format_args!("`{name}` returned {len} bytes at {ptr}, outside of the memory"))
        })
    }

    fn fault(&mut self, error: &wasmtime::Error) -> GuestFault {
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => GuestFault::Budget,
            Some(Trap::Interrupt) => GuestFault::Watchdog,
            Some(trap) => {
                let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or_default();
                let backtrace = backtrace(frames.iter().map(frame_name).collect());
                let place = || backtrace.first().map(|name| format!(" in `{name}`")).unwrap_or_default();
                match self.panic_text() {
                    // The guest trapped, and never finishes saying why: the call is treated like any that the watchdog
                    // stops.
                    LastWords::Endless => GuestFault::Watchdog,
                    LastWords::None => GuestFault::Trap { text: format!("{trap}{}", place()), backtrace },
                    LastWords::Said(text) => GuestFault::Trap { text, backtrace },
                }
            }
            None => GuestFault::Host { what: format!("{error:#}") },
        }
    }

    /// What the guest's panic hook kept, cut to the limit.
    fn panic_text(&mut self) -> LastWords {
        match self.lane.pace {
            Pace::Fast => self.lane.ticks.allow(&mut self.store, LAST_WORDS_TICKS),
            Pace::Metered => refuel(&mut self.store, limits::LAST_WORDS_FUEL),
        }
        let Ok(said) = self.func::<(), u64>(export::PANIC) else { return LastWords::None };
        let packed = match said.call(&mut self.store, ()) {
            Ok(packed) => packed,
            Err(error) if matches!(error.downcast_ref::<Trap>(), Some(Trap::Interrupt)) => return LastWords::Endless,
            Err(_) => return LastWords::None,
        };
        let Ok(text) = self.output(packed, export::PANIC) else { return LastWords::None };
        let kept = &text[..text.len().min(limits::PANIC_TEXT_BYTES_MAX)];
        let text = String::from_utf8_lossy(kept).trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned();
        if text.is_empty() { LastWords::None } else { LastWords::Said(text) }
    }
}

/// A guest's last words.
enum LastWords {
    Said(String),
    None,
    /// The watchdog had to end them.
    Endless,
}

fn refuel(store: &mut Store<()>, fuel: u64) {
    store.set_fuel(fuel).expect("the metered engine consumes fuel");
}

/// Omits the frames in which the guest's runtime carries out a panic: they are the same for all guests.
fn backtrace(mut names: Vec<String>) -> Vec<String> {
    let is_panicking = |name: &String| name.ends_with("rust_begin_unwind") || name.starts_with("core::panicking::");
    let begin = names.iter().rposition(is_panicking).map_or(0, |at| at + 1);
    names.drain(..begin);
    names.truncate(BACKTRACE_FRAMES_MAX);
    names
}

fn frame_name(frame: &wasmtime::FrameInfo) -> String {
    match frame.func_name() {
        Some(name) => format!("{:#}", rustc_demangle::demangle(name)),
        None => format!("function {}", frame.func_index()),
    }
}
