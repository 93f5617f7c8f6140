//! `batch/v1`.

pub(crate) mod cronjob;
pub(crate) mod job;
mod schedule;
