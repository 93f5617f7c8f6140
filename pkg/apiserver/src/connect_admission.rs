//! Admission of streams: CONNECT with the options that the client sent.

use std::sync::Arc;

use knarr_kinds::Kind;
use knarr_machinery::ApiError;
use knarr_registry::Hooks as _;
use serde_json::Value;

use crate::server::{Call, Inner};

/// A stream by WebSocket begins with GET: as upstream, it needs the right to create as well. Then admission is asked.
pub(crate) async fn admit(server: &Arc<Inner>, pods: &Kind, call: &Call) -> Result<(), ApiError> {
    let kind = match call.info.subresource.as_str() {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        "portforward" => "PodPortForwardOptions",
        _ => return Ok(()),
    };
    if call.info.verb == "get" {
        let mut attributes = crate::access::attributes(&call.user, &call.info, &call.query);
        attributes.verb = "create".into();
        knarr_auth::authorize(&*server.authorizer(), &attributes).await?;
    }
    let mut options = serde_json::json!({"kind": kind, "apiVersion": "v1"});
    for field in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(field) {
            options[field] = true.into();
        }
    }
    if !call.query.text("container").is_empty() {
        options["container"] = call.query.text("container").into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    admit_options(server, pods, call, kind, options).await
}

/// Asks admission about a stream with these options.
pub(crate) async fn admit_options(
    server: &Inner,
    main: &Kind,
    call: &Call,
    kind: &'static str,
    options: Value,
) -> Result<(), ApiError> {
    let gvk = knarr_machinery::GroupVersionKind::new("", "v1", kind);
    let hooks = server.hooks();
    let mut admission = knarr_registry::Admission {
        operation: knarr_registry::Operation::Connect,
        kind: main,
        gvk: &gvk,
        subresource: Some(&call.info.subresource),
        namespace: crate::resource::namespace(main, call),
        name: &call.info.name,
        user: &call.user,
        object: Some(options),
        old: None,
        dry_run: false,
        options: &Value::Null,
        warnings: Vec::new(),
    };
    hooks.mutate(&mut admission).await?;
    hooks.validate(&mut admission).await
}
