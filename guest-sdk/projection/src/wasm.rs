//! The side of the exports that is linear memory: buffers for input and output, and the text of the last panic.
//!
//! A result is packed `(pointer << 32) | length` and lies there until the next call of the instance, as in `statehouse-guest`. It knows
//! nothing of what the bytes mean.

use std::sync::{Mutex, Once, PoisonError};

use crate::native::{self, Export};
use crate::projection::Projection;

static INPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static OUTPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static PANIC: Mutex<String> = Mutex::new(String::new());
static HOOK: Once = Once::new();

/// `sh1_alloc`: the buffer that the next call's input is written to.
pub fn alloc(len: u32) -> u32 {
    let mut input = INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    input.clear();
    input.resize(len as usize, 0);
    input.as_ptr() as u32
}

/// An export that takes input: `ptr` must be what [`alloc`] returned last.
pub fn call<P: Projection>(export: Export, ptr: u32, len: u32) -> u64 {
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
        }));
    });
    let input = std::mem::take(&mut *INPUT.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(ptr == input.as_ptr() as u32 || len == 0, "input must lie where sh1_alloc said");
    let input = input.get(..len as usize).expect("input must be as long as sh1_alloc was told");
    let output = native::call::<P>(export, input);
    let mut slot = OUTPUT.lock().unwrap_or_else(PoisonError::into_inner);
    *slot = output;
    pack(&slot)
}

/// `sh1_panic`.
pub fn panic_text() -> u64 {
    pack(PANIC.lock().unwrap_or_else(PoisonError::into_inner).as_bytes())
}

fn pack(bytes: &[u8]) -> u64 {
    (bytes.as_ptr() as u64) << 32 | bytes.len() as u64
}
