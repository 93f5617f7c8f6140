//! Tests of this SIG, a file as upstream has it. They run the real kubectl.

mod apps;
mod basics;
mod describe;
mod guestbook;
pub(crate) mod kubectl;
mod logs;
mod objects;
mod proxy;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[
    apps::TESTS,
    basics::TESTS,
    describe::TESTS,
    guestbook::TESTS,
    logs::TESTS,
    objects::TESTS,
    proxy::TESTS,
];
