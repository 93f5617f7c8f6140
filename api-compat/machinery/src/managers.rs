//! Entries of `metadata.managedFields`: their wire form, order, identity and cap.

use serde_json::{Value, json};

use crate::fieldset::FieldSet;
use crate::meta;

/// Most Update managers of an object; older ones are merged into [`ANCIENT`].
pub const UPDATE_MANAGERS_MAX: usize = 10;
/// Manager of what old Update managers had.
pub const ANCIENT: &str = "ancient-changes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

impl Operation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry of `managedFields`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) operation: Operation,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: Option<String>,
    pub(crate) set: FieldSet,
}

impl Entry {
    /// Whether both are one manager: an applier is the same in every version.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    pub(crate) fn seconds(&self) -> i64 {
        self.time.as_deref().and_then(crate::time::parse).map_or(0, jiff::Timestamp::as_second)
    }

    pub(crate) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    pub(crate) fn encode(&self) -> Value {
        let mut v = json!({
            "manager": self.manager,
            "operation": self.operation.as_str(),
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_fields_v1(),
        });
        if let Some(t) = &self.time {
            v["time"] = t.clone().into();
        }
        if !self.subresource.is_empty() {
            v["subresource"] = self.subresource.clone().into();
        }
        v
    }

    pub(crate) fn decode(v: &Value, index: usize) -> Result<Self, String> {
        let text = |f: &str| v[f].as_str().unwrap_or_default().to_string();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_string()),
        };
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".to_string());
        }
        match text("fieldsType").as_str() {
            "FieldsV1" => {}
            "" => {
                return Err(format!("missing fieldsType in managed fields entry {index}"));
            }
            other => {
                return Err(format!("invalid fieldsType \"{other}\" in managed fields entry {index}"));
            }
        }
        let set = match v.get("fieldsV1") {
            None | Some(Value::Null) => FieldSet::default(),
            Some(f) => FieldSet::from_fields_v1(f)
                .ok_or_else(|| format!("error decoding fieldsV1 of managed fields entry {index}"))?,
        };
        let time = v["time"].as_str().map(str::to_string);
        Ok(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time,
            set,
        })
    }
}

pub(crate) fn decode_all(managed: &Value) -> Result<Vec<Entry>, String> {
    managed.as_array().into_iter().flatten().enumerate().map(|(i, v)| Entry::decode(v, i)).collect()
}

/// Writes the entries to the object: appliers first, then by time, manager, version, subresource.
pub(crate) fn encode_all(obj: &mut Value, mut entries: Vec<Entry>) {
    entries.sort_by(|a, b| {
        let key = |e: &Entry| (e.operation, e.seconds());
        key(a).cmp(&key(b)).then_with(|| {
            (&a.manager, &a.api_version, &a.subresource).cmp(&(&b.manager, &b.api_version, &b.subresource))
        })
    });
    let list = if entries.is_empty() {
        Value::Null
    } else {
        Value::Array(entries.iter().map(Entry::encode).collect())
    };
    meta::set_field(obj, "managedFields", list);
}

/// Merges the oldest Update entries of each version until there are few enough.
pub(crate) fn cap_updates(entries: &mut Vec<Entry>) {
    let updates = |entries: &[Entry]| entries.iter().filter(|e| e.operation == Operation::Update).count();
    if updates(entries) <= UPDATE_MANAGERS_MAX {
        return;
    }
    let mut order: Vec<Entry> =
        entries.iter().filter(|e| e.operation == Operation::Update).cloned().collect();
    order.sort_by(|a, b| {
        a.seconds().cmp(&b.seconds()).then_with(|| {
            (&a.manager, &a.api_version, &a.subresource).cmp(&(&b.manager, &b.api_version, &b.subresource))
        })
    });
    let mut first: Vec<Entry> = Vec::new();
    for e in order {
        if updates(entries) <= UPDATE_MANAGERS_MAX {
            return;
        }
        let Some(head) = first.iter().find(|f| f.api_version == e.api_version).cloned() else {
            first.push(e);
            continue;
        };
        let mut bucket = Entry { manager: ANCIENT.to_string(), subresource: String::new(), ..e.clone() };
        match entries.iter().position(|x| x.same(&bucket)) {
            Some(i) => bucket.set = entries.remove(i).set.union(&e.set),
            None => {
                entries.retain(|x| !x.same(&head));
                bucket.set = head.set.union(&e.set);
            }
        }
        entries.retain(|x| !x.same(&e));
        entries.push(bucket);
    }
}
