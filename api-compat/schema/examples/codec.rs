//! Speed of the codec on 10,000 pods: `cargo run --release -p knarr-schema --example codec <pod.json> [<one of them>]`.
use std::time::Instant;

use knarr_machinery::GroupVersionKind;
use knarr_schema::{proto, type_of};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: codec <pod.json>")?;
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let text = serde_json::to_vec(&value)?;
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let types = type_of(&gvk).ok_or("no Pod")?;
    let raw = proto::encode_raw(&types, &value)?;
    println!("JSON {} bytes, protobuf {} bytes", text.len(), raw.len());
    let time = |what: &str, f: &mut dyn FnMut() -> Result<usize, Box<dyn std::error::Error>>| {
        if std::env::args().nth(2).is_some_and(|only| only != what) {
            return Ok(());
        }
        let start = Instant::now();
        let mut total = 0;
        for _ in 0..10_000 {
            total += f()?;
        }
        println!("{what}: {:?} ({total})", start.elapsed());
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    time("parse JSON", &mut || {
        Ok(serde_json::from_slice::<serde_json::Value>(&text)?.as_object().map_or(0, |o| o.len()))
    })?;
    time("encode Value", &mut || Ok(proto::encode_raw(&types, &value)?.len()))?;
    time("transcode JSON", &mut || Ok(proto::transcode_raw(&types, &text)?.len()))?;
    time("decode to Value", &mut || Ok(proto::decode_raw(&types, &raw)?.as_object().map_or(0, |o| o.len())))?;
    Ok(())
}
