//! The work of a compiling child: `statehouse compile-module`, wasm on stdin, [frames](super::wire) on stdout.
//!
//! It limits and confines itself before it reads a byte of the module. It does not know where the bytes are from, nor
//! who reads the frames.

use std::io::{Read, Write};

use super::wire::{ChildAnswer, ChildFrame};
use super::{Compilation, confine};
use crate::guest::allowance::Allowance;
use crate::guest::engine::{compile_only, fingerprint};
use crate::guest::error::GuestError;
use crate::guest::module::Pace;
use crate::guest::second;
use crate::limits;

/// Reads a module, compiles it for these engines, and writes the result. If a module does not compile, that is a
/// result, not a failure.
///
/// # Errors
/// The process cannot be limited, or nobody reads what it writes.
pub fn compile_module(allowance: Allowance, paces: &[Pace]) -> Result<(), GuestError> {
    // Before the limits: what an engine looks up about the machine must not count against the module.
    let all = [(Pace::Fast, compile_only(Pace::Fast)?), (Pace::Metered, compile_only(Pace::Metered)?)];
    let engines: Vec<(Pace, &wasmtime::Engine)> =
        all.iter().filter(|(pace, _)| paces.contains(pace)).map(|(pace, engine)| (*pace, engine)).collect();
    let missing = confine::confine(allowance).map_err(|detail| GuestError::Compiler { detail })?;
    let fingerprint = *fingerprint(&[&all[0].1, &all[1].1]).as_bytes();
    let mut frames = vec![ChildFrame::Confined(missing.join(", ")), ChildFrame::Fingerprint(fingerprint)];
    let mut answer = || -> std::io::Result<()> {
        let mut wasm = Vec::new();
        std::io::stdin().lock().take(limits::MODULE_BYTES_MAX as u64 + 1).read_to_end(&mut wasm)?;
        frames.extend(ChildAnswer::of(work(&engines, &wasm)));
        let mut stdout = std::io::stdout().lock();
        frames.iter().try_for_each(|frame| frame.write(&mut stdout))?;
        stdout.flush()
    };
    answer().map_err(|error| GuestError::Compiler { detail: format!("a pipe: {error}") })
}

/// Asks the module to describe itself, which may already fail, and compiles it.
pub(super) fn work(engines: &[(Pace, &wasmtime::Engine)], wasm: &[u8]) -> Result<Compilation, GuestError> {
    let described = second::describe(wasm)?;
    let compile = |(pace, engine): &(Pace, &wasmtime::Engine)| {
        let artefact = engine.precompile_module(wasm);
        Ok((*pace, artefact.map_err(|error| GuestError::Compile { detail: format!("{error:#}") })?))
    };
    Ok(Compilation { artefacts: engines.iter().map(compile).collect::<Result<_, GuestError>>()?, described })
}
