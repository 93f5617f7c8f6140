//! Undoing what the ledger holds, and saying what is left. Entry points: [`Ledger::undo_all`], [`Ledger::verify`].

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{Kernel, Netns, Route, RouteScope};
use crate::ledger::{Entry, Item, Ledger};
use crate::nft::Family;

/// What came of undoing.
#[derive(Debug, Default)]
pub struct UndoReport {
    /// Items undone (or found gone already).
    pub undone: Vec<Item>,
    /// Items that could not be undone, and why; they stay on record.
    pub errors: Vec<(Item, Error)>,
}

/// An item that is on record and still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The item.
    pub item: Item,
    /// How it was seen to be there.
    pub evidence: String,
}

impl Ledger {
    /// Undoes everything on record, newest first. Goes on after a failure; can be run again. When nothing is
    /// left the ledger file is removed too.
    pub async fn undo_all(&self, kernel: &dyn Kernel) -> Result<UndoReport> {
        let mut report = UndoReport::default();
        for Entry { item, .. } in self.entries()?.into_iter().rev() {
            match undo(kernel, &item).await {
                Ok(()) => {
                    self.forget(&item)?;
                    report.undone.push(item);
                }
                Err(e) => report.errors.push((item, e)),
            }
        }
        self.remove_if_empty()?;
        Ok(report)
    }

    /// What is on record and still there.
    pub async fn verify(&self, kernel: &dyn Kernel) -> Result<Vec<Left>> {
        let mut left = Vec::new();
        for Entry { item, .. } in self.entries()? {
            if let Some(evidence) = evidence(kernel, &item).await? {
                left.push(Left { item, evidence });
            }
        }
        Ok(left)
    }
}

fn family(name: &str) -> Result<Family> {
    match name {
        "ip" => Ok(Family::Ip),
        "ip6" => Ok(Family::Ip6),
        "bridge" => Ok(Family::Bridge),
        other => Err(Error::new(
            "undo",
            format!("nftables family {other}"),
            ErrorKind::Unsupported,
            "not one of ip, ip6, bridge",
        )),
    }
}

fn parse<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|e: T::Err| Error::new("read", format!("{what} {text:?}"), ErrorKind::Other, e.to_string()))
}

fn route(destination: &str, device: Option<&String>, gateway: Option<&String>) -> Result<Route> {
    Ok(Route {
        destination: parse("route destination", destination)?,
        gateway: gateway.map(|g| parse("route gateway", g)).transpose()?,
        device: device.cloned(),
        source: None,
        // A route to a link-scope destination has no gateway; deletion must name the same scope.
        scope: if gateway.is_none() { RouteScope::Link } else { RouteScope::Universe },
    })
}

async fn undo(kernel: &dyn Kernel, item: &Item) -> Result<()> {
    let ns = &Netns::Host;
    match item {
        Item::Link { name } => kernel.delete_link(ns, name).await.map(drop),
        Item::Address { link, address } => {
            let address = parse("address", address)?;
            match kernel.link(ns, link).await? {
                Some(_) => kernel.delete_address(ns, link, address).await.map(drop),
                None => Ok(()),
            }
        }
        Item::Route { destination, device, gateway } => {
            if let Some(dev) = device
                && kernel.link(ns, dev).await?.is_none()
            {
                return Ok(());
            }
            kernel.delete_route(ns, &route(destination, device.as_ref(), gateway.as_ref())?).await.map(drop)
        }
        Item::Netns { path } => kernel.delete_netns(path).await.map(drop),
        Item::NftTable { family: f, name } => kernel.nft_delete_table(ns, family(f)?, name).await.map(drop),
        Item::Sysctl { key, old } => match kernel.sysctl(ns, key).await? {
            Some(now) if now != *old => kernel.set_sysctl(ns, key, old).await,
            _ => Ok(()),
        },
        Item::Mount { path } => unmount(path),
        Item::File { path } => gone_is_fine(path, "remove file", std::fs::remove_file(path)),
        Item::Directory { path } => gone_is_fine(path, "remove directory", std::fs::remove_dir(path)),
        Item::Tree { path } => remove_tree(path),
        Item::Unit { path } => remove_unit(path),
        Item::Cgroup { path } => remove_cgroup(path),
    }
}

fn gone_is_fine(path: &Path, operation: &'static str, r: std::io::Result<()>) -> Result<()> {
    match r {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(operation, path.display().to_string(), &e))
        }
        _ => Ok(()),
    }
}

/// Mount points at or below `path`, deepest last.
fn mounts_below(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let text =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| Error::io("read", "mount table", &e))?;
    let points = text.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape);
    Ok(points.map(std::path::PathBuf::from).filter(|p| p.starts_with(path)).collect())
}

/// The mount table writes blanks and such as octal escapes.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(c) => {
                out.push(char::from(c));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// Unmounts everything at the path (mounts may be stacked); a busy one is detached.
fn unmount(path: &Path) -> Result<()> {
    for _ in 0..16 {
        if !mounts_below(path)?.iter().any(|p| p == path) {
            return Ok(());
        }
        nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).map_err(|e| {
            Error::new("unmount", path.display().to_string(), ErrorKind::Other, e.to_string())
        })?;
    }
    Err(Error::new(
        "unmount",
        path.display().to_string(),
        ErrorKind::Other,
        "more than 16 mounts are stacked there",
    ))
}

/// Removes a tree, but never through a mount: what is mounted below is not ours to delete.
fn remove_tree(path: &Path) -> Result<()> {
    if let Some(mount) = mounts_below(path)?.first() {
        let detail = format!("{} is still mounted", mount.display());
        return Err(Error::new("remove tree", path.display().to_string(), ErrorKind::Other, detail));
    }
    gone_is_fine(path, "remove tree", std::fs::remove_dir_all(path))
}

fn remove_unit(path: &Path) -> Result<()> {
    let object = || path.display().to_string();
    if let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        for wants in entries.filter(|e| e.path().extension().is_some_and(|x| x == "wants" || x == "requires"))
        {
            let enabled = wants.path().join(name);
            if enabled.is_symlink() {
                gone_is_fine(&enabled, "disable unit", std::fs::remove_file(&enabled))?;
            }
        }
    }
    gone_is_fine(path, "remove unit", std::fs::remove_file(path))?;
    if Path::new("/run/systemd/system").exists() {
        let status = std::process::Command::new("systemctl").arg("daemon-reload").status();
        match status {
            Ok(s) if !s.success() => {
                return Err(Error::new("reload after unit", object(), ErrorKind::Other, s.to_string()));
            }
            Err(e) => return Err(Error::io("reload after unit", object(), &e)),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Removes a control group and those below it. Processes still in it make this fail: they are not killed here.
fn remove_cgroup(path: &Path) -> Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    let children =
        std::fs::read_dir(path).map_err(|e| Error::io("read cgroup", path.display().to_string(), &e))?;
    for child in children.flatten().filter(|c| c.path().is_dir()) {
        remove_cgroup(&child.path())?;
    }
    gone_is_fine(path, "remove cgroup", std::fs::remove_dir(path))
}

async fn evidence(kernel: &dyn Kernel, item: &Item) -> Result<Option<String>> {
    let ns = &Netns::Host;
    let found = |there: bool, text: String| there.then_some(text);
    Ok(match item {
        Item::Link { name } => {
            kernel.link(ns, name).await?.map(|l| format!("link {} has index {}", l.name, l.index))
        }
        Item::Address { link, address } => {
            let address = parse("address", address)?;
            let there = kernel.link(ns, link).await?.is_some()
                && kernel.addresses(ns, link).await?.contains(&address);
            found(there, format!("{link} has {address}"))
        }
        Item::Route { destination, device, .. } => {
            let to = parse("route destination", destination)?;
            let there = kernel
                .routes(ns)
                .await?
                .iter()
                .any(|r| r.destination == to && (device.is_none() || r.device == *device));
            found(there, format!("there is a route to {destination}"))
        }
        Item::Netns { path } => {
            found(kernel.netns_exists(path).await?, format!("{} is a netns", path.display()))
        }
        Item::NftTable { family: f, name } => found(
            kernel.nft_table(ns, family(f)?, name).await?.is_some(),
            format!("table {f} {name} is there"),
        ),
        Item::Sysctl { key, old } => {
            let now = kernel.sysctl(ns, key).await?;
            now.filter(|n| n != old).map(|n| format!("{key} is {n}, was {old}"))
        }
        Item::Mount { path } => {
            found(mounts_below(path)?.iter().any(|p| p == path), format!("{} is mounted", path.display()))
        }
        Item::File { path }
        | Item::Directory { path }
        | Item::Tree { path }
        | Item::Unit { path }
        | Item::Cgroup { path } => {
            found(path.symlink_metadata().is_ok(), format!("{} exists", path.display()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FakeKernel;
    use crate::kernel::BridgeSpec;

    #[tokio::test]
    async fn undoes_newest_first_goes_on_after_failures_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = FakeKernel::new(&[("net/ipv4/ip_forward", "0")]);
        let ledger = Ledger::open(dir.path().join("ledger")).unwrap();
        ledger.record(&Item::Sysctl { key: "net/ipv4/ip_forward".into(), old: "0".into() }).unwrap();
        kernel.set_sysctl(&Netns::Host, "net/ipv4/ip_forward", "1").await.unwrap();
        let tree = dir.path().join("data");
        ledger.create_directory(&tree).unwrap();
        ledger.record(&Item::Link { name: "knarr0".into() }).unwrap();
        let spec = BridgeSpec { name: "knarr0".into(), mac: [2; 6], mtu: None };
        kernel.add_bridge(&Netns::Host, &spec).await.unwrap();
        std::fs::write(tree.join("foreign"), "x").unwrap();

        assert_eq!(ledger.verify(&kernel).await.unwrap().len(), 3);
        let report = ledger.undo_all(&kernel).await.unwrap();
        assert_eq!((report.undone.len(), report.errors.len()), (2, 1), "{report:?}");
        assert_eq!(kernel.sysctl(&Netns::Host, "net/ipv4/ip_forward").await.unwrap().as_deref(), Some("0"));
        assert!(kernel.links(&Netns::Host).await.unwrap().is_empty());
        std::fs::remove_file(tree.join("foreign")).unwrap();
        let report = ledger.undo_all(&kernel).await.unwrap();
        assert_eq!((report.undone.len(), report.errors.len()), (1, 0));
        assert!(!ledger.path().exists() && ledger.verify(&kernel).await.unwrap().is_empty());
        assert!(ledger.undo_all(&kernel).await.unwrap().undone.is_empty());
    }

    #[test]
    fn mount_table_escapes() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
