//! Delays that double: between restarts of a failing container and between pulls of a missing image. Pure.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

/// First delay.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest delay.
pub const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    at: Timestamp,
}

/// Delays by key.
#[derive(Debug, Default)]
pub struct Backoff(HashMap<String, Entry>);

impl Backoff {
    /// How long the key must still wait, counted from `event` (the end of the failed attempt).
    pub fn remaining(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<Duration> {
        let entry = self.0.get(key).filter(|e| !expired(e, event))?;
        let passed = Duration::try_from(now.duration_since(event)).unwrap_or_default();
        entry.delay.checked_sub(passed).filter(|left| !left.is_zero())
    }

    /// The key's present delay.
    pub fn delay(&self, key: &str) -> Duration {
        self.0.get(key).map_or(INITIAL, |e| e.delay)
    }

    /// Notes another attempt: the delay doubles, or begins anew after a long good run.
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let delay = match self.0.get(key) {
            Some(entry) if !expired(entry, event) => (entry.delay * 2).min(LONGEST),
            _ => INITIAL,
        };
        self.0.insert(key.to_owned(), Entry { delay, at: now });
    }

    /// Forgets the key.
    pub fn reset(&mut self, key: &str) {
        self.0.remove(key);
    }
}

fn expired(entry: &Entry, event: Timestamp) -> bool {
    event.duration_since(entry.at) > SignedDuration::try_from(LONGEST * 2).unwrap_or(SignedDuration::MAX)
}

/// A duration as Go prints whole seconds: `10s`, `2m40s`, `5m0s`.
pub fn go(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_limit_and_begin_anew_after_a_long_run() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut backoff = Backoff::default();
        let mut now = 1000;
        assert_eq!(backoff.remaining("k", at(now), at(now)), None, "the first restart is at once");
        for want in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("k", at(now), at(now));
            assert_eq!(backoff.remaining("k", at(now), at(now)), Some(Duration::from_secs(want)));
            assert_eq!(backoff.remaining("k", at(now), at(now + i64::try_from(want).unwrap())), None);
            now += 300;
        }
        assert_eq!(backoff.remaining("k", at(now + 700), at(now + 700)), None);
        backoff.next("k", at(now + 700), at(now + 700));
        assert_eq!(backoff.delay("k"), INITIAL);
        assert_eq!(go(Duration::from_secs(160)), "2m40s");
        assert_eq!(go(LONGEST), "5m0s");
    }
}
