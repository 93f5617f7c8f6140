//! Image archives: OCI layouts and `docker save` archives, plain, gzip or zstd. Entry point: [`Archive::open`].

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{Error, Failure};

const OPERATION: &str = "ImportImage";
/// Manifests, indexes and configurations are read into memory; anything larger is not one.
const DOCUMENT_LIMIT_BYTES: u64 = 8 << 20;
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Where the bytes of a blob are.
#[derive(Clone)]
pub enum Source {
    /// In memory.
    Bytes(Vec<u8>),
    /// A part of a file.
    Part {
        /// The uncompressed archive.
        file: Arc<File>,
        /// Where in it the blob starts.
        offset: u64,
    },
}

/// One content-addressed blob of an image.
#[derive(Clone)]
pub struct Blob {
    /// `sha256:...`
    pub digest: String,
    /// Length in bytes.
    pub size: u64,
    /// The references that keep other blobs alive, as containerd's garbage collector reads them.
    pub labels: BTreeMap<String, String>,
    /// The bytes.
    pub source: Source,
}

impl Blob {
    /// Reads up to `buffer.len()` bytes at `at`.
    pub fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        match &self.source {
            Source::Bytes(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                let part = &bytes[from..bytes.len().min(from + want)];
                buffer[..part.len()].copy_from_slice(part);
                Ok(part.len())
            }
            Source::Part { file, offset } => file.read_at(&mut buffer[..want], offset + at),
        }
    }
}

/// An image ready to be stored: its root descriptor and every blob under it, children first.
#[derive(Clone)]
pub struct Image {
    /// Full names (`docker.io/library/busybox:latest`).
    pub names: Vec<String>,
    /// Media type of the root.
    pub media_type: String,
    /// Digest of the root.
    pub digest: String,
    /// Size of the root.
    pub size: u64,
    /// All blobs, the root last.
    pub blobs: Vec<Blob>,
}

/// `sha256:` and the digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The full form of an image name: registry, `library/` and tag as docker and containerd complete them.
pub fn normalize(name: &str) -> String {
    let (first, rest) = match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => (None, name),
        Some(_) => (Some("docker.io"), name),
        None => (Some("docker.io/library"), name),
    };
    let full = first.map_or_else(|| rest.to_owned(), |prefix| format!("{prefix}/{rest}"));
    let tagged = full.contains('@') || full.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if tagged { full } else { format!("{full}:latest") }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    media_type: String,
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An opened archive: where each of its files is.
pub struct Archive {
    path: String,
    stem: String,
    file: Arc<File>,
    entries: HashMap<String, (u64, u64)>,
}

impl Archive {
    /// Opens `path`, unpacking a compressed one into an unnamed temporary file first.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let failed = |e: io::Error| Error::new(OPERATION, shown.clone(), Failure::Invalid, e.to_string());
        let mut file = File::open(path).map_err(failed)?;
        let mut magic = [0u8; 4];
        let got = file.read(&mut magic).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        if magic[..got].starts_with(&[0x1f, 0x8b]) {
            file = unpacked(&mut flate2::read::MultiGzDecoder::new(BufReader::new(file))).map_err(failed)?;
        } else if magic[..got] == [0x28, 0xb5, 0x2f, 0xfd] {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(file))
                .map_err(|e| Error::new(OPERATION, shown.clone(), Failure::Invalid, e.to_string()))?;
            file = unpacked(&mut decoder).map_err(failed)?;
        }
        let entries = index(&file).map_err(failed)?;
        if entries.is_empty() {
            return Err(Error::new(OPERATION, shown, Failure::Invalid, "not a tar archive, or an empty one"));
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default().to_lowercase();
        Ok(Self { path: shown, stem, file: Arc::new(file), entries })
    }

    /// All images of the archive.
    pub fn images(&self) -> Result<Vec<Image>, Error> {
        if self.entries.contains_key("index.json") && self.entries.contains_key("oci-layout") {
            self.oci()
        } else if self.entries.contains_key("manifest.json") {
            self.docker()
        } else {
            Err(self
                .error("neither an OCI layout (index.json, oci-layout) nor a docker archive (manifest.json)"))
        }
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::new(OPERATION, self.path.clone(), Failure::Invalid, message)
    }

    fn part(&self, name: &str) -> Result<(u64, u64), Error> {
        self.entries.get(name).copied().ok_or_else(|| self.error(format!("the archive has no file {name}")))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let (offset, size) = self.part(name)?;
        if size > DOCUMENT_LIMIT_BYTES {
            return Err(self.error(format!(
                "{name}: {size} bytes, more than the limit of {DOCUMENT_LIMIT_BYTES} for a document"
            )));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| self.error(format!("{name}: {e}")))?;
        Ok(bytes)
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self, name: &str, bytes: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(bytes).map_err(|e| self.error(format!("{name}: {e}")))
    }

    fn oci(&self) -> Result<Vec<Image>, Error> {
        let root: Document = self.parse("index.json", &self.read("index.json")?)?;
        let mut images = Vec::new();
        for descriptor in &root.manifests {
            let name = self.oci_name(descriptor)?;
            let mut blobs = Vec::new();
            let media_type = self.collect(&descriptor.digest, &descriptor.media_type, &mut blobs)?;
            let (digest, size) = (descriptor.digest.clone(), descriptor.size);
            images.push(Image { names: vec![name], media_type, digest, size, blobs });
        }
        Ok(images)
    }

    fn oci_name(&self, descriptor: &Descriptor) -> Result<String, Error> {
        if let Some(name) = descriptor.annotations.get("io.containerd.image.name") {
            return Ok(normalize(name));
        }
        match descriptor.annotations.get("org.opencontainers.image.ref.name") {
            // A mere tag: the file's own name stands for the repository.
            Some(tag) if !tag.contains([':', '/']) => Ok(normalize(&format!("{}:{tag}", self.stem))),
            Some(name) => Ok(normalize(name)),
            None => {
                Err(self.error(format!("index.json: manifest {} has no name annotation", descriptor.digest)))
            }
        }
    }

    /// Adds the blob `digest` and all it refers to, children first; gives its media type.
    fn collect(&self, digest: &str, media_type: &str, blobs: &mut Vec<Blob>) -> Result<String, Error> {
        let file = format!("blobs/{}", digest.replacen(':', "/", 1));
        let bytes = self.read(&file)?;
        if self::digest(&bytes) != digest {
            return Err(self.error(format!("{file}: the content does not have this digest")));
        }
        let document: Document = self.parse(&file, &bytes)?;
        let mut labels = BTreeMap::new();
        for (n, child) in document.manifests.iter().enumerate() {
            // An index may name platforms that the archive was not given.
            if self.entries.contains_key(&format!("blobs/{}", child.digest.replacen(':', "/", 1))) {
                self.collect(&child.digest, &child.media_type, blobs)?;
                labels.insert(format!("containerd.io/gc.ref.content.m.{n}"), child.digest.clone());
            }
        }
        for (label, child) in document
            .config
            .iter()
            .map(|c| ("config".to_owned(), c))
            .chain(document.layers.iter().enumerate().map(|(n, l)| (format!("l.{n}"), l)))
        {
            let (offset, size) = self.part(&format!("blobs/{}", child.digest.replacen(':', "/", 1)))?;
            let source = Source::Part { file: self.file.clone(), offset };
            blobs.push(Blob { digest: child.digest.clone(), size, labels: BTreeMap::new(), source });
            labels.insert(format!("containerd.io/gc.ref.content.{label}"), child.digest.clone());
        }
        let size = bytes.len() as u64;
        blobs.push(Blob { digest: digest.to_owned(), size, labels, source: Source::Bytes(bytes) });
        let own = if media_type.is_empty() { document.media_type } else { media_type.to_owned() };
        if own.is_empty() { Err(self.error(format!("{file}: no media type"))) } else { Ok(own) }
    }

    fn docker(&self) -> Result<Vec<Image>, Error> {
        let manifests: Vec<DockerManifest> = self.parse("manifest.json", &self.read("manifest.json")?)?;
        manifests.iter().map(|manifest| self.docker_image(manifest)).collect()
    }

    fn docker_image(&self, manifest: &DockerManifest) -> Result<Image, Error> {
        let names: Vec<String> = manifest.repo_tags.iter().flatten().map(|name| normalize(name)).collect();
        if names.is_empty() {
            return Err(self.error(format!("manifest.json: the image {} has no RepoTags", manifest.config)));
        }
        let config = self.read(&manifest.config)?;
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let (offset, size) = self.part(layer)?;
            let mut blob = Blob {
                digest: String::new(),
                size,
                labels: BTreeMap::new(),
                source: Source::Part { file: self.file.clone(), offset },
            };
            let (digest, gzip) = hashed(&blob).map_err(|e| self.error(format!("{layer}: {e}")))?;
            blob.digest = digest;
            layers.push((blob, if gzip { ".gzip" } else { "" }));
        }
        Ok(assemble(names, config, layers, MANIFEST, CONFIG, LAYER))
    }
}

/// Makes an image of a configuration and layers, with the manifest that ties them.
pub(crate) fn assemble(
    names: Vec<String>,
    config: Vec<u8>,
    layers: Vec<(Blob, &str)>,
    manifest_type: &str,
    config_type: &str,
    layer_type: &str,
) -> Image {
    let mut labels = BTreeMap::new();
    let config = Blob {
        digest: digest(&config),
        size: config.len() as u64,
        labels: BTreeMap::new(),
        source: Source::Bytes(config),
    };
    labels.insert("containerd.io/gc.ref.content.config".to_owned(), config.digest.clone());
    let described: Vec<_> = layers
        .iter()
        .enumerate()
        .map(|(n, (blob, suffix))| {
            labels.insert(format!("containerd.io/gc.ref.content.l.{n}"), blob.digest.clone());
            serde_json::json!({"mediaType": format!("{layer_type}{suffix}"), "digest": blob.digest, "size": blob.size})
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest_type, "layers": described,
        "config": {"mediaType": config_type, "digest": config.digest, "size": config.size},
    })
    .to_string()
    .into_bytes();
    let (digest, size) = (digest(&manifest), manifest.len() as u64);
    let root = Blob { digest: digest.clone(), size, labels, source: Source::Bytes(manifest) };
    let blobs =
        std::iter::once(config).chain(layers.into_iter().map(|(blob, _)| blob)).chain([root]).collect();
    Image { names, media_type: manifest_type.to_owned(), digest, size, blobs }
}

/// Digest of a blob, and whether it is gzip.
fn hashed(blob: &Blob) -> io::Result<(String, bool)> {
    let (mut sha, mut at, mut buffer, mut gzip) = (Sha256::new(), 0u64, vec![0u8; 1 << 20], false);
    loop {
        let got = blob.read_at(at, &mut buffer)?;
        if got == 0 {
            break;
        }
        gzip |= at == 0 && buffer[..got].starts_with(&[0x1f, 0x8b]);
        sha.update(&buffer[..got]);
        at += got as u64;
    }
    if at != blob.size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{at} of {} bytes", blob.size)));
    }
    Ok((format!("sha256:{}", hex(&sha.finalize())), gzip))
}

fn unpacked(from: &mut dyn Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(from, &mut file)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Offsets and sizes of all regular files, with links resolved to what they point at.
fn index(file: &File) -> io::Result<HashMap<String, (u64, u64)>> {
    let clean = |path: &Path| path.to_string_lossy().trim_start_matches("./").to_owned();
    let (mut entries, mut links) = (HashMap::new(), Vec::new());
    let mut archive = tar::Archive::new(BufReader::new(file));
    for entry in archive.entries()? {
        let entry = entry?;
        let name = clean(&entry.path()?);
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                entries.insert(name, (entry.raw_file_position(), entry.size()));
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                if let Some(target) = entry.link_name()? {
                    let target = clean(&target);
                    let own_dir = name.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned();
                    let resolved = target.strip_prefix("../").map_or_else(
                        || {
                            if entry.header().entry_type().is_hard_link() || own_dir.is_empty() {
                                target.clone()
                            } else {
                                format!("{own_dir}/{target}")
                            }
                        },
                        str::to_owned,
                    );
                    links.push((name, resolved));
                }
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(at) = entries.get(&target).copied() {
            entries.insert(name, at);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (given, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost/b", "localhost/b:latest"),
            ("r.io:5000/x", "r.io:5000/x:latest"),
            ("r.io/x@sha256:00", "r.io/x@sha256:00"),
        ] {
            assert_eq!(normalize(given), full);
        }
    }

    fn docker_archive() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        add("c.json", b"{}");
        add("l/layer.tar", b"layer");
        add("manifest.json", br#"[{"Config":"c.json","RepoTags":["demo:1"],"Layers":["l/layer.tar"]}]"#);
        tar.into_inner().unwrap()
    }

    #[test]
    fn docker_archives_are_read_plain_and_gzipped() {
        let dir = tempfile::tempdir().unwrap();
        let plain = docker_archive();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &plain).unwrap();
        for (name, bytes) in [("a.tar", plain), ("a.tar.gz", gzip.finish().unwrap())] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let images = Archive::open(&path).unwrap().images().unwrap();
            assert_eq!(images[0].names, ["docker.io/library/demo:1"]);
            assert_eq!(images[0].blobs.len(), 3);
            assert_eq!(images[0].blobs[1].digest, digest(b"layer"));
            let mut buffer = [0; 8];
            assert_eq!(images[0].blobs[1].read_at(1, &mut buffer).unwrap(), 4);
            assert_eq!(&buffer[..4], b"ayer");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        std::fs::write(&path, b"hello").unwrap();
        let error = Archive::open(&path).err().unwrap().to_string();
        assert!(error.contains("x.tar"), "{error}");
    }
}
