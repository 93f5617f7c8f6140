//! Images of this node's archives, read back from containerd: what the local registry serves.
//!
//! Entry point: [`LocalImages`]. Images that were pulled are not given out: who may pull them is for their registry to say.

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tonic::{Code, transport::Channel};

use crate::{
    Error, Failure,
    import::{ARCHIVE_LABEL, within},
    wire::containerd::services::{
        content::v1::{Info, InfoRequest, ReadContentRequest, content_client::ContentClient},
        images::v1::{GetImageRequest, images_client::ImagesClient},
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
        let request = within(GetImageRequest { name: name.to_owned() }, "")?;
        let image = match ImagesClient::new(self.channel.clone()).get(request).await {
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            answer => answer.map_err(|s| Error::of(OPERATION, name, &s))?.into_inner().image,
        };
        let Some(target) = image.and_then(|i| i.target) else { return Ok(None) };
        let Some(info) = self.info(&target.digest).await? else { return Ok(None) };
        // A pull replaces the labels of the image's record, but not those of its content.
        let ours = info.labels.get(ARCHIVE_LABEL.0).is_some_and(|v| v == ARCHIVE_LABEL.1);
        Ok(ours.then(|| Found {
            digest: target.digest,
            media_type: target.media_type,
            size: u64::try_from(target.size).unwrap_or(0),
        }))
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
