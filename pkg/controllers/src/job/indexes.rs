//! Lists of completion indexes as text: `0-2,5`. Pure.

use std::collections::BTreeSet;

/// Reads a list; parts that are no numbers, or beyond `completions`, are left out.
pub fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<i32>(), to.parse::<i32>()) {
            all.extend((from..=to.min(completions - 1)).filter(|i| *i >= 0));
        }
    }
    all
}

/// Writes a list: three or more in a row, or two, become a range or a pair.
pub fn format(all: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(i32, i32)> = None;
    let mut flush = |run: Option<(i32, i32)>| match run {
        Some((a, b)) if a == b => parts.push(a.to_string()),
        Some((a, b)) if a + 1 == b => parts.push(format!("{a},{b}")),
        Some((a, b)) => parts.push(format!("{a}-{b}")),
        None => {}
    };
    for &i in all {
        run = match run {
            Some((a, b)) if b + 1 == i => Some((a, i)),
            other => {
                flush(other);
                Some((i, i))
            }
        };
    }
    flush(run);
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7,8", "0,2,4"] {
            assert_eq!(format(&parse(text, 10)), text);
        }
        assert_eq!(format(&parse("3-20", 5)), "3,4");
        assert_eq!(format(&parse("x,1", 5)), "1");
    }
}
