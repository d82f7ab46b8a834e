//! The rules of the code base that a machine can check, each a test of its own.
//!
//! In: every file git knows or would add. Out: a list of `file:line: what is wrong; what to do`. A rule is a function
//! from one source to its findings, so each has a snippet beside it that it must catch. It knows nothing of behaviour,
//! and is a package of its own, so that nobody waits for the host to be built.
#![cfg(test)]

mod tree;
mod tokens;
mod shape;
mod layers;
mod circles;
mod determinism;
mod names;
mod participles;
mod wording;
mod testing;
mod architecture;
mod linked;
mod formats;
mod book;
