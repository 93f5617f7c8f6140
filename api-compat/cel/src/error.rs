//! What is wrong with an expression, and where.

use std::fmt;

/// One problem at one place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Issue {
    pub at: usize,
    pub message: String,
}

impl Issue {
    pub fn new(at: usize, message: String) -> Self {
        Self { at, message }
    }
}

/// Why an expression does not compile: every problem with line, column and the line itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError(String);

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CompileError {}

/// Lays out problems as cel-go does.
pub(crate) fn report(source: &str, mut issues: Vec<Issue>) -> CompileError {
    issues.sort_by_key(|i| i.at);
    issues.dedup();
    let texts: Vec<String> = issues.iter().map(|i| one(source, i)).collect();
    CompileError(texts.join("\n"))
}

fn one(source: &str, issue: &Issue) -> String {
    let (mut line, mut column, mut begin) = (1, 0, 0);
    let chars: Vec<char> = source.chars().collect();
    for (i, c) in chars.iter().enumerate().take(issue.at) {
        if *c == '\n' {
            line += 1;
            column = 0;
            begin = i + 1;
        } else {
            column += 1;
        }
    }
    let text: String = chars[begin.min(chars.len())..].iter().take_while(|c| **c != '\n').collect();
    let text = text.replace('\t', " ");
    format!("ERROR: <input>:{line}:{}: {}\n | {text}\n | {}^", column + 1, issue.message, ".".repeat(column))
}

/// Why an evaluation has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvalError {
    /// What went wrong, such as `no such key: x`.
    Failed(String),
    /// The limit of steps was reached.
    CostLimit,
}

impl EvalError {
    pub(crate) fn overload() -> Self {
        Self::Failed("no such overload".into())
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) => f.write_str(text),
            Self::CostLimit => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

impl std::error::Error for EvalError {}
