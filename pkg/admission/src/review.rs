//! What is sent to an admission webhook, and what is taken from its answer. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use knarr_machinery::ApiError;
use knarr_machinery::status::Details;
use serde_json::{Map, Value, json};

use crate::request::Request;
use crate::rules::namespace_of;
use crate::versions::Target;

const GROUP: &str = "admission.k8s.io";

/// A request as a review tells it; `uid`, object and old object are for webhooks only.
pub(crate) fn describe(request: &Request<'_>, target: &Target) -> Map<String, Value> {
    let kind = |k: &knarr_machinery::GroupVersionKind| json!({"group": k.group, "version": k.version, "kind": k.kind});
    let resource = |r: &knarr_machinery::GroupVersionResource| json!({"group": r.group, "version": r.version, "resource": r.resource});
    let mut out = Map::new();
    out.insert("kind".into(), kind(&target.kind));
    out.insert("resource".into(), resource(&target.resource));
    out.insert("requestKind".into(), kind(request.kind));
    out.insert("requestResource".into(), resource(request.resource));
    let subresource = request.subresource.unwrap_or("");
    for (key, text) in [
        ("subResource", subresource),
        ("requestSubResource", subresource),
        ("name", request.object_name()),
        ("namespace", namespace_of(request)),
    ] {
        if !text.is_empty() {
            out.insert(key.into(), text.into());
        }
    }
    out.insert("operation".into(), request.operation.as_str().into());
    let user = request.user;
    let mut info = json!({"username": user.username, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    out.insert("userInfo".into(), info);
    out.insert("dryRun".into(), request.dry_run.into());
    out.insert("options".into(), request.options.clone());
    out
}

/// The review version that a webhook takes.
///
/// # Errors
/// It takes none that is known here.
pub(crate) fn version(accepted: &[String]) -> Result<&str, String> {
    let known = accepted.iter().find(|v| matches!(v.as_str(), "v1" | "v1beta1"));
    known.map(String::as_str).ok_or_else(|| {
        "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
            .to_string()
    })
}

/// The AdmissionReview of a request.
pub(crate) fn review(
    version: &str,
    uid: &str,
    request: &Request<'_>,
    target: &Target,
    documents: (&Value, &Value),
) -> Value {
    let mut told = describe(request, target);
    told.insert("uid".into(), uid.into());
    told.insert("object".into(), documents.0.clone());
    told.insert("oldObject".into(), documents.1.clone());
    json!({"kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{version}"), "request": told})
}

/// What a webhook decided.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub allowed: bool,
    /// JSON patch.
    pub patch: Vec<u8>,
    pub result: Value,
    pub warnings: Vec<String>,
    pub audit: Vec<(String, String)>,
}

/// Reads an answer.
///
/// # Errors
/// An answer to another question, or one that is not allowed to this sort of webhook.
pub(crate) fn answer(version: &str, uid: &str, mutating: bool, document: &Value) -> Result<Answer, String> {
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or("").to_string();
    let response = document.get("response").filter(|r| r.is_object()).ok_or("webhook response was absent")?;
    if version == "v1" {
        let given = text(response, "uid");
        if given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
        let (api, kind) = (text(document, "apiVersion"), text(document, "kind"));
        if api != format!("{GROUP}/v1") || kind != "AdmissionReview" {
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {api}, Kind={kind}"
            ));
        }
        check_patch(response, mutating)?;
    }
    let encoded = text(response, "patch");
    let patch = if mutating {
        STANDARD.decode(&encoded).map_err(|e| format!("response.patch is no base64: {e}"))?
    } else {
        Vec::new()
    };
    let kind = text(response, "patchType");
    if version == "v1" && !patch.is_empty() && kind != "JSONPatch" {
        return Err(format!("unsupported patch type {kind:?}"));
    }
    let strings = |key: &str| -> Vec<String> {
        let list = response.get(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_string).collect()
    };
    let audit = response.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
    Ok(Answer {
        allowed: response.get("allowed").and_then(Value::as_bool).unwrap_or(false),
        patch,
        result: response.get("status").cloned().unwrap_or_default(),
        warnings: strings("warnings"),
        audit: audit.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect(),
    })
}

fn check_patch(response: &Value, mutating: bool) -> Result<(), String> {
    let patch = response.get("patch").and_then(Value::as_str).is_some_and(|p| !p.is_empty());
    let kind = response.get("patchType").and_then(Value::as_str);
    match (mutating, patch, kind) {
        (true, true, None) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, false, Some(_)) => Err("webhook returned response.patchType but not response.patch".into()),
        (true, true, Some("")) => Err("webhook returned invalid response.patchType of \"\"".into()),
        (false, true, _) => Err("validating webhook may not return response.patch".into()),
        (false, _, Some(_)) => Err("validating webhook may not return response.patchType".into()),
        _ => Ok(()),
    }
}

/// A webhook's refusal as the client sees it.
pub(crate) fn refusal(name: &str, result: &Value) -> ApiError {
    let text = |key: &str| result.get(key).and_then(Value::as_str).unwrap_or("");
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = result.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).unwrap_or(0);
    let mut error = ApiError::new(code.max(400), text("reason"), message);
    if let Some(details) = result.get("details").filter(|d| d.is_object()) {
        // Details that are none are left out, not the refusal.
        error.details = serde_json::from_value::<Details>(details.clone()).ok().map(Box::new);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Operation;
    use crate::request::testing::Case;

    #[test]
    fn tells_the_request() {
        let mut case = Case::new(Operation::Update, "apps", "Deployment", "deployments");
        case.subresource = Some("status");
        case.object = Some(json!({"metadata": {"name": "a", "namespace": "n"}}));
        let request = case.request();
        let target = Target {
            resource: knarr_machinery::GroupVersionResource::new("apps", "v1beta1", "deployments"),
            kind: knarr_machinery::GroupVersionKind::new("apps", "v1beta1", "Deployment"),
            convert: None,
        };
        let told = review("v1", "u", &request, &target, (&json!({"a": 1}), &Value::Null));
        assert_eq!(told["apiVersion"], "admission.k8s.io/v1");
        let r = &told["request"];
        assert_eq!(r["kind"], json!({"group": "apps", "version": "v1beta1", "kind": "Deployment"}));
        assert_eq!(r["requestKind"]["version"], "v1");
        assert_eq!(
            (&r["subResource"], &r["name"], &r["namespace"], &r["operation"], &r["dryRun"]),
            (&json!("status"), &json!("a"), &json!("n"), &json!("UPDATE"), &json!(false))
        );
        assert_eq!((&r["object"], &r["oldObject"]), (&json!({"a": 1}), &Value::Null));
        assert_eq!(r["userInfo"]["username"], "jane");
    }

    #[test]
    fn reads_answers() {
        let of = |response: Value| json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        let good = answer(
            "v1",
            "u",
            true,
            &of(
                json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": "W10=", "warnings": ["w"]}),
            ),
        );
        let good = good.unwrap();
        assert_eq!((good.allowed, good.patch.as_slice(), good.warnings.len()), (true, &b"[]"[..], 1));
        for (mutating, response, want) in [
            (true, json!({"uid": "x"}), "expected response.uid=\"u\", got \"x\""),
            (true, json!({"uid": "u", "patch": "W10="}), "response.patch but not response.patchType"),
            (
                true,
                json!({"uid": "u", "patchType": "JSONPatch"}),
                "response.patchType but not response.patch",
            ),
            (
                true,
                json!({"uid": "u", "patchType": "Merge", "patch": "W10="}),
                "unsupported patch type \"Merge\"",
            ),
            (false, json!({"uid": "u", "patch": "W10="}), "may not return response.patch"),
            (false, json!({"uid": "u", "patchType": "JSONPatch"}), "may not return response.patchType"),
        ] {
            let error = answer("v1", "u", mutating, &of(response)).unwrap_err();
            assert!(error.contains(want), "{error} lacks {want}");
        }
        assert!(answer("v1", "u", true, &json!({})).unwrap_err().contains("absent"));
        let foreign = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"uid": "u"}});
        assert!(answer("v1", "u", true, &foreign).unwrap_err().contains("expected webhook response of"));
        let old = answer(
            "v1beta1",
            "u",
            true,
            &json!({"response": {"uid": "other", "allowed": true, "patch": "W10="}}),
        );
        assert_eq!(old.unwrap().patch, b"[]");
    }

    #[test]
    fn refusals() {
        for (result, code, want) in [
            (json!({"message": "no", "code": 403}), 403, "admission webhook \"x\" denied the request: no"),
            (json!({"reason": "Why"}), 400, "admission webhook \"x\" denied the request: Why"),
            (Value::Null, 400, "admission webhook \"x\" denied the request without explanation"),
            (json!({"code": 200}), 400, "admission webhook \"x\" denied the request without explanation"),
        ] {
            let error = refusal("x", &result);
            assert_eq!((error.code, error.message.as_str()), (code, want));
        }
    }
}
