//! Sides next to each other, with ratios.

use std::fmt::Write as _;

use crate::load::Figure;

/// What all sides brought.
#[derive(Default)]
pub struct Report {
    sides: Vec<(String, &'static str, Vec<Figure>)>,
    /// Ours only.
    pub scheduling: Vec<Figure>,
}

fn number(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "-".to_owned(),
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({}), Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim())
}

impl Report {
    /// Adds what a side brought.
    pub fn add(&mut self, name: &str, about: &'static str, figures: Vec<Figure>) {
        self.sides.push((name.to_owned(), about, figures));
    }

    /// Markdown. A ratio above 1 means that ours is better by that factor.
    ///
    /// # Errors
    /// None that can happen: writing to a string.
    pub fn render(&self, quick: bool) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let date = jiff::Zoned::now().strftime("%Y-%m-%d");
        writeln!(out, "# Benchmarks\n")?;
        writeln!(
            out,
            "`tests/bench/run.sh{}`, {date}, {}. Load generator and server share the machine; sides ran one after",
            if quick { " --quick" } else { "" },
            machine()
        )?;
        writeln!(
            out,
            "the other with the same requests over HTTP/2 + TLS. CPU and bytes are those of the side's processes (API server and store; ours without"
        )?;
        writeln!(out, "containerd). A ratio above 1 means: ours is better by that factor.\n")?;
        for (name, about, _) in &self.sides {
            writeln!(out, "- **{name}**: {about}")?;
        }
        let ours = self.sides.iter().find(|(name, ..)| name == "knarr").map(|(.., f)| f);
        let names: Vec<&str> = self.sides.iter().map(|(n, ..)| n.as_str()).collect();
        let others: Vec<&(String, &str, Vec<Figure>)> =
            self.sides.iter().filter(|(n, ..)| n != "knarr").collect();
        write!(out, "\n| what | unit | {} |", names.join(" | "))?;
        for (name, ..) in &others {
            write!(out, " against {name} |")?;
        }
        writeln!(out, "\n|---|---|{}", "---:|".repeat(names.len() + others.len()))?;
        let rows = self.sides.last().map(|(.., f)| f.as_slice()).unwrap_or_default();
        for row in rows {
            write!(out, "| {} | {} |", row.what, row.unit)?;
            for (.., figures) in &self.sides {
                write!(out, " {} |", find(figures, &row.what).map_or("-".to_owned(), |f| number(f.value)))?;
            }
            for (.., figures) in &others {
                let pair = find(figures, &row.what).zip(ours.and_then(|o| find(o, &row.what)));
                let ratio =
                    pair.map(
                        |(stock, ours)| {
                            if row.less { stock.value / ours.value } else { ours.value / stock.value }
                        },
                    );
                write!(out, " {} |", ratio.map_or("-".to_owned(), |r| format!("{}x", number(r))))?;
            }
            writeln!(out)?;
        }
        if !self.scheduling.is_empty() {
            writeln!(
                out,
                "\n## Scheduling over simulated nodes (ours; the pods are created over the API while they are scheduled)\n"
            )?;
            writeln!(out, "| what | unit | knarr |\n|---|---|---:|")?;
            for figure in &self.scheduling {
                writeln!(out, "| {} | {} | {} |", figure.what, figure.unit, number(figure.value))?;
            }
        }
        Ok(out)
    }
}

fn find<'a>(figures: &'a [Figure], what: &str) -> Option<&'a Figure> {
    figures.iter().find(|f| f.what == what)
}
