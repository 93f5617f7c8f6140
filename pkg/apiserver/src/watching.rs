//! Bodies of watches: frames as they come, each event encoded once for all watchers.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use knarr_machinery::ApiError;
use knarr_registry::{WatchStream, Watched};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::encode::Encoder;
use crate::negotiate::{Format, Shape};

struct Session {
    encoder: Encoder,
    stream: WatchStream,
    until: Instant,
    shutdown: CancellationToken,
    columns_told: bool,
    ended: bool,
}

/// A watch that ends at once with an error.
///
/// # Errors
/// When the error cannot be encoded.
pub fn respond_error(encoder: &Encoder, error: &ApiError) -> Result<Response, ApiError> {
    Ok(crate::respond::bytes(200, media_type(encoder), encoder.error_frame(error)?))
}

fn media_type(encoder: &Encoder) -> &'static str {
    match encoder.accepted().format {
        Format::Json | Format::Pretty => "application/json",
        Format::Yaml => "application/yaml",
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
    }
}

/// The response of a watch.
pub fn respond(
    encoder: Encoder,
    stream: WatchStream,
    timeout: Duration,
    shutdown: CancellationToken,
) -> Response {
    let media = media_type(&encoder);
    let session = Session {
        encoder,
        stream,
        until: Instant::now() + timeout,
        shutdown,
        columns_told: false,
        ended: false,
    };
    let frames = futures::stream::unfold(session, |mut session| async move {
        session.next().await.map(|bytes| (Ok::<_, std::convert::Infallible>(bytes), session))
    });
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

impl Session {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let told = tokio::select! {
            told = self.stream.next() => told,
            () = tokio::time::sleep_until(self.until) => {
                self.ended = true;
                let bookmark = self.stream.last_bookmark()?;
                return self.frame(&bookmark).ok();
            }
            () = self.shutdown.cancelled() => None,
        }?;
        let mut frames = Vec::with_capacity(told.len());
        for one in &told {
            match self.frame(one) {
                Ok(frame) => frames.push(frame),
                Err(error) => {
                    self.ended = true;
                    frames.extend(self.encoder.error_frame(&error).ok());
                    break;
                }
            }
        }
        Some(join(frames))
    }

    fn frame(&mut self, told: &Watched) -> Result<Bytes, ApiError> {
        match told {
            Watched::Bookmark { revision, initial_end } => self.encoder.bookmark(*revision, *initial_end),
            Watched::Error(error) => {
                self.ended = true;
                self.encoder.error_frame(error)
            }
            Watched::Event { event, entry, source } => {
                let columns = !self.columns_told && matches!(self.encoder.accepted().shape, Shape::Table(_));
                self.columns_told = true;
                match (source, self.encoder.share_key(*event)) {
                    (Some(source), Some(key)) => {
                        source.encoded(key, || self.encoder.frame(*event, entry, columns))
                    }
                    _ => self.encoder.frame(*event, entry, columns),
                }
            }
        }
    }
}

fn join(mut frames: Vec<Bytes>) -> Bytes {
    if frames.len() == 1 {
        return frames.remove(0);
    }
    let mut out = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    for frame in frames {
        out.extend_from_slice(&frame);
    }
    out.freeze()
}
