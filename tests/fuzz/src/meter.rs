//! What a piece of work asks of the allocator, so that a decoder which believes a length in its input is found before
//! it takes the machine's memory.
//!
//! In: work. Out: how many bytes it asked for on its thread, whether it gave them back or not. Every program that links
//! this crate has this allocator, which is the system's. It does not know what the work does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts.
struct Meter;

#[global_allocator]
static METER: Meter = Meter;

thread_local! {
    /// Bytes that this thread has asked for, ever.
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

fn count(size: usize) {
    // A thread that ends has no counter any more, and is not metered.
    let _ = ASKED.try_with(|asked| asked.set(asked.get().wrapping_add(size)));
}

// SAFETY: every call goes to the system's allocator as it came; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Does the work and says how many bytes it asked for. What grows counts each time.
pub fn allocated<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let asked = || ASKED.with(Cell::get);
    let before = asked();
    let result = work();
    (result, asked().wrapping_sub(before))
}

/// Does the work, which may ask for `limit` bytes.
///
/// # Panics
/// It asked for more.
#[track_caller]
pub fn within<R>(limit: usize, work: impl FnOnce() -> R) -> R {
    let (result, asked) = allocated(work);
    assert!(asked <= limit, "it asked for {asked} bytes of memory, over its bound of {limit}");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_counted_even_if_it_is_never_used() {
        assert_eq!(allocated(|| 1).1, 0);
        let (bytes, asked) = allocated(|| std::hint::black_box(Vec::<u8>::with_capacity(1000)));
        assert_eq!((bytes.capacity(), asked), (1000, 1000));
        let (_, asked) = allocated(|| std::hint::black_box(vec![0_u8; 1 << 26]).len());
        assert_eq!(asked, 1 << 26);
        let refused = std::panic::catch_unwind(|| within(999, || Vec::<u8>::with_capacity(1000)));
        assert!(refused.is_err(), "a bound that is exceeded goes unnoticed");
    }
}
