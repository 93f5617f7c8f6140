//! Images of this node's archives, read back from containerd: what the local registry serves.
//!
//! Entry point: [`LocalImages`]. Images that were pulled are not given out: who may pull them is for their registry to say.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tonic::{Code, transport::Channel};

use crate::{
    Error, Failure,
    import::{ARCHIVE_LABEL, within},
    wire::containerd::{
        services::{
            content::v1::{
                Info, InfoRequest, ListContentRequest, ReadContentRequest, content_client::ContentClient,
            },
            images::v1::{GetImageRequest, Image, ListImagesRequest, images_client::ImagesClient},
        },
        types::Descriptor,
    },
};

const OPERATION: &str = "ReadImage";
/// Manifests and configurations are small; a larger one is refused.
const DOCUMENT_BYTES: i64 = 4 << 20;

/// A blob: digest, media type and size in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `sha256:...`.
    pub digest: String,
    /// Its media type; that of a blob that no descriptor named is unknown and empty.
    pub media_type: String,
    /// Size in bytes.
    pub size: u64,
}

/// Reads images and blobs.
#[derive(Debug, Clone)]
pub struct LocalImages {
    channel: Channel,
}

impl LocalImages {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// The manifest or index of an image by its full name, if it came from an archive.
    ///
    /// # Errors
    /// containerd does not answer.
    pub async fn image(&self, name: &str) -> Result<Option<Found>, Error> {
        let Some(target) = self.target(name).await? else { return Ok(None) };
        let Some(info) = self.info(&target.digest).await? else { return Ok(None) };
        // A pull replaces the labels of the image's record, but not those of its content.
        let ours = info.labels.get(ARCHIVE_LABEL.0).is_some_and(|v| v == ARCHIVE_LABEL.1);
        Ok(ours.then(|| Found {
            digest: target.digest,
            media_type: target.media_type,
            size: u64::try_from(target.size).unwrap_or(0),
        }))
    }

    /// Names of all images that came from archives of this node.
    ///
    /// # Errors
    /// containerd does not answer.
    pub async fn names(&self) -> Result<HashSet<String>, Error> {
        let (label, value) = ARCHIVE_LABEL;
        let filters = vec![format!("labels.{label:?}=={value}")];
        let request = within(ListContentRequest { filters }, "")?;
        let failed = |s: tonic::Status| Error::of(OPERATION, "all", &s);
        let mut answers =
            ContentClient::new(self.channel.clone()).list(request).await.map_err(failed)?.into_inner();
        let mut ours = HashSet::new();
        while let Some(part) = answers.message().await.map_err(failed)? {
            ours.extend(part.info.into_iter().map(|i| i.digest));
        }
        let request = within(ListImagesRequest { filters: Vec::new() }, "")?;
        let images = ImagesClient::new(self.channel.clone()).list(request).await.map_err(failed)?;
        let of = |i: &Image| i.target.as_ref().is_some_and(|t| ours.contains(&t.digest));
        Ok(images.into_inner().images.into_iter().filter(of).map(|i| i.name).collect())
    }

    /// What an image's name stands for.
    pub(crate) async fn target(&self, name: &str) -> Result<Option<Descriptor>, Error> {
        let request = within(GetImageRequest { name: name.to_owned() }, "")?;
        match ImagesClient::new(self.channel.clone()).get(request).await {
            Err(status) if status.code() == Code::NotFound => Ok(None),
            answer => {
                let image = answer.map_err(|s| Error::of(OPERATION, name, &s))?.into_inner().image;
                Ok(image.and_then(|i| i.target))
            }
        }
    }

    async fn info(&self, digest: &str) -> Result<Option<Info>, Error> {
        let request = within(InfoRequest { digest: digest.to_owned() }, "")?;
        match ContentClient::new(self.channel.clone()).info(request).await {
            Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => Ok(None),
            answer => Ok(answer.map_err(|s| Error::of(OPERATION, digest, &s))?.into_inner().info),
        }
    }

    /// A blob by its digest, if it came from an archive.
    ///
    /// # Errors
    /// containerd does not answer.
    pub async fn blob(&self, digest: &str) -> Result<Option<Found>, Error> {
        let info = self.info(digest).await?;
        let ours = info.filter(|i| i.labels.get(ARCHIVE_LABEL.0).is_some_and(|v| v == ARCHIVE_LABEL.1));
        Ok(ours.map(|i| Found {
            digest: i.digest,
            media_type: String::new(),
            size: u64::try_from(i.size).unwrap_or(0),
        }))
    }

    /// The bytes of a blob.
    ///
    /// # Errors
    /// It is not there, or containerd does not answer.
    pub async fn read(
        &self,
        digest: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        let request = within(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 }, "")?;
        let named = digest.to_owned();
        let answer = ContentClient::new(self.channel.clone()).read(request).await;
        let stream = answer.map_err(|s| Error::of(OPERATION, digest, &s))?.into_inner();
        Ok(stream.map(move |part| match part {
            Ok(part) => Ok(Bytes::from(part.data)),
            Err(status) => Err(Error::of(OPERATION, named.clone(), &status)),
        }))
    }

    /// A small JSON blob: a manifest, an index or a configuration.
    ///
    /// # Errors
    /// It is not there, too large, or not JSON.
    pub async fn document(&self, digest: &str) -> Result<serde_json::Value, Error> {
        let wrong = |detail: String| Error::new(OPERATION, digest, Failure::Invalid, detail);
        let mut parts = Box::pin(self.read(digest).await?);
        let mut bytes = Vec::new();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part?);
            if i64::try_from(bytes.len()).unwrap_or(i64::MAX) > DOCUMENT_BYTES {
                return Err(wrong(format!("larger than {DOCUMENT_BYTES} bytes")));
            }
        }
        serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))
    }
}
