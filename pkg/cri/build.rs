//! Compiles the wire protocols of `proto/` and the pause program of `pause/pause.rs`.
use std::{env, error::Error, path::PathBuf, process::Command};

const PROTOS: [&str; 8] = [
    "cri.proto",
    "containerd_events.proto",
    "containerd_images.proto",
    "containerd_content.proto",
    "containerd_leases.proto",
    "containerd_namespaces.proto",
    "containerd_diff.proto",
    "containerd_snapshots.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=pause/pause.rs");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .emit_rerun_if_changed(false)
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    pause()
}

/// A static executable of a few KiB without any library, so that no second target has to be installed.
fn pause() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?).join("pause");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc
        .args(["--crate-name=pause", "--crate-type=bin", "--edition=2024"])
        .args(["-Copt-level=z", "-Cpanic=abort", "-Cstrip=symbols", "-Crelocation-model=static"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"])
        .args([
            "-Clink-arg=-Wl,--build-id=none",
            "-Clink-arg=-Wl,-z,norelro",
            "-Clink-arg=-Wl,-z,noseparate-code",
        ])
        .arg(format!("--target={}", env::var("TARGET")?))
        .arg("-o")
        .arg(&out)
        .arg("pause/pause.rs");
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let status = rustc.status()?;
    if !status.success() {
        return Err(format!("compiling pause/pause.rs failed: {status}").into());
    }
    Ok(())
}
