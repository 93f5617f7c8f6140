//! Stock API machinery as oracle: request scripts whose answers a stock server gave are replayed against ours.
//!
//! Entry point: [`replay::replay`], which plays one scenario and compares each answer with its recording. `README.md` says
//! what a script may contain and how recordings are made; `gaps.txt` lists what is known to differ and may only shrink.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod compare;
pub mod drive;
pub mod normalize;
pub mod replay;
pub mod script;
pub mod wire;
