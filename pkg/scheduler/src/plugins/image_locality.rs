//! ImageLocality: nodes that have the pod's images are better, the more so the larger and the more common they are.

use std::collections::HashMap;

use super::{Plugin, Prepared, admits_all, never};
use crate::cache::NodeInfo;
use crate::cycle::MAX_SCORE;

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "ImageLocality",
    weight: 1,
    admits: admits_all,
    prepare: |cycle| {
        let images: Vec<String> = cycle.pod.images.iter().map(|i| full_name(i)).collect();
        let known = images.iter().any(|i| cycle.image_spread.contains_key(i));
        known.then(|| {
            Box::new(Images { images, spread: cycle.image_spread, nodes: cycle.nodes.len() })
                as Box<dyn Prepared>
        })
    },
    wakes: never,
};

const MEBIBYTE: i64 = 1024 * 1024;
/// Images smaller than this, together, do not matter.
const LEAST: i64 = 23 * MEBIBYTE;
/// Per container: images larger than this count no more.
const MOST: i64 = 1000 * MEBIBYTE;

/// An image without tag or digest means `latest`.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

struct Images<'a> {
    images: Vec<String>,
    spread: &'a HashMap<String, usize>,
    nodes: usize,
}

impl Prepared for Images<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let part = |image: &String| {
            let size = node.images.get(image).copied().unwrap_or(0);
            let count = self.spread.get(image).copied().unwrap_or(0);
            let (count, nodes) =
                (i64::try_from(count).unwrap_or(0), i64::try_from(self.nodes).unwrap_or(1).max(1));
            size.saturating_mul(count) / nodes
        };
        let sum: i64 = self.images.iter().map(part).sum();
        let most = MOST * i64::try_from(self.images.len()).unwrap_or(1).max(1);
        (sum.clamp(LEAST, most) - LEAST) * MAX_SCORE / (most - LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (given, full) in [
            ("busybox", "busybox:latest"),
            ("r.io:5000/a/b", "r.io:5000/a/b:latest"),
            ("a:1", "a:1"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(full_name(given), full);
        }
    }
}
