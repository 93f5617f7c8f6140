//! A server to try clients against: `/exec?command=...` runs a program, `/forward` reaches ports of this machine.
//! `cargo run -p knarr-streaming --example serve 127.0.0.1:9999`
#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use knarr_streaming::remotecommand::{self, Options, Outcome};
use knarr_streaming::{BoxIo, portforward};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

async fn exec(mut request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_string();
    let command: Vec<String> = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("command="))
        .map(|word| word.replace('+', " ").replace("%20", " ").replace("%3B", ";").replace("%2F", "/"))
        .collect();
    let accepted =
        Options::from_query(&query).and_then(|options| remotecommand::accept(&mut request, options));
    let (response, pending) = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.into_response(),
    };
    tokio::spawn(async move {
        let mut session = pending.open().await.unwrap();
        let mut child = tokio::process::Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, mut stdout, mut stderr) =
            (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
        if let Some(mut from) = session.stdin.take() {
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from, &mut stdin).await;
            });
        } else {
            drop(stdin);
        }
        let out = async {
            if let Some(to) = &mut session.stdout {
                let _ = tokio::io::copy(&mut stdout, to).await;
                let _ = to.shutdown().await;
            }
        };
        let err = async {
            if let Some(to) = &mut session.stderr {
                let _ = tokio::io::copy(&mut stderr, to).await;
            }
        };
        tokio::join!(out, err);
        let status = child.wait().await.unwrap();
        session.finish(&Outcome::exit(status.code().unwrap_or(137))).await;
    });
    response
}

async fn relayed(mut request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_string();
    let runtime = query.split('&').find_map(|pair| pair.strip_prefix("runtime=")).unwrap();
    let options = Options::from_query(&query).unwrap();
    let url = format!("http://{runtime}/exec?{query}");
    let (response, pending) = remotecommand::accept(&mut request, options).unwrap();
    tokio::spawn(async move {
        let session = pending.open().await.unwrap();
        match remotecommand::dial(&url, options).await {
            Ok(remote) => println!("{:?}", remotecommand::relay(session, remote).await),
            Err(error) => session.finish(&Outcome::failure(&error.to_string())).await,
        }
    });
    response
}

async fn forward(mut request: Request) -> Response {
    let (response, pending) = match portforward::accept(&mut request) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.into_response(),
    };
    let connect: portforward::Connect = Arc::new(|port| {
        Box::pin(async move {
            let io = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            Ok(Box::new(io) as BoxIo)
        })
    });
    tokio::spawn(async move { pending.serve("pod default/p", connect).await });
    response
}

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9999".into());
    let router =
        Router::new().route("/exec", any(exec)).route("/relay", any(relayed)).route("/forward", any(forward));
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    axum::serve(listener, router).await.unwrap();
}
