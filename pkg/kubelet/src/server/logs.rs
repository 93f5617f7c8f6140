//! `/containerLogs`: the log of a container, whole, in part, or followed.

use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path as FsPath, PathBuf},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Context;
use crate::{
    logs::{Printer, Selection, tail_offset},
    observed::State as Life,
    spec,
};

const CHUNK_BYTES: usize = 64 * 1024;
/// How long a follower waits for a change notice before it looks for itself.
const FOLLOW_LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    previous: bool,
    selection: Selection,
}

fn options(query: &str) -> Result<Options, String> {
    let mut options = Options::default();
    let yes = |value: &str| matches!(value, "true" | "1" | "True" | "TRUE" | "t" | "T");
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = || {
            value.parse::<u64>().map_err(|_| format!("{key}: {value:?} is not a number that is not negative"))
        };
        match key.as_ref() {
            "follow" => options.follow = yes(&value),
            "previous" => options.previous = yes(&value),
            "timestamps" => options.selection.timestamps = yes(&value),
            "tailLines" => {
                options.selection.tail_lines = Some(usize::try_from(number()?).unwrap_or(usize::MAX))
            }
            "limitBytes" => options.selection.limit_bytes = Some(number()?),
            "sinceSeconds" => {
                let seconds = i64::try_from(number()?).unwrap_or(i64::MAX);
                options.selection.since =
                    Timestamp::from_second(Timestamp::now().as_second().saturating_sub(seconds)).ok();
            }
            "sinceTime" => {
                options.selection.since = Some(value.parse().map_err(|e| format!("sinceTime: {e}"))?)
            }
            "stream" => {
                options.selection.stream = match value.as_ref() {
                    "Stdout" => Some("stdout".to_owned()),
                    "Stderr" => Some("stderr".to_owned()),
                    "All" | "" => None,
                    other => return Err(format!("stream: {other:?} is none of All, Stdout, Stderr")),
                }
            }
            _ => {}
        }
    }
    Ok(options)
}

fn refuse(code: StatusCode, message: String) -> Response {
    (code, message).into_response()
}

/// Serves the log of one container.
pub(super) async fn container(
    State(context): State<Context>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let options = match options(query.as_deref().unwrap_or_default()) {
        Ok(options) => options,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let Some((pod, observed)) = context.pods.find(&namespace, &name, None) else {
        return refuse(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    if !spec::units(&pod).iter().any(|u| u.container.name == container) {
        return refuse(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {name:?}"));
    }
    let instance = if options.previous { observed.previous(&container) } else { observed.newest(&container) };
    let Some(instance) = instance.filter(|i| i.state != Life::Created) else {
        let message = if options.previous {
            format!("previous terminated container {container:?} in pod {name:?} not found")
        } else {
            format!("container {container:?} in pod {name:?} is waiting to start: no logs available")
        };
        return refuse(StatusCode::BAD_REQUEST, message);
    };
    let path = PathBuf::from(&instance.log_path);
    let (sender, receiver) = mpsc::channel(8);
    let follow = options.follow.then(|| (context, instance.id.clone()));
    tokio::spawn(async move {
        if let Err(error) = send(&path, options.selection, follow, &sender).await {
            // A file that is not there yet, or no more, is an empty log.
            if error.kind() != std::io::ErrorKind::NotFound {
                let _ = sender.send(Err(error)).await;
            }
        }
    });
    ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(ReceiverStream::new(receiver))).into_response()
}

type Sender = mpsc::Sender<std::io::Result<Vec<u8>>>;

async fn send(
    path: &FsPath,
    selection: Selection,
    follow: Option<(Context, String)>,
    sender: &Sender,
) -> std::io::Result<()> {
    let tail = selection.tail_lines;
    let mut printer = Printer::new(selection);
    let open = |path: &FsPath| std::fs::File::open(path);
    let mut file = open(path)?;
    if let Some(count) = tail {
        let offset = tail_offset(&mut file, count)?;
        file.seek(SeekFrom::Start(offset))?;
    }
    let mut rest: Vec<u8> = Vec::new();
    loop {
        // Asked before reading: what is written between the two is read, what comes later is not lost.
        let over = match &follow {
            Some((context, id)) => ended(context, id).await,
            None => true,
        };
        if !drain(&mut file, &mut rest, &mut printer, sender).await? || printer.done() {
            return Ok(());
        }
        // After a rotation the path is another file.
        let moved = std::fs::metadata(path)
            .is_ok_and(|now| same(&now) != file.metadata().map(|m| same(&m)).unwrap_or_default());
        if moved {
            file = open(path)?;
            continue;
        }
        if over {
            return Ok(());
        }
        if wait_for_change(path, sender).await.is_err() {
            return Ok(());
        }
    }
}

fn same(metadata: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// Sends all complete lines; whether the reader is still there.
async fn drain(
    file: &mut std::fs::File,
    rest: &mut Vec<u8>,
    printer: &mut Printer,
    sender: &Sender,
) -> std::io::Result<bool> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok(true);
        }
        rest.extend_from_slice(&buffer[..got]);
        let complete = rest.iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
        let mut out = Vec::new();
        for line in rest[..complete].split_inclusive(|b| *b == b'\n') {
            printer.print(line, &mut out);
            if printer.done() {
                break;
            }
        }
        rest.drain(..complete);
        if !out.is_empty() && sender.send(Ok(out)).await.is_err() {
            return Ok(false);
        }
        if printer.done() {
            return Ok(true);
        }
    }
}

async fn ended(context: &Context, id: &str) -> bool {
    match context.node.runtime.container_status(id).await {
        Ok(status) => status.state() != knarr_cri::v1::ContainerState::ContainerRunning,
        Err(error) => error.is_not_found(),
    }
}

/// Waits until the file changes, for at most a moment; an error when the reader has left.
async fn wait_for_change(path: &FsPath, sender: &Sender) -> Result<(), ()> {
    use futures::StreamExt;
    let watch = || -> std::io::Result<_> {
        let inotify = inotify::Inotify::init()?;
        inotify.watches().add(path, inotify::WatchMask::MODIFY | inotify::WatchMask::MOVE_SELF)?;
        inotify.into_event_stream(vec![0; 1024])
    };
    let changed = async {
        match watch() {
            Ok(mut events) => drop(events.next().await),
            Err(_) => tokio::time::sleep(FOLLOW_LOOK).await,
        }
    };
    tokio::select! {
        () = changed => Ok(()),
        () = tokio::time::sleep(FOLLOW_LOOK) => Ok(()),
        () = sender.closed() => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let parsed = options("follow=true&tailLines=5&timestamps=1&limitBytes=9&stream=Stderr").unwrap();
        assert!(parsed.follow && parsed.selection.timestamps && !parsed.previous);
        assert_eq!((parsed.selection.tail_lines, parsed.selection.limit_bytes), (Some(5), Some(9)));
        for bad in ["tailLines=-1", "limitBytes=x", "sinceTime=yesterday", "stream=Both"] {
            assert!(options(bad).is_err(), "{bad}");
        }
    }
}
