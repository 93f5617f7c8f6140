//! Upstream's kubelet flags that a node understands (`--kubelet-arg name=value`), and the signals of eviction.
//!
//! Source: the kubelet's command-line reference and "Node-pressure Eviction" of the Kubernetes documentation.

use std::path::Path;

use knarr_machinery::quantity::Quantity;

use crate::config::KubeletConfig;

/// What is measured for node-pressure eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `memory.available`, in bytes.
    Memory,
    /// `nodefs.available`, in bytes.
    NodeFs,
    /// `nodefs.inodesFree`.
    NodeFsInodes,
    /// `imagefs.available`, in bytes.
    ImageFs,
    /// `imagefs.inodesFree`.
    ImageFsInodes,
    /// `pid.available`.
    Pid,
}

const SIGNALS: &[(&str, Signal)] = &[
    ("imagefs.available", Signal::ImageFs),
    ("imagefs.inodesFree", Signal::ImageFsInodes),
    ("memory.available", Signal::Memory),
    ("nodefs.available", Signal::NodeFs),
    ("nodefs.inodesFree", Signal::NodeFsInodes),
    ("pid.available", Signal::Pid),
];

/// How little is too little.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Bytes or pieces.
    Count(u64),
    /// A share of the capacity, in percent.
    Percent(f64),
}

/// A signal and its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// What is measured.
    pub signal: Signal,
    /// Below this the node is under pressure.
    pub limit: Limit,
}

/// So much of something is left, of so much in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Left.
    pub available: u64,
    /// In all.
    pub capacity: u64,
}

impl Amount {
    /// The bytes of the file system at a path, and its inodes (none on file systems without a fixed number).
    pub fn of_file_system(path: &Path) -> Option<(Self, Option<Self>)> {
        let fs = rustix::fs::statvfs(path).ok().filter(|fs| fs.f_blocks > 0)?;
        let bytes = Self { available: fs.f_bavail * fs.f_frsize, capacity: fs.f_blocks * fs.f_frsize };
        let inodes = Self { available: fs.f_favail, capacity: fs.f_files };
        Some((bytes, Some(inodes).filter(|i| i.capacity > 0)))
    }

    /// The used share, in whole percent.
    pub fn used_percent(self) -> u64 {
        100 - (u128::from(self.available) * 100 / u128::from(self.capacity.max(1))).min(100) as u64
    }
}

impl Threshold {
    /// Whether less is left than the limit.
    pub fn met(&self, amount: Amount) -> bool {
        match self.limit {
            Limit::Count(least) => amount.available < least,
            Limit::Percent(share) => (amount.available as f64) < amount.capacity as f64 * share / 100.0,
        }
    }
}

/// The limits of a node that was told nothing: memory as upstream; file systems as light distributions have them, where
/// upstream's 10 and 15 percent would waste most of a large disk.
pub fn default_eviction_hard() -> Vec<Threshold> {
    let threshold = |signal, limit| Threshold { signal, limit };
    vec![
        threshold(Signal::Memory, Limit::Count(100 << 20)),
        threshold(Signal::NodeFs, Limit::Percent(5.0)),
        threshold(Signal::NodeFsInodes, Limit::Percent(5.0)),
        threshold(Signal::ImageFs, Limit::Percent(5.0)),
        threshold(Signal::ImageFsInodes, Limit::Percent(5.0)),
        threshold(Signal::Pid, Limit::Percent(5.0)),
    ]
}

type Set = fn(&mut KubeletConfig, &str) -> Result<(), String>;

/// The flags that are understood.
const ARGUMENTS: &[(&str, Set)] = &[
    ("container-log-max-files", |c, v| {
        c.log_max_files =
            v.parse().ok().filter(|n| *n > 1).ok_or_else(|| format!("{v:?} is not a number above 1"))?;
        Ok(())
    }),
    ("container-log-max-size", |c, v| {
        c.log_max_bytes = bytes(v)?;
        Ok(())
    }),
    ("eviction-hard", |c, v| {
        c.eviction_hard =
            v.split(',').filter(|t| !t.is_empty()).map(threshold).collect::<Result<_, String>>()?;
        Ok(())
    }),
    ("image-gc-high-threshold", |c, v| {
        c.image_gc_high_percent = percent(v)?;
        Ok(())
    }),
    ("image-gc-low-threshold", |c, v| {
        c.image_gc_low_percent = percent(v)?;
        Ok(())
    }),
    ("max-pods", |c, v| {
        c.max_pods = v.parse().map_err(|_| format!("{v:?} is not a number of pods"))?;
        Ok(())
    }),
];

/// Takes over flags of the form `name=value`.
///
/// # Errors
/// Names the flag that is not understood, or the value that is not valid.
pub fn apply(config: &mut KubeletConfig, arguments: &[String]) -> Result<(), String> {
    for argument in arguments {
        let (name, value) = argument
            .strip_prefix("--")
            .unwrap_or(argument)
            .split_once('=')
            .ok_or_else(|| format!("{argument:?} is not of the form name=value"))?;
        let set = find(ARGUMENTS, name, "not a flag of the kubelet that is supported:")?;
        set(config, value).map_err(|detail| format!("{name}: {detail}"))?;
    }
    if config.image_gc_low_percent >= config.image_gc_high_percent {
        return Err(format!(
            "image-gc-low-threshold {} is not below image-gc-high-threshold {}",
            config.image_gc_low_percent, config.image_gc_high_percent
        ));
    }
    Ok(())
}

/// The row of this name; `complaint` introduces the names that there are.
fn find<'a, T>(table: &'a [(&str, T)], name: &str, complaint: &str) -> Result<&'a T, String> {
    table.iter().find(|(known, _)| *known == name).map(|(_, row)| row).ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|(known, _)| *known).collect();
        format!("{name:?} is {complaint} {}", known.join(", "))
    })
}

fn threshold(text: &str) -> Result<Threshold, String> {
    let (name, limit) =
        text.split_once('<').ok_or_else(|| format!("{text:?} is not of the form signal<limit"))?;
    let signal = *find(SIGNALS, name, "not one of")?;
    let limit = match limit.strip_suffix('%') {
        Some(share) => {
            let share = share.parse().ok().filter(|share| (0.0..=100.0).contains(share));
            Limit::Percent(share.ok_or_else(|| format!("{limit:?} is not a share from 0% to 100%"))?)
        }
        None => Limit::Count(bytes(limit)?),
    };
    Ok(Threshold { signal, limit })
}

fn bytes(text: &str) -> Result<u64, String> {
    let quantity = Quantity::parse(text).map_err(|_| format!("{text:?} is not a quantity such as 10Mi"))?;
    u64::try_from(quantity.value()).map_err(|_| format!("{text:?} is below zero"))
}

fn percent(text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|n| *n <= 100).ok_or_else(|| format!("{text:?} is not a number from 0 to 100"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(arguments: &[&str]) -> Result<KubeletConfig, String> {
        let mut config = KubeletConfig::new("a");
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        apply(&mut config, &arguments).map(|()| config)
    }

    #[test]
    fn known_flags_are_taken_over() {
        let config = applied(&[
            "eviction-hard=imagefs.available<1Gi,nodefs.available<2.5%",
            "--max-pods=20",
            "image-gc-high-threshold=100",
            "container-log-max-size=1Mi",
        ])
        .unwrap();
        let image = Threshold { signal: Signal::ImageFs, limit: Limit::Count(1 << 30) };
        let node = Threshold { signal: Signal::NodeFs, limit: Limit::Percent(2.5) };
        assert_eq!(config.eviction_hard, [image, node]);
        assert_eq!((config.max_pods, config.image_gc_high_percent, config.log_max_bytes), (20, 100, 1 << 20));
        assert_eq!(applied(&["eviction-hard="]).unwrap().eviction_hard, []);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (argument, want) in [
            ("max-pods", "\"max-pods\" is not of the form name=value"),
            (
                "cpu-manager-policy=static",
                "\"cpu-manager-policy\" is not a flag of the kubelet that is supported: ",
            ),
            ("max-pods=x", "max-pods: \"x\" is not a number of pods"),
            ("eviction-hard=disk<1%", "eviction-hard: \"disk\" is not one of imagefs.available, "),
            ("eviction-hard=nodefs.available<101%", "eviction-hard: \"101%\" is not a share"),
            ("eviction-hard=nodefs.available", "eviction-hard: \"nodefs.available\" is not of the form"),
            ("eviction-hard=nodefs.available<1Zi", "eviction-hard: \"1Zi\" is not a quantity"),
            (
                "image-gc-high-threshold=80",
                "image-gc-low-threshold 80 is not below image-gc-high-threshold 80",
            ),
        ] {
            let error = applied(&[argument]).err().unwrap();
            assert!(error.starts_with(want), "{error}\n{want}");
        }
    }

    #[test]
    fn limits_are_met_below_them() {
        let amount = |available, capacity| Amount { available, capacity };
        let threshold = |limit| Threshold { signal: Signal::NodeFs, limit };
        let (share, count) = (threshold(Limit::Percent(5.0)), threshold(Limit::Count(10)));
        assert!(share.met(amount(4, 100)) && !share.met(amount(5, 100)));
        assert!(count.met(amount(9, 10)) && !count.met(amount(10, 10)));
        assert_eq!(amount(15, 100).used_percent(), 85);
    }
}
