//! Tokens.

use crate::ast::Literal;
use crate::error::Issue;

/// A token with its place in code points.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub at: usize,
    pub kind: Kind,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Ident(String),
    /// A field name in backticks.
    Quoted(String),
    Literal(Literal),
    Symbol(&'static str),
    End,
}

const SYMBOLS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ",", ".", "(", ")",
    "[", "]", "{", "}",
];

/// Splits a source into tokens, the last one is the end.
pub(crate) fn tokens(source: &str) -> Result<Vec<Token>, Issue> {
    let chars: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0 };
    let mut out = Vec::new();
    loop {
        let token = lexer.next()?;
        let end = token.kind == Kind::End;
        out.push(token);
        if end {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn next(&mut self) -> Result<Token, Issue> {
        self.skip();
        let at = self.at;
        if at >= self.chars.len() {
            return Ok(Token { at, kind: Kind::End });
        }
        let c = self.peek(0);
        let kind = if self.string_starts() {
            self.string()?
        } else if c.is_ascii_alphabetic() || c == '_' {
            self.word()
        } else if c.is_ascii_digit() || (c == '.' && self.peek(1).is_ascii_digit()) {
            self.number()?
        } else if c == '`' {
            self.backticks()?
        } else {
            let symbol = SYMBOLS.iter().find(|s| s.chars().enumerate().all(|(i, c)| self.peek(i) == c));
            let Some(symbol) = symbol else {
                return Err(Issue::new(at, format!("Syntax error: token recognition error at: '{c}'")));
            };
            self.at += symbol.len();
            Kind::Symbol(symbol)
        };
        Ok(Token { at, kind })
    }

    fn skip(&mut self) {
        loop {
            let c = self.peek(0);
            if self.at < self.chars.len() && c.is_whitespace() {
                self.at += 1;
            } else if c == '/' && self.peek(1) == '/' {
                while self.at < self.chars.len() && self.peek(0) != '\n' {
                    self.at += 1;
                }
            } else {
                return;
            }
        }
    }

    fn word(&mut self) -> Kind {
        let start = self.at;
        while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
            self.at += 1;
        }
        let text: String = self.chars[start..self.at].iter().collect();
        match text.as_str() {
            "true" => Kind::Literal(Literal::Bool(true)),
            "false" => Kind::Literal(Literal::Bool(false)),
            "null" => Kind::Literal(Literal::Null),
            _ => Kind::Ident(text),
        }
    }

    fn number(&mut self) -> Result<Kind, Issue> {
        let start = self.at;
        let wrong = |text: &str| Issue::new(start, format!("invalid numeric literal {text:?}"));
        if self.peek(0) == '0' && matches!(self.peek(1), 'x' | 'X') {
            self.at += 2;
            let from = self.at;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
            let digits: String = self.chars[from..self.at].iter().collect();
            let value = u64::from_str_radix(&digits, 16).map_err(|_| wrong(&digits))?;
            if matches!(self.peek(0), 'u' | 'U') {
                self.at += 1;
                return Ok(Kind::Literal(Literal::Uint(value)));
            }
            return i64::try_from(value).map(|v| Kind::Literal(Literal::Int(v))).map_err(|_| wrong(&digits));
        }
        let mut double = false;
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            double = true;
            self.at += 1;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
        }
        let sign = usize::from(matches!(self.peek(1), '+' | '-'));
        if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + sign).is_ascii_digit() {
            double = true;
            self.at += 1 + sign;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
        }
        let text: String = self.chars[start..self.at].iter().collect();
        if double {
            return text.parse().map(|v| Kind::Literal(Literal::Double(v))).map_err(|_| wrong(&text));
        }
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return text.parse().map(|v| Kind::Literal(Literal::Uint(v))).map_err(|_| wrong(&text));
        }
        // The smallest integer is written with a minus before a number that is too large by one.
        let value: u64 = text.parse().map_err(|_| Issue::new(start, "invalid int literal".into()))?;
        if value == 1 << 63 {
            return Ok(Kind::Literal(Literal::Int(i64::MIN)));
        }
        i64::try_from(value)
            .map(|v| Kind::Literal(Literal::Int(v)))
            .map_err(|_| Issue::new(start, "invalid int literal".into()))
    }

    fn backticks(&mut self) -> Result<Kind, Issue> {
        let start = self.at;
        self.at += 1;
        let from = self.at;
        while self.at < self.chars.len() && self.peek(0) != '`' {
            self.at += 1;
        }
        if self.at >= self.chars.len() {
            return Err(Issue::new(start, "Syntax error: unterminated quoted identifier".into()));
        }
        let text = self.chars[from..self.at].iter().collect();
        self.at += 1;
        Ok(Kind::Quoted(text))
    }

    /// Whether a string begins here, with any prefix of `r` and `b`.
    fn string_starts(&self) -> bool {
        let quote = |c: char| matches!(c, '"' | '\'');
        let prefix = |c: char| matches!(c, 'r' | 'R' | 'b' | 'B');
        quote(self.peek(0))
            || (prefix(self.peek(0)) && quote(self.peek(1)))
            || (prefix(self.peek(0)) && prefix(self.peek(1)) && quote(self.peek(2)))
    }

    fn string(&mut self) -> Result<Kind, Issue> {
        let start = self.at;
        let (mut raw, mut bytes) = (false, false);
        while !matches!(self.peek(0), '"' | '\'') {
            raw |= matches!(self.peek(0), 'r' | 'R');
            bytes |= matches!(self.peek(0), 'b' | 'B');
            self.at += 1;
        }
        let quote = self.peek(0);
        let long = self.peek(1) == quote && self.peek(2) == quote;
        self.at += if long { 3 } else { 1 };
        let mut out: Vec<u8> = Vec::new();
        let unterminated = || Issue::new(start, "Syntax error: unterminated string literal".into());
        loop {
            if self.at >= self.chars.len() {
                return Err(unterminated());
            }
            let c = self.peek(0);
            if c == quote && (!long || (self.peek(1) == quote && self.peek(2) == quote)) {
                self.at += if long { 3 } else { 1 };
                break;
            }
            if !long && matches!(c, '\n' | '\r') {
                return Err(unterminated());
            }
            self.at += 1;
            if c == '\\' && !raw {
                self.escape(bytes, &mut out)?;
            } else {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if bytes {
            return Ok(Kind::Literal(Literal::Bytes(out)));
        }
        String::from_utf8(out).map(|s| Kind::Literal(Literal::String(s))).map_err(|_| unterminated())
    }

    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Result<(), Issue> {
        let at = self.at;
        let c = self.peek(0);
        self.at += 1;
        let wrong = || Issue::new(at, "Syntax error: invalid escape sequence".into());
        let simple = match c {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '\'' | '"' | '`' | '?' => c as u8,
            _ => 0,
        };
        if simple != 0 {
            out.push(simple);
            return Ok(());
        }
        let (count, radix) = match c {
            'x' | 'X' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return Err(wrong()),
        };
        let digits: String = (0..count).map(|i| self.peek(i)).collect();
        self.at += count;
        let code = u32::from_str_radix(&digits, radix).map_err(|_| wrong())?;
        if bytes && matches!(c, 'x' | 'X' | '0'..='3') {
            out.push(u8::try_from(code).map_err(|_| wrong())?);
        } else {
            let c = char::from_u32(code).ok_or_else(wrong)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }
}
