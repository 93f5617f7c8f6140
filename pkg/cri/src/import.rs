//! Image import into containerd's content and image stores, under a lease so that nothing is collected half-way.

use std::{
    collections::HashMap,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, transport::Channel};

use crate::{
    Error, Failure,
    archive::{Archive, Blob, Image},
    wire::containerd::{
        services::{
            content::v1::{InfoRequest, WriteAction, WriteContentRequest, content_client::ContentClient},
            images::v1::{
                self as images_v1, CreateImageRequest, UpdateImageRequest, images_client::ImagesClient,
            },
            leases::v1::{CreateRequest, DeleteRequest, leases_client::LeasesClient},
            namespaces::v1::{CreateNamespaceRequest, Namespace, namespaces_client::NamespacesClient},
        },
        types::Descriptor,
    },
};

/// The containerd namespace of everything that belongs to Kubernetes.
pub(crate) const NAMESPACE: &str = "k8s.io";
/// Marks images that came from an archive of this node: what the local registry may answer with.
pub(crate) const ARCHIVE_LABEL: (&str, &str) = ("io.knarr/source", "archive");
const OPERATION: &str = "ImportImage";
const CHUNK_BYTES: usize = 1 << 20;

/// A number for refs and leases that no other import of this process has.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Imports all images of an archive; gives their names.
pub(crate) async fn file(channel: &Channel, path: &Path) -> Result<Vec<String>, Error> {
    let owned = path.to_owned();
    let found = tokio::task::spawn_blocking(move || Archive::open(&owned)?.images())
        .await
        .map_err(|e| Error::new(OPERATION, path.display().to_string(), Failure::Other, e.to_string()))??;
    images(channel, &found).await?;
    Ok(found.into_iter().flat_map(|image| image.names).collect())
}

fn archive_label() -> (String, String) {
    (ARCHIVE_LABEL.0.to_owned(), ARCHIVE_LABEL.1.to_owned())
}

/// Stores all images.
pub(crate) async fn images(channel: &Channel, images: &[Image]) -> Result<(), Error> {
    let namespace = Namespace { name: NAMESPACE.to_owned(), labels: HashMap::new() };
    match NamespacesClient::new(channel.clone())
        .create(within(CreateNamespaceRequest { namespace: Some(namespace) }, "")?)
        .await
    {
        Err(status) if status.code() != Code::AlreadyExists => {
            return Err(Error::of(OPERATION, NAMESPACE, &status));
        }
        _ => {}
    }
    let lease = begin_lease(channel, "import").await?;
    let result = store(channel, images, &lease).await;
    let ended = end_lease(channel, lease).await;
    result?;
    ended
}

/// Begins a lease, under which nothing is collected.
pub(crate) async fn begin_lease(channel: &Channel, what: &str) -> Result<String, Error> {
    let lease = format!("knarr-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // Should we die, the lease ends by itself.
    let expiry = std::time::SystemTime::now() + std::time::Duration::from_secs(24 * 3600);
    let labels = HashMap::from([(
        "containerd.io/gc.expire".to_owned(),
        prost_types::Timestamp::from(expiry).to_string(),
    )]);
    let request = within(CreateRequest { id: lease.clone(), labels }, "")?;
    let created = LeasesClient::new(channel.clone()).create(request).await;
    created.map_err(|status| Error::of(OPERATION, lease.clone(), &status))?;
    Ok(lease)
}

/// Ends it.
pub(crate) async fn end_lease(channel: &Channel, lease: String) -> Result<(), Error> {
    let request = within(DeleteRequest { id: lease.clone(), sync: false }, "")?;
    let ended = LeasesClient::new(channel.clone()).delete(request).await;
    ended.map(drop).map_err(|status| Error::of(OPERATION, lease, &status))
}

async fn store(channel: &Channel, images: &[Image], lease: &str) -> Result<(), Error> {
    for image in images {
        for blob in &image.blobs {
            write(channel, blob, lease).await?;
        }
        for name in &image.names {
            record(channel, name, image, lease).await?;
        }
    }
    Ok(())
}

/// A request within our namespace and, where given, under a lease.
pub(crate) fn within<T>(message: T, lease: &str) -> Result<Request<T>, Error> {
    let invalid = |e: tonic::metadata::errors::InvalidMetadataValue| {
        Error::new(OPERATION, lease, Failure::Invalid, e.to_string())
    };
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse().map_err(invalid)?);
    if !lease.is_empty() {
        request.metadata_mut().insert("containerd-lease", lease.parse().map_err(invalid)?);
    }
    Ok(request)
}

async fn write(channel: &Channel, blob: &Blob, lease: &str) -> Result<(), Error> {
    let mut content = ContentClient::new(channel.clone());
    let of = |status: tonic::Status| Error::of(OPERATION, blob.digest.clone(), &status);
    let (sender, receiver) = mpsc::channel(4);
    let reference = format!("{lease}-{}", blob.digest);
    let feeder = tokio::task::spawn_blocking({
        let blob = blob.clone();
        move || feed(&blob, &reference, &sender)
    });
    let outcome = async {
        let mut answers =
            content.write(within(ReceiverStream::new(receiver), lease)?).await.map_err(of)?.into_inner();
        let mut committed = false;
        while let Some(answer) = answers.message().await.map_err(of)? {
            committed |= answer.action() == WriteAction::Commit;
        }
        if committed {
            Ok(())
        } else {
            Err(Error::new(
                OPERATION,
                blob.digest.clone(),
                Failure::Other,
                "the content store did not commit",
            ))
        }
    }
    .await;
    let fed = feeder
        .await
        .map_err(|e| Error::new(OPERATION, blob.digest.clone(), Failure::Other, e.to_string()))?;
    match outcome {
        // Present already. Without its labels an older writer's blob would not keep its children; ask, do not assume.
        Err(error) if error.failure == Failure::AlreadyExists => {
            let request = within(InfoRequest { digest: blob.digest.clone() }, lease)?;
            content.info(request).await.map(drop).map_err(of)
        }
        Err(error) => Err(fed.err().unwrap_or(error)),
        Ok(()) => fed,
    }
}

/// Sends the blob in chunks and the commit. Ends early when the other side has stopped listening.
fn feed(blob: &Blob, reference: &str, sender: &mpsc::Sender<WriteContentRequest>) -> Result<(), Error> {
    let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < blob.size {
        let got = blob
            .read_at(at, &mut buffer)
            .map_err(|e| Error::new(OPERATION, blob.digest.clone(), Failure::Other, e.to_string()))?;
        if got == 0 {
            return Err(Error::new(
                OPERATION,
                blob.digest.clone(),
                Failure::Invalid,
                format!("the archive ends after {at} of {} bytes", blob.size),
            ));
        }
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: reference.to_owned(),
            total,
            expected: blob.digest.clone(),
            offset: i64::try_from(at).unwrap_or(i64::MAX),
            data: buffer[..got].to_vec(),
            labels: HashMap::new(),
        };
        if sender.blocking_send(request).is_err() {
            return Ok(());
        }
        at += got as u64;
    }
    let commit = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: reference.to_owned(),
        total,
        expected: blob.digest.clone(),
        offset: total,
        data: Vec::new(),
        labels: blob.labels.clone().into_iter().chain([archive_label()]).collect(),
    };
    let _ = sender.blocking_send(commit);
    Ok(())
}

async fn record(channel: &Channel, name: &str, image: &Image, lease: &str) -> Result<(), Error> {
    let mut images = ImagesClient::new(channel.clone());
    let target = Descriptor {
        media_type: image.media_type.clone(),
        digest: image.digest.clone(),
        size: i64::try_from(image.size).unwrap_or(i64::MAX),
        annotations: HashMap::new(),
    };
    // Pinned: no registry may have it, so that nobody could bring it back.
    let labels = HashMap::from([
        ("io.cri-containerd.image".to_owned(), "managed".to_owned()),
        ("io.cri-containerd.pinned".to_owned(), "pinned".to_owned()),
    ]);
    let record = images_v1::Image { name: name.to_owned(), labels, target: Some(target) };
    match images.create(within(CreateImageRequest { image: Some(record.clone()) }, lease)?).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let request = within(UpdateImageRequest { image: Some(record) }, lease)?;
            images.update(request).await.map(drop).map_err(|status| Error::of(OPERATION, name, &status))
        }
        Err(status) => Err(Error::of(OPERATION, name, &status)),
        Ok(_) => Ok(()),
    }
}
