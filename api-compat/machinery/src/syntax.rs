//! What is wrong with a JSON text, in the words that clients know from upstream's decoder.
//!
//! Entry point: [`error`]. Only texts that a decoder has already refused come here.

/// Upstream's decoder goes no deeper.
const DEPTH_MAX: usize = 10_000;
const END: &str = "unexpected end of JSON input";

/// The first error of a text, None if it is JSON.
pub fn error(text: &[u8]) -> Option<String> {
    let mut scan = Scan { text, at: 0 };
    let found = scan.value().and_then(|()| {
        scan.space();
        match scan.peek() {
            None => Ok(()),
            Some(c) => Err(unexpected(c, "after top-level value")),
        }
    });
    found.err()
}

/// The JSON type of a text's first value, as upstream names it.
pub fn type_name(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "bool",
        serde_json::Value::Number(_) => "number",
        serde_json::Value::String(_) => "string",
        serde_json::Value::Array(_) => "array",
        serde_json::Value::Object(_) => "object",
    }
}

/// A short form of a body for error messages: text that looks like JSON as it stands, anything else in hexadecimal.
pub fn summary(body: &[u8]) -> String {
    const MOST: usize = 30;
    let cut = &body[..body.len().min(MOST)];
    let more = if body.len() > MOST { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_string(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(cut)),
        Some(_) => cut.iter().map(|b| format!("{b:02x}")).collect::<String>() + more,
    }
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

type Scanned = Result<(), String>;

fn unexpected(byte: u8, context: &str) -> String {
    let shown = match byte {
        b'\'' => r"\'".to_string(),
        b'\\' => r"\\".to_string(),
        b'\t' => r"\t".to_string(),
        b'\n' => r"\n".to_string(),
        b'\r' => r"\r".to_string(),
        0x07 => r"\a".to_string(),
        0x08 => r"\b".to_string(),
        0x0b => r"\v".to_string(),
        0x0c => r"\f".to_string(),
        // Bytes are shown as the code points of their number.
        0..=0x1f | 0x7f => format!("\\x{byte:02x}"),
        0x80..=0x9f | 0xad => format!("\\u{:04x}", u32::from(byte)),
        _ => char::from(byte).to_string(),
    };
    format!("invalid character '{shown}' {context}")
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, String> {
        let byte = self.peek().ok_or(END)?;
        self.at += 1;
        Ok(byte)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// One value with all that is inside: the open objects and lists are a stack of ours, not of the thread.
    fn value(&mut self) -> Scanned {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.next()? {
                c @ (b'{' | b'[') if open.len() >= DEPTH_MAX => {
                    return Err(unexpected(c, "exceeded max depth"));
                }
                c @ (b'{' | b'[') => {
                    self.space();
                    if self.peek() == Some(c + 2) {
                        self.at += 1;
                    } else {
                        open.push(c);
                        if c == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                c @ (b'-' | b'0'..=b'9') => self.number(c)?,
                c => return Err(unexpected(c, "looking for beginning of value")),
            }
            if self.close(&mut open)? {
                return Ok(());
            }
        }
    }

    /// What follows a value: the ends of what encloses it, or a comma and the next key. True when nothing encloses it.
    fn close(&mut self, open: &mut Vec<u8>) -> Result<bool, String> {
        while let Some(container) = open.last() {
            let context =
                if *container == b'{' { "after object key:value pair" } else { "after array element" };
            self.space();
            match self.next()? {
                b',' => {
                    if *container == b'{' {
                        self.key()?;
                    }
                    return Ok(false);
                }
                c if c == container + 2 => {
                    open.pop();
                }
                c => return Err(unexpected(c, context)),
            }
        }
        Ok(true)
    }

    fn key(&mut self) -> Scanned {
        self.space();
        match self.next()? {
            b'"' => self.string()?,
            c => return Err(unexpected(c, "looking for beginning of object key string")),
        }
        self.space();
        match self.next()? {
            b':' => Ok(()),
            c => Err(unexpected(c, "after object key")),
        }
    }

    fn string(&mut self) -> Scanned {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let c = self.next()?;
                            if !c.is_ascii_hexdigit() {
                                return Err(unexpected(c, r"in \u hexadecimal character escape"));
                            }
                        }
                    }
                    c => return Err(unexpected(c, "in string escape code")),
                },
                c if c < 0x20 => return Err(unexpected(c, "in string literal")),
                _ => {}
            }
        }
    }

    fn literal(&mut self, word: &str) -> Scanned {
        for expected in word.bytes().skip(1) {
            let c = self.next()?;
            if c != expected {
                return Err(unexpected(
                    c,
                    &format!("in literal {word} (expecting '{}')", char::from(expected)),
                ));
            }
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Scanned {
        let lead = if first == b'-' { self.next()? } else { first };
        match lead {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            c => return Err(unexpected(c, "in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Scanned {
        let c = self.next()?;
        if !c.is_ascii_digit() {
            return Err(unexpected(c, context));
        }
        self.digits();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_worded_as_upstream_words_them() {
        for (text, expected) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("nul0", "invalid character '0' in literal null (expecting 'l')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("01", "invalid character '1' after top-level value"),
            ("\u{0}", "invalid character '\\x00' looking for beginning of value"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(error(text.as_bytes()).as_deref(), Some(expected), "{text}");
        }
        for text in ["{}", " [1, -0.5e+3, \"\\u00e9\\n\", {\"a\": null}] ", "true"] {
            assert_eq!(error(text.as_bytes()), None, "{text}");
        }
        assert_eq!(error(b"\xef\xbb\xbf{}").unwrap(), "invalid character 'ï' looking for beginning of value");
    }

    #[test]
    fn depth_has_a_limit_and_needs_no_stack() {
        let deep = "[".repeat(10_001);
        assert_eq!(error(deep.as_bytes()).unwrap(), "invalid character '[' exceeded max depth");
        assert_eq!(error(&deep.as_bytes()[1..]).unwrap(), "unexpected end of JSON input");
    }

    #[test]
    fn summaries_are_short() {
        assert_eq!(summary(b""), "<empty>");
        assert_eq!(summary(b"hi"), "6869");
        assert_eq!(summary(format!("{{{}", "x".repeat(40)).as_bytes()), format!("{{{} ...", "x".repeat(29)));
    }
}
