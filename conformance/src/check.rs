//! Assertions that end a test with an error that says what was expected and what was seen.

/// Fails unless both values are equal: `ensure_eq!(seen, expected, "what was compared")`.
#[macro_export]
macro_rules! ensure_eq {
    ($seen:expr, $expected:expr, $($what:tt)+) => {{
        let (seen, expected) = (&$seen, &$expected);
        if !(*seen == *expected) {
            anyhow::bail!("{}: expected {:?}, saw {:?}", format_args!($($what)+), expected, seen);
        }
    }};
}

/// Fails unless the text contains the other: `ensure_contains!(text, "part", "what was looked at")`.
#[macro_export]
macro_rules! ensure_contains {
    ($text:expr, $part:expr, $($what:tt)+) => {{
        let (text, part) = (&$text, &$part);
        if !text.contains(AsRef::<str>::as_ref(part)) {
            anyhow::bail!("{}: expected to contain {:?}, saw {:?}", format_args!($($what)+), part, text);
        }
    }};
}

/// Registers tests: `tests! { "[sig-x] exact official name" => function, ... }` makes `pub const TESTS`.
/// A function is `async fn(Context) -> Result<()>`; a closure without captures does too.
#[macro_export]
macro_rules! tests {
    ($($name:expr => $run:expr),* $(,)?) => {
        /// The tests of this file.
        pub const TESTS: &[$crate::suite::Test] =
            &[$($crate::suite::Test { name: $name, run: |c| Box::pin(($run)(c)) }),*];
    };
}
