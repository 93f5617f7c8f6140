//! Container logs in CRI's format: reading, selecting, following. Entry points: [`Selection`], [`parse`], [`tail`].

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use jiff::Timestamp;

/// One line of a CRI log: `<time> <stream> <P|F> <content>`.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the content goes on in the next line.
    pub partial: bool,
    /// The content, without the line's end.
    pub content: &'a [u8],
}

/// Takes a line apart; `None` if it is not one of CRI's.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Line { time, stream, partial, content: parts.next().unwrap_or_default() })
}

/// Which lines are wanted and how they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only so many lines from the end.
    pub tail_lines: Option<usize>,
    /// Only what is not older.
    pub since: Option<Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only this stream.
    pub stream: Option<String>,
}

/// Turns CRI lines into what the reader asked for. Keeps only the state between two lines.
#[derive(Debug)]
pub struct Printer {
    selection: Selection,
    left: Option<u64>,
    /// By stream: a started line that is not complete yet.
    inside: Option<String>,
}

impl Printer {
    /// A printer for a selection.
    pub fn new(selection: Selection) -> Self {
        Self { left: selection.limit_bytes, selection, inside: None }
    }

    /// Whether the byte limit is used up.
    pub fn done(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends what is to be shown of one raw line.
    pub fn print(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(raw) else { return };
        if self.selection.stream.as_deref().is_some_and(|s| s != line.stream) {
            return;
        }
        if let Some(since) = self.selection.since
            && line.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return;
        }
        let before = out.len();
        // The rest of a partial line belongs to the same line unless the other stream came between.
        let continues = self.inside.as_deref() == Some(line.stream);
        if self.selection.timestamps && !continues {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        if line.partial {
            self.inside = Some(line.stream.to_owned());
        } else {
            self.inside = None;
            out.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            let written = (out.len() - before) as u64;
            if written > *left {
                out.truncate(before + usize::try_from(*left).unwrap_or_default());
            }
            *left = left.saturating_sub(written);
        }
    }
}

/// Where in the file the last `count` complete lines begin.
pub fn tail_offset(file: &mut File, count: usize) -> io::Result<u64> {
    const BLOCK_BYTES: u64 = 64 * 1024;
    let size = file.seek(SeekFrom::End(0))?;
    if count == 0 {
        return Ok(size);
    }
    // One line of the container may be many partial lines of the file: only ends of whole ones count.
    let (mut at, mut kept, mut found) = (size, Vec::new(), 0usize);
    while at > 0 {
        let from = at.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; usize::try_from(at - from).unwrap_or_default()];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        block.append(&mut kept);
        let mut end = block.len();
        while end > 0 {
            let start = block[..end - 1].iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
            if start == 0 && from > 0 {
                break;
            }
            let whole = parse(&block[start..end]).is_none_or(|line| !line.partial);
            if whole {
                if found == count {
                    return Ok(from + end as u64);
                }
                found += 1;
            }
            end = start;
        }
        kept = block[..end].to_vec();
        at = from;
    }
    Ok(0)
}

/// The content of the last lines of a log, for messages; empty when it cannot be read.
pub fn tail(path: &Path, lines: usize, limit_bytes: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let offset = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut raw = Vec::new();
        file.read_to_end(&mut raw)?;
        let (mut printer, mut out) = (Printer::new(Selection::default()), Vec::new());
        raw.split_inclusive(|b| *b == b'\n').for_each(|line| printer.print(line, &mut out));
        Ok(out)
    };
    let out = read().unwrap_or_default();
    let from = out.len().saturating_sub(limit_bytes);
    String::from_utf8_lossy(&out[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n";

    fn show(selection: Selection) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, LOG).unwrap();
        let mut file = File::open(&path).unwrap();
        let from = selection.tail_lines.map_or(0, |n| tail_offset(&mut file, n).unwrap());
        let (mut printer, mut out) = (Printer::new(selection), Vec::new());
        LOG[usize::try_from(from).unwrap()..]
            .split_inclusive(|b| *b == b'\n')
            .for_each(|line| printer.print(line, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn selections() {
        assert_eq!(show(Selection::default()), "one\ntwo\nthree\n");
        assert_eq!(show(Selection { tail_lines: Some(1), ..Default::default() }), "three\n");
        assert_eq!(show(Selection { tail_lines: Some(2), ..Default::default() }), "two\nthree\n");
        assert_eq!(show(Selection { tail_lines: Some(0), ..Default::default() }), "");
        assert_eq!(show(Selection { tail_lines: Some(9), ..Default::default() }), "one\ntwo\nthree\n");
        assert_eq!(show(Selection { limit_bytes: Some(5), ..Default::default() }), "one\nt");
        assert_eq!(show(Selection { stream: Some("stderr".into()), ..Default::default() }), "two\n");
        assert_eq!(
            show(Selection { since: Some("2026-01-01T00:00:02Z".parse().unwrap()), ..Default::default() }),
            "two\nthree\n"
        );
        assert_eq!(
            show(Selection { timestamps: true, tail_lines: Some(1), ..Default::default() }),
            "2026-01-01T00:00:03Z three\n"
        );
    }
}
