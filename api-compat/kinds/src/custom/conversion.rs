//! What is sent to a conversion webhook, and what is taken from its answer. Pure: who sends it is elsewhere.
//!
//! Entry points: [`request`] and [`accept`].

use serde_json::{Value, json};

use crate::kind::Conversion;
use crate::value::text;

const GROUP: &str = "apiextensions.k8s.io";

/// The ConversionReview for documents that are not yet of the wanted version.
///
/// # Errors
/// None of the definition's review versions is known here.
pub fn request(conversion: &Conversion, wanted: &str, objects: &[Value], uid: &str) -> Result<Value, String> {
    let version = version(conversion)?;
    Ok(json!({
        "kind": "ConversionReview",
        "apiVersion": format!("{GROUP}/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    }))
}

fn version(conversion: &Conversion) -> Result<&str, String> {
    let known = |v: &&String| matches!(v.as_str(), "v1" | "v1beta1");
    let found = conversion.review_versions.iter().find(known);
    found.map(String::as_str).ok_or_else(|| "no supported conversion review versions".to_string())
}

/// The converted documents of an answer, in the order of `objects`; metadata other than labels and annotations is
/// kept as it was.
///
/// # Errors
/// An answer to another question, a failure that the webhook tells, documents that are not what was asked for.
pub fn accept(
    conversion: &Conversion,
    wanted: &str,
    objects: &[Value],
    uid: &str,
    answer: &Value,
) -> Result<Vec<Value>, String> {
    let response = answer.get("response").filter(|r| r.is_object());
    if version(conversion)? == "v1" {
        let (api, kind) = (text(answer, "/apiVersion"), text(answer, "/kind"));
        if api != format!("{GROUP}/v1") || kind != "ConversionReview" {
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {api}, Kind={kind}"
            ));
        }
        let given = response.map_or("", |r| text(r, "/uid"));
        if response.is_some() && given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
    }
    let response = response.ok_or("no response provided")?;
    let status = text(response, "/result/status");
    if status != "Success" {
        return Err(match text(response, "/result/message") {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_string(),
        });
    }
    let converted = response.get("convertedObjects").and_then(Value::as_array).cloned().unwrap_or_default();
    if converted.len() != objects.len() {
        return Err(format!("returned {} objects, expected {}", converted.len(), objects.len()));
    }
    let pairs = objects.iter().zip(converted).enumerate();
    pairs
        .map(|(i, (original, converted))| {
            checked(wanted, original, converted)
                .map_err(|e| format!("returned invalid converted object at index {i}: {e}"))
        })
        .collect()
}

fn checked(wanted: &str, original: &Value, mut converted: Value) -> Result<Value, String> {
    let got = text(&converted, "/apiVersion");
    if got != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {got})"));
    }
    for (what, pointer) in [
        ("kind", "/kind"),
        ("name", "/metadata/name"),
        ("namespace", "/metadata/namespace"),
        ("UID", "/metadata/uid"),
    ] {
        let (expected, got) = (text(original, pointer), text(&converted, pointer));
        if expected != got {
            return Err(format!("must have the same {what}: {expected} != {got}"));
        }
    }
    let Some(given) = converted.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err("missing metadata in converted object".into());
    };
    let mut metadata = original.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for key in ["labels", "annotations"] {
        match given.remove(key).filter(|v| v.as_object().is_some_and(|m| !m.is_empty())) {
            Some(value) => metadata.insert(key.to_string(), value),
            None => metadata.remove(key),
        };
    }
    converted["metadata"] = Value::Object(metadata);
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversion(versions: &[&str]) -> Conversion {
        Conversion {
            definition: "foos.example.com".into(),
            client: json!({}),
            review_versions: versions.iter().map(|v| (*v).to_string()).collect(),
        }
    }

    fn object(version: &str) -> Value {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Foo",
               "metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 3, "labels": {"a": "b"}}})
    }

    #[test]
    fn answers() {
        let c = conversion(&["v2", "v1", "v1beta1"]);
        let sent = request(&c, "example.com/v2", &[object("v1")], "q").unwrap();
        assert_eq!(sent["apiVersion"], "apiextensions.k8s.io/v1");
        assert_eq!(sent["request"]["desiredAPIVersion"], "example.com/v2");
        let answer = |change: fn(&mut Value)| {
            let mut a = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "response": {"uid": "q", "result": {"status": "Success"}, "convertedObjects": [object("v2")]}});
            a["response"]["convertedObjects"][0]["metadata"]["labels"] = json!({"c": "d"});
            a["response"]["convertedObjects"][0]["metadata"]["generation"] = json!(7);
            change(&mut a);
            accept(&c, "example.com/v2", &[object("v1")], "q", &a)
        };
        let good = answer(|_| {}).unwrap();
        assert_eq!(good[0]["metadata"]["labels"], json!({"c": "d"}));
        assert_eq!(good[0]["metadata"]["generation"], 3, "metadata is not the webhook's to change");
        type Change = fn(&mut Value);
        let bad: [(Change, &str); 7] = [
            (|a| a["response"]["uid"] = "x".into(), "expected response.uid=\"q\", got \"x\""),
            (|a| a["apiVersion"] = "apiextensions.k8s.io/v1beta1".into(), "expected webhook response of"),
            (|a| a["response"]["result"] = json!({"status": "Failure", "message": "no"}), "no"),
            (|a| a["response"]["result"] = json!({}), "response.result.status was '', not 'Success'"),
            (|a| a["response"]["convertedObjects"] = json!([]), "returned 0 objects, expected 1"),
            (
                |a| a["response"]["convertedObjects"][0]["apiVersion"] = "example.com/v1".into(),
                "invalid groupVersion",
            ),
            (
                |a| a["response"]["convertedObjects"][0]["metadata"]["name"] = "b".into(),
                "must have the same name: a != b",
            ),
        ];
        for (change, want) in bad {
            let error = answer(change).unwrap_err();
            assert!(error.contains(want), "{error} lacks {want}");
        }
        assert!(request(&conversion(&["v7"]), "x/v1", &[], "q").is_err());
    }
}
