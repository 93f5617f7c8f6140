//! Key intervals.

use crate::api::prefix_end;

/// The keys in `[start, end)`; without `end` everything from `start` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// First key.
    pub start: String,
    /// First key beyond.
    pub end: Option<String>,
}

/// How an interval can be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape<'a> {
    /// One key.
    Key(&'a str),
    /// All keys that begin so.
    Prefix(&'a str),
    /// Anything else.
    Interval,
}

impl Bounds {
    /// As callers give them: no `end` is the single key, an empty one is unbounded.
    pub fn new(start: &str, end: Option<&str>) -> Self {
        let end = match end {
            None => Some(format!("{start}\0")),
            Some("") => None,
            Some(end) => Some(end.to_string()),
        };
        Self { start: start.to_string(), end }
    }

    /// Whether `key` is inside.
    pub fn contains(&self, key: &str) -> bool {
        key >= self.start.as_str() && self.end.as_deref().is_none_or(|end| key < end)
    }

    pub(crate) fn shape(&self) -> Shape<'_> {
        let start = self.start.as_str();
        match self.end.as_deref() {
            Some(end) if end.strip_prefix(start) == Some("\0") => Shape::Key(start),
            Some(end) if start.as_bytes().last().is_some_and(|b| *b < 0x7f) && end == prefix_end(start) => {
                Shape::Prefix(start)
            }
            _ => Shape::Interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        for (start, end, shape) in [
            ("/a", None, Shape::Key("/a")),
            ("/a/", Some("/a0"), Shape::Prefix("/a/")),
            ("/a/", Some("/b"), Shape::Interval),
            ("", Some(""), Shape::Interval),
            ("/a\u{7f}", Some("/b"), Shape::Interval),
        ] {
            assert_eq!(Bounds::new(start, end).shape(), shape, "{start:?} {end:?}");
        }
    }

    #[test]
    fn contains() {
        for (start, end, key, inside) in [
            ("/a", None, "/a", true),
            ("/a", None, "/a/", false),
            ("/a/", Some("/a0"), "/a/x", true),
            ("/a/", Some("/a0"), "/a", false),
            ("/a/", Some("/a0"), "/a0", false),
            ("", Some(""), "\u{10FFFF}", true),
            ("b", Some(""), "a", false),
        ] {
            assert_eq!(Bounds::new(start, end).contains(key), inside, "{start:?} {end:?} {key:?}");
        }
    }
}
