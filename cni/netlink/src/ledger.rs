//! The ledger: every host object is written down, durably, before it is made. Entry point: [`Ledger`].
//!
//! The file holds one JSON record a line: `{"seq":1,"made":{...}}` and `{"undone":1}`. A last line cut short by
//! a crash is ignored: what it announced was not made yet. Several processes (server, CNI plugin) append under
//! a lock. When most records are undone the file is rewritten; when nothing is left it is removed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::nft::Family;

/// Rewrite the file when it has this many lines more than twice the live records.
const SLACK_LINES: usize = 200;

/// Something we make on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Item {
    /// A link in the host namespace.
    Link {
        /// Interface name.
        name: String,
    },
    /// An address on a link that is not ours.
    Address {
        /// Interface name.
        link: String,
        /// Address with prefix length.
        address: String,
    },
    /// A route in the main table.
    Route {
        /// Destination with prefix length.
        destination: String,
        /// Outgoing interface.
        device: Option<String>,
        /// Next hop.
        gateway: Option<String>,
    },
    /// A network namespace bound to a path.
    Netns {
        /// Path.
        path: PathBuf,
    },
    /// A whole nftables table.
    NftTable {
        /// "ip" or "ip6".
        family: String,
        /// Table name.
        name: String,
    },
    /// A changed sysctl.
    Sysctl {
        /// Key with slashes.
        key: String,
        /// Value before we changed it.
        old: String,
    },
    /// A mount.
    Mount {
        /// Mount point.
        path: PathBuf,
    },
    /// A file that was not there before.
    File {
        /// Path.
        path: PathBuf,
    },
    /// A directory that was not there before; removed only when empty.
    Directory {
        /// Path.
        path: PathBuf,
    },
    /// A directory that is all ours with whatever is in it.
    Tree {
        /// Path.
        path: PathBuf,
    },
    /// A service manager's unit file.
    Unit {
        /// Path of the unit file.
        path: PathBuf,
    },
    /// A control group.
    Cgroup {
        /// Path below the cgroup mount point.
        path: PathBuf,
    },
}

impl Item {
    /// An nftables table.
    pub fn nft_table(family: Family, name: &str) -> Self {
        Self::NftTable { family: family.name().to_owned(), name: name.to_owned() }
    }

    /// What the item is, without what it was before: two sysctl records of one key are the same thing.
    fn identity(&self) -> Self {
        match self {
            Self::Sysctl { key, .. } => Self::Sysctl { key: key.clone(), old: String::new() },
            other => other.clone(),
        }
    }
}

/// A live record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Order of creation.
    pub seq: u64,
    /// What was made.
    pub item: Item,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Made { seq: u64, made: Item },
    Undone { undone: u64 },
}

/// The ledger file. Cheap to open; holds no lock between calls.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
}

impl Ledger {
    /// The ledger at `path`; the file and its directory are made on the first record.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let ledger = Self { path: path.into() };
        ledger.entries()?;
        Ok(ledger)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Live records, oldest first.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(self.parse(&text)?.live),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(self.io("read", &e)),
        }
    }

    /// Writes down that `item` is about to be made. Recording the same thing again changes nothing, so the
    /// oldest "value before" of a sysctl stays. Returns after the record is on disk.
    pub fn record(&self, item: &Item) -> Result<()> {
        self.locked(|file, state| {
            if state.live.iter().any(|e| e.item.identity() == item.identity()) {
                return Ok(());
            }
            append(file, state, &Line::Made { seq: state.next, made: item.clone() })
        })
    }

    /// Writes down that `item` is gone again.
    pub fn forget(&self, item: &Item) -> Result<()> {
        self.locked(|file, state| {
            let found = state.live.iter().find(|e| e.item.identity() == item.identity()).map(|e| e.seq);
            match found {
                Some(seq) => append(file, state, &Line::Undone { undone: seq }),
                None => Ok(()),
            }
        })?;
        self.compact()
    }

    /// True if `item` is on record.
    pub fn contains(&self, item: &Item) -> Result<bool> {
        Ok(self.entries()?.iter().any(|e| e.item.identity() == item.identity()))
    }

    /// Records and then writes a file of ours. A file that is there but not on record is somebody else's and
    /// is refused.
    pub fn create_file(&self, path: &Path, contents: &[u8], mode: u32) -> Result<()> {
        let item = Item::File { path: path.to_owned() };
        if path.exists() && !self.contains(&item)? {
            let detail = "the file is there already and was not made by us";
            return Err(Error::new("create file", path.display().to_string(), ErrorKind::Exists, detail));
        }
        self.record(&item)?;
        let tmp = path.with_extension("knarr-tmp");
        let write = || -> std::io::Result<()> {
            let mut f = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&tmp)?;
            f.write_all(contents)?;
            f.sync_all()?;
            std::fs::rename(&tmp, path)
        };
        write().map_err(|e| Error::io("create file", path.display().to_string(), &e))
    }

    /// Records and then makes a directory with its missing parents; each that was missing is recorded.
    pub fn create_directory(&self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
        for dir in missing.into_iter().rev() {
            self.record(&Item::Directory { path: dir.to_owned() })?;
            match std::fs::create_dir(dir) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create directory", dir.display().to_string(), &e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the file if nothing is on record any more.
    pub(crate) fn remove_if_empty(&self) -> Result<()> {
        if self.entries()?.is_empty() && self.path.exists() {
            std::fs::remove_file(&self.path).map_err(|e| self.io("remove", &e))?;
        }
        Ok(())
    }

    fn io(&self, operation: &'static str, e: &std::io::Error) -> Error {
        Error::io(operation, format!("ledger {}", self.path.display()), e)
    }

    fn parse(&self, text: &str) -> Result<State> {
        let mut live = BTreeMap::new();
        let (mut next, mut lines, mut good) = (1, 0, 0);
        for (number, raw) in text.split_inclusive('\n').enumerate() {
            let parsed = serde_json::from_str::<Line>(raw);
            let complete = raw.ends_with('\n');
            match parsed {
                Ok(Line::Made { seq, made }) if complete => {
                    next = next.max(seq + 1);
                    live.insert(seq, made);
                }
                Ok(Line::Undone { undone }) if complete => drop(live.remove(&undone)),
                _ if !complete => break,
                Ok(_) => {}
                Err(e) => {
                    let object = format!("ledger {} line {}", self.path.display(), number + 1);
                    return Err(Error::new("read", object, ErrorKind::Other, e.to_string()));
                }
            }
            lines += 1;
            good += raw.len() as u64;
        }
        let live = live.into_iter().map(|(seq, item)| Entry { seq, item }).collect();
        Ok(State { live, next, lines, good })
    }

    /// Opens, locks, reads, and hands over to `f`; the lock ends with the file handle. Starts over when the
    /// file was replaced or removed while we waited for the lock.
    fn locked<T>(&self, f: impl FnOnce(&mut File, &State) -> Result<T>) -> Result<T> {
        use std::os::unix::fs::MetadataExt;
        loop {
            if let Some(dir) = self.path.parent() {
                std::fs::create_dir_all(dir).map_err(|e| self.io("create directory of", &e))?;
            }
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)
                .map_err(|e| self.io("open", &e))?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
                .map_err(|e| self.io("lock", &e.into()))?;
            let here = file.metadata().map_err(|e| self.io("read", &e))?.ino();
            if std::fs::metadata(&self.path).map(|m| m.ino()).ok() != Some(here) {
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|e| self.io("read", &e))?;
            let state = self.parse(&text)?;
            if state.good < text.len() as u64 {
                file.set_len(state.good).map_err(|e| self.io("truncate", &e))?;
                file.seek(SeekFrom::End(0)).map_err(|e| self.io("seek", &e))?;
            }
            return f(&mut file, &state);
        }
    }

    /// Rewrites the file without what is undone, when that is most of it.
    fn compact(&self) -> Result<()> {
        self.locked(|_, state| {
            if state.lines < state.live.len() * 2 + SLACK_LINES {
                return Ok(());
            }
            let tmp = self.path.with_extension("rewrite");
            let write = || -> std::io::Result<()> {
                let mut out =
                    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
                for e in &state.live {
                    serde_json::to_writer(&mut out, &Line::Made { seq: e.seq, made: e.item.clone() })?;
                    out.write_all(b"\n")?;
                }
                out.sync_all()?;
                std::fs::rename(&tmp, &self.path)
            };
            write().map_err(|e| self.io("rewrite", &e))
        })
    }
}

#[derive(Debug)]
struct State {
    live: Vec<Entry>,
    next: u64,
    lines: usize,
    good: u64,
}

fn append(file: &mut File, _: &State, line: &Line) -> Result<()> {
    let fail = |e: &std::io::Error| Error::io("append to", "ledger", e);
    let mut bytes = serde_json::to_vec(line).map_err(|e| fail(&e.into()))?;
    bytes.push(b'\n');
    file.write_all(&bytes).map_err(|e| fail(&e))?;
    file.sync_data().map_err(|e| fail(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Item {
        Item::Link { name: name.into() }
    }

    #[test]
    fn records_survive_a_torn_last_line_and_keep_the_first_old_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/ledger");
        let ledger = Ledger::open(&path).unwrap();
        ledger.record(&Item::Sysctl { key: "net/ipv4/ip_forward".into(), old: "0".into() }).unwrap();
        ledger.record(&Item::Sysctl { key: "net/ipv4/ip_forward".into(), old: "1".into() }).unwrap();
        ledger.record(&link("a")).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"seq\":9,\"made\":{\"ki").unwrap();
        let again = Ledger::open(&path).unwrap();
        assert_eq!(again.entries().unwrap().len(), 2);
        again.record(&link("b")).unwrap();
        let items: Vec<Item> = again.entries().unwrap().into_iter().map(|e| e.item).collect();
        assert_eq!(
            items,
            [Item::Sysctl { key: "net/ipv4/ip_forward".into(), old: "0".into() }, link("a"), link("b")]
        );
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        std::fs::write(&path, "{\"undone\":1}\nrubbish\n{\"undone\":2}\n").unwrap();
        let e = Ledger::open(&path).unwrap_err();
        assert!(e.to_string().contains("line 2"), "{e}");
    }

    #[test]
    fn forgotten_records_do_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path().join("ledger")).unwrap();
        ledger.record(&link("stays")).unwrap();
        for i in 0..400 {
            ledger.record(&link(&format!("v{i}"))).unwrap();
            ledger.forget(&link(&format!("v{i}"))).unwrap();
        }
        assert_eq!(ledger.entries().unwrap().len(), 1);
        let lines = std::fs::read_to_string(ledger.path()).unwrap().lines().count();
        assert!(lines < 300, "{lines} lines");
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path().join("ledger")).unwrap();
        let foreign = dir.path().join("theirs");
        std::fs::write(&foreign, "x").unwrap();
        assert!(ledger.create_file(&foreign, b"y", 0o600).unwrap_err().is_exists());
        let ours = dir.path().join("ours");
        ledger.create_file(&ours, b"1", 0o600).unwrap();
        ledger.create_file(&ours, b"2", 0o600).unwrap();
        assert_eq!(std::fs::read(&ours).unwrap(), b"2");
    }
}
