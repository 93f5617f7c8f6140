//! `/exec`, `/attach` and `/portForward`: the client's streams joined to the runtime's, or to a port inside the pod.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{RawPathParams, Request, State},
    http::{Response, StatusCode},
    response::IntoResponse,
};
use knarr_cri::v1;
use knarr_streaming::{
    BoxIo, portforward,
    remotecommand::{self, Options},
};

use super::Context;
use crate::{
    observed::{Observed, State as Life},
    spec,
};

/// How long connecting to a port of a pod may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

type Answer = Response<Body>;

fn refuse(code: StatusCode, message: String) -> Answer {
    (code, message).into_response()
}

fn parameter<'a>(parameters: &'a RawPathParams, name: &str) -> Option<&'a str> {
    parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The pod of the path; the uid in it, if any, must fit.
fn find(
    context: &Context,
    parameters: &RawPathParams,
) -> Result<(Arc<k8s_openapi::api::core::v1::Pod>, Observed), Box<Answer>> {
    let part = |name| parameter(parameters, name).unwrap_or_default();
    let (namespace, name) = (part("namespace"), part("pod"));
    context.pods.find(namespace, name, parameter(parameters, "uid")).ok_or_else(|| {
        Box::new(refuse(
            StatusCode::NOT_FOUND,
            format!("pod {name:?} in namespace {namespace:?} does not exist on this node"),
        ))
    })
}

/// The id of the running instance of the path's container.
fn running(observed: &Observed, container: &str) -> Result<String, Box<Answer>> {
    match observed.newest(container) {
        Some(instance) if instance.state == Life::Running => Ok(instance.id.clone()),
        Some(_) => Err(Box::new(refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container {container:?} is not running"),
        ))),
        None => Err(Box::new(refuse(StatusCode::NOT_FOUND, format!("container not found ({container:?})")))),
    }
}

/// Runs a command in a container, with streams.
pub(super) async fn exec(
    State(context): State<Context>,
    parameters: RawPathParams,
    request: Request,
) -> Answer {
    // The body of a request must not be held across an await.
    let query = request.uri().query().unwrap_or_default().to_owned();
    let prepared = async {
        let (_, observed) = find(&context, &parameters)?;
        let id = running(&observed, parameter(&parameters, "container").unwrap_or_default())?;
        let options = Options::from_query(&query).map_err(|r| Box::new(r.into_response()))?;
        let cmd: Vec<String> = form_urlencoded::parse(query.as_bytes())
            .filter(|(k, _)| k == "command")
            .map(|(_, v)| v.into_owned())
            .collect();
        if cmd.is_empty() {
            return Err(Box::new(refuse(
                StatusCode::BAD_REQUEST,
                "you must specify at least one command".to_owned(),
            )));
        }
        let Options { stdin, stdout, stderr, tty } = options;
        let asked = v1::ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr };
        let url = context
            .node
            .runtime
            .exec(asked)
            .await
            .map_err(|e| Box::new(refuse(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())))?;
        Ok::<_, Box<Answer>>((url, options))
    };
    match prepared.await {
        Ok::<_, Box<Answer>>((url, options)) => join(request, url, options),
        Err(answer) => *answer,
    }
}

/// Attaches to a running container.
pub(super) async fn attach(
    State(context): State<Context>,
    parameters: RawPathParams,
    request: Request,
) -> Answer {
    // The body of a request must not be held across an await.
    let query = request.uri().query().unwrap_or_default().to_owned();
    let prepared = async {
        let (pod, observed) = find(&context, &parameters)?;
        let container = parameter(&parameters, "container").unwrap_or_default();
        let id = running(&observed, container)?;
        let mut options = Options::from_query(&query).map_err(|r| Box::new(r.into_response()))?;
        // Whether there is a terminal was settled when the container was made.
        let unit = spec::units(&pod).into_iter().find(|u| u.container.name == container);
        options.tty = unit.is_some_and(|u| u.container.tty == Some(true));
        options.stderr &= !options.tty;
        let Options { stdin, stdout, stderr, tty } = options;
        let asked = v1::AttachRequest { container_id: id, stdin, tty, stdout, stderr };
        let url = context
            .node
            .runtime
            .attach(asked)
            .await
            .map_err(|e| Box::new(refuse(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())))?;
        Ok::<_, Box<Answer>>((url, options))
    };
    match prepared.await {
        Ok::<_, Box<Answer>>((url, options)) => join(request, url, options),
        Err(answer) => *answer,
    }
}

/// Answers the client and joins it to the runtime's streaming server.
fn join(mut request: Request, url: String, options: Options) -> Answer {
    let (answer, pending) = match remotecommand::accept(&mut request, options) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.into_response(),
    };
    tokio::spawn(async move {
        let session = match pending.open().await {
            Ok(session) => session,
            Err(error) => return tracing::debug!(%error, "a client's streams"),
        };
        match remotecommand::dial(&url, options).await {
            Ok(remote) => drop(remotecommand::relay(session, remote).await),
            Err(error) => session.finish(&remotecommand::Outcome::failure(&error.to_string())).await,
        }
    });
    answer
}

/// Forwards connections to ports of a pod.
pub(super) async fn port_forward(
    State(context): State<Context>,
    parameters: RawPathParams,
    mut request: Request,
) -> Answer {
    let (pod, observed) = match find(&context, &parameters) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let Some(sandbox) = observed.sandboxes.first().filter(|s| s.ready).cloned() else {
        return refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("pod {} has no running sandbox", spec::title(&pod)),
        );
    };
    let pid = if sandbox.host_network {
        None
    } else {
        match context
            .node
            .runtime
            .pod_sandbox_info(&sandbox.id)
            .await
            .map_err(|e| e.to_string())
            .and_then(|info| process(&info))
        {
            Ok(pid) => Some(pid),
            Err(error) => {
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("sandbox {}: {error}", sandbox.id));
            }
        }
    };
    let (answer, pending) = match portforward::accept(&mut request) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.into_response(),
    };
    let title = spec::title(&pod);
    tokio::spawn(async move {
        let connect: portforward::Connect = Arc::new(move |port| Box::pin(connect(pid, port)));
        if let Err(error) = pending.serve(&title, connect).await {
            tracing::debug!(%error, "a client's port-forward");
        }
    });
    answer
}

/// The sandbox' process, from containerd's own description of it.
fn process(info: &std::collections::HashMap<String, String>) -> Result<u32, String> {
    let text = info.get("info").ok_or("the runtime does not tell the sandbox' process")?;
    let document: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let pid = document["pid"].as_u64().and_then(|p| u32::try_from(p).ok()).filter(|p| *p > 0);
    pid.ok_or_else(|| "the runtime does not tell the sandbox' process".to_owned())
}

/// Connects to a port on the loopback interface of a network namespace. A thread of its own enters it and ends there.
async fn connect(pid: Option<u32>, port: u16) -> io::Result<BoxIo> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
        let connected = enter(pid).and_then(|()| {
            let v4 = std::net::TcpStream::connect_timeout(
                &SocketAddr::from(([127, 0, 0, 1], port)),
                CONNECT_LIMIT,
            );
            v4.or_else(|error| {
                let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
                std::net::TcpStream::connect_timeout(&v6, CONNECT_LIMIT).map_err(|_| error)
            })
        });
        // Nobody waits any more when the client has gone.
        let _ = sender.send(connected);
    })?;
    let stream = receiver.await.map_err(|e| io::Error::other(e.to_string()))??;
    stream.set_nonblocking(true)?;
    Ok(Box::new(tokio::net::TcpStream::from_std(stream)?))
}

fn enter(pid: Option<u32>) -> io::Result<()> {
    let Some(pid) = pid else { return Ok(()) };
    let path = format!("/proc/{pid}/ns/net");
    let namespace =
        std::fs::File::open(&path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}
