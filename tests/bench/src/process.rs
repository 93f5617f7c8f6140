//! What the kernel says about the processes of a side. Figures are sums over all of them.

use anyhow::Context;

/// A reading of counters; two of them make a cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU time, user and system, in milliseconds (10 ms steps).
    pub cpu_ms: f64,
    /// Bytes that were sent to the disk.
    pub written: u64,
    /// Voluntary context switches of all threads.
    pub wakeups: u64,
}

impl Usage {
    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms - earlier.cpu_ms,
            written: self.written.saturating_sub(earlier.written),
            wakeups: self.wakeups.saturating_sub(earlier.wakeups),
        }
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.to_owned())
}

fn one(pid: u32) -> anyhow::Result<Usage> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    // utime and stime, the 14th and 15th fields of proc(5), counted behind the command name.
    let after: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| after.get(at).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    let hertz = rustix::param::clock_ticks_per_second();
    let mut wakeups = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended meanwhile.
        let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        wakeups += field(&status, "voluntary_ctxt_switches:");
    }
    Ok(Usage {
        cpu_ms: (ticks(11) + ticks(12)) as f64 * 1000.0 / hertz as f64,
        written: field(&read(&format!("/proc/{pid}/io"))?, "write_bytes:"),
        wakeups,
    })
}

/// Counters of all processes.
///
/// # Errors
/// One of them has ended.
pub fn usage(pids: &[u32]) -> anyhow::Result<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let next = one(*pid)?;
        sum.cpu_ms += next.cpu_ms;
        sum.written += next.written;
        sum.wakeups += next.wakeups;
    }
    Ok(sum)
}

/// Processes that these have started, and theirs.
///
/// # Errors
/// One of them has ended.
pub fn children(pids: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut open = pids.to_vec();
    while let Some(pid) = open.pop() {
        for task in
            std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?
        {
            let path = task?.path().join("children");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            for child in text.split_whitespace().filter_map(|c| c.parse().ok()) {
                found.push(child);
                open.push(child);
            }
        }
    }
    Ok(found)
}

/// Resident memory of each process, in MB.
///
/// # Errors
/// One of them has ended.
pub fn resident_mb(pids: &[u32]) -> anyhow::Result<Vec<f64>> {
    pids.iter()
        .map(|pid| Ok(field(&read(&format!("/proc/{pid}/status"))?, "VmRSS:") as f64 / 1024.0))
        .collect()
}
