//! Protobuf as text without its schema. `recorder/wire.go` does exactly the same.

use std::fmt::Write as _;

struct Field<'a> {
    number: u64,
    wire: u64,
    value: u64,
    data: &'a [u8],
}

/// Writes a message as text: field numbers, numbers, strings, nested messages.
pub fn dump(body: &[u8]) -> String {
    let mut out = String::new();
    let rest = match body.strip_prefix(b"k8s\0") {
        Some(rest) => {
            out.push_str("k8s\n");
            rest
        }
        None => body,
    };
    match fields(rest) {
        Some(fields) => write(&mut out, &fields, ""),
        None => return format!("not protobuf: {}\n", hex(body)),
    }
    out
}

fn hex(data: &[u8]) -> String {
    data.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, byte) in data.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *data = &data[i + 1..];
            return Some(value);
        }
    }
    None
}

fn take<'a>(data: &mut &'a [u8], size: u64) -> Option<&'a [u8]> {
    let (taken, rest) = data.split_at_checked(usize::try_from(size).ok()?)?;
    *data = rest;
    Some(taken)
}

fn fields(mut data: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let tag = varint(&mut data)?;
        if tag >> 3 == 0 || tag >> 3 > (1 << 29) - 1 {
            return None;
        }
        let mut field = Field { number: tag >> 3, wire: tag & 7, value: 0, data: &[] };
        match field.wire {
            0 => field.value = varint(&mut data)?,
            1 => field.data = take(&mut data, 8)?,
            5 => field.data = take(&mut data, 4)?,
            2 => {
                let size = varint(&mut data)?;
                field.data = take(&mut data, size)?;
            }
            _ => return None,
        }
        found.push(field);
    }
    Some(found)
}

fn write(out: &mut String, list: &[Field<'_>], indent: &str) {
    for field in list {
        let number = field.number;
        let _ = match field.wire {
            0 if field.value > 1_700_000_000 && field.value < 5_000_000_000 => {
                writeln!(out, "{indent}{number}: <time>")
            }
            0 => writeln!(out, "{indent}{number}: {}", field.value),
            2 => {
                nested(out, field, indent);
                Ok(())
            }
            _ => writeln!(out, "{indent}{number}: {}", hex(field.data)),
        };
    }
}

fn nested(out: &mut String, field: &Field<'_>, indent: &str) {
    let number = field.number;
    if field.data.starts_with(b"k8s\0") {
        // An object inside a watch frame has an envelope of its own.
        let inner = dump(field.data);
        let inner = inner.trim_end_matches('\n').replace('\n', &format!("\n{indent}  "));
        let _ = writeln!(out, "{indent}{number} {{\n{indent}  {inner}\n{indent}}}");
        return;
    }
    let text = std::str::from_utf8(field.data).ok();
    let plain = text.filter(|t| t.bytes().all(|b| b >= 0x20 && b != 0x7f));
    let _ = match (plain, fields(field.data), text) {
        (Some(text), _, _) => writeln!(out, "{indent}{number}: \"{text}\""),
        (None, Some(inner), _) => {
            let _ = writeln!(out, "{indent}{number} {{");
            write(out, &inner, &format!("{indent}  "));
            writeln!(out, "{indent}}}")
        }
        (None, None, Some(text)) => writeln!(out, "{indent}{number}: \"{}\"", text.replace('\n', "\\n")),
        (None, None, None) => writeln!(out, "{indent}{number}: bytes {}", hex(field.data)),
    };
}
