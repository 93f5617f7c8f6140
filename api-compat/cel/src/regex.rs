//! Regular expressions in the syntax of Go (RE2).

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled expression may take.
const SIZE_MAX: usize = 4 << 20;

/// Compiles an expression: classes such as `\d` and `\w` mean ASCII, as in Go.
///
/// # Errors
/// What is wrong with it.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&ascii_classes(pattern))
        .size_limit(SIZE_MAX)
        .build()
        .map_err(|e| e.to_string().lines().last().unwrap_or_default().trim().to_string())
}

/// What stands for an escaped letter, inside or outside of brackets.
fn class(letter: char, inside: bool) -> Option<&'static str> {
    Some(match (letter, inside) {
        ('d', false) => "[0-9]",
        ('D', false) => "[^0-9]",
        ('w', false) => "[0-9A-Za-z_]",
        ('W', false) => "[^0-9A-Za-z_]",
        ('s', false) => r"[\t\n\f\r ]",
        ('S', false) => r"[^\t\n\f\r ]",
        ('d', true) => "0-9",
        ('w', true) => "0-9A-Za-z_",
        ('s', true) => r"\t\n\f\r ",
        ('D', true) => "[^0-9]",
        ('W', true) => "[^0-9A-Za-z_]",
        ('S', true) => r"[^\t\n\f\r ]",
        ('b', false) => r"(?-u:\b)",
        ('B', false) => r"(?-u:\B)",
        ('Z', _) => r"\z",
        _ => return None,
    })
}

/// Rewrites the Perl classes, which are Unicode in the crate `regex`.
fn ascii_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut letters = pattern.chars().peekable();
    // Depth of brackets: inside a class the same words stand without brackets of their own.
    let mut inside = false;
    while let Some(c) = letters.next() {
        match c {
            '\\' => {
                let Some(next) = letters.next() else {
                    out.push('\\');
                    break;
                };
                match (next, inside) {
                    (letter, inside) if class(letter, inside).is_some() => {
                        out.push_str(class(letter, inside).unwrap_or_default());
                    }
                    // Literal text up to \E.
                    ('Q', false) => {
                        let mut text = String::new();
                        while let Some(c) = letters.next() {
                            if c == '\\' && letters.peek() == Some(&'E') {
                                letters.next();
                                break;
                            }
                            text.push(c);
                        }
                        out.push_str(&regex::escape(&text));
                    }
                    (other, _) => {
                        out.push('\\');
                        out.push(other);
                    }
                }
            }
            '[' if !inside => {
                inside = true;
                out.push('[');
                if letters.peek() == Some(&'^') {
                    out.push('^');
                    letters.next();
                }
                // A bracket that comes first is itself.
                if letters.peek() == Some(&']') {
                    out.push_str(r"\]");
                    letters.next();
                }
            }
            // [:alpha:] and its like.
            '[' if letters.peek() == Some(&':') => {
                let rest: String = letters.by_ref().take_while(|c| *c != ']').collect();
                out.push_str(&format!("[{rest}]"));
            }
            // Go has no nested classes or set operations.
            '[' => out.push_str(r"\["),
            '&' | '~' if inside => {
                out.push('\\');
                out.push(c);
            }
            ']' if inside => {
                inside = false;
                out.push(']');
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_syntax() {
        for (pattern, text, want) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^[\w-]+$", "a-b_1", true),
            (r"^[^\d]+$", "abc", true),
            (r"^[]a]+$", "]a", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[a[b]+$", "a[b", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"\bfoo\b", "a foo b", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), want, "{pattern} {text}");
        }
        assert!(compile("(").is_err());
        assert!(compile("(?=x)").is_err());
    }
}
