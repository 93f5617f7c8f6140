//! Which requests a webhook or a policy is for: rules, and selectors of namespace and object. Pure.

use knarr_machinery::GroupVersionResource;
use knarr_machinery::labels::Selector;
use serde_json::Value;

use crate::request::{Operation, Request};

/// The resources whose writes no webhook and no policy sees: a wrong one could never be taken back.
const EXEMPT: &[&str] = &[
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

/// Whether a request is for configuration of admission itself.
pub(crate) fn is_exempt(request: &Request<'_>) -> bool {
    request.resource.group == "admissionregistration.k8s.io" && EXEMPT.contains(&&*request.resource.resource)
}

/// The namespace of a request; a namespace is in itself.
pub(crate) fn namespace_of<'a>(request: &'a Request<'_>) -> &'a str {
    if request.is("", "namespaces") { request.object_name() } else { request.namespace }
}

/// A list of names, or of anything.
#[derive(Debug, Clone, Default)]
struct Names(Vec<String>);

impl Names {
    fn of(rule: &Value, key: &str) -> Self {
        let list = rule.get(key).and_then(Value::as_array);
        Self(list.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|n| n == "*" || n == name)
    }
}

/// A rule of a webhook or a policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    operations: Names,
    groups: Names,
    versions: Names,
    resources: Names,
    scope: String,
    /// Names of objects; all, if there are none.
    objects: Vec<String>,
}

impl Rule {
    pub(crate) fn new(rule: &Value) -> Self {
        Self {
            operations: Names::of(rule, "operations"),
            groups: Names::of(rule, "apiGroups"),
            versions: Names::of(rule, "apiVersions"),
            resources: Names::of(rule, "resources"),
            scope: rule.get("scope").and_then(Value::as_str).unwrap_or("*").to_string(),
            objects: Names::of(rule, "resourceNames").0,
        }
    }

    fn has_scope(&self, request: &Request<'_>) -> bool {
        let cluster = request.is("", "namespaces") || request.namespace.is_empty();
        match self.scope.as_str() {
            "" | "*" => true,
            "Namespaced" => !cluster,
            "Cluster" => cluster,
            _ => false,
        }
    }

    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.0.iter().any(|wanted| {
            let (name, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
            (name == "*" || name == resource) && (sub == "*" || sub == subresource)
        })
    }

    /// Whether the rule is for a request, seen as one for `resource`.
    pub(crate) fn matches(&self, request: &Request<'_>, resource: &GroupVersionResource) -> bool {
        self.has_scope(request)
            && self.operations.has(request.operation.as_str())
            && self.groups.has(&resource.group)
            && self.versions.has(&resource.version)
            && self.has_resource(&resource.resource, request.subresource.unwrap_or(""))
            && (self.objects.is_empty() || self.objects.iter().any(|n| n == request.object_name()))
    }
}

/// What decides whether a request is for a webhook or a policy.
#[derive(Debug, Clone)]
pub(crate) struct Criteria {
    pub rules: Vec<Rule>,
    pub excluded: Vec<Rule>,
    /// Requests for other versions of a resource count as well.
    pub equivalent: bool,
    pub namespaces: Result<Selector, String>,
    pub objects: Result<Selector, String>,
    /// Without rules all is meant (bindings), not nothing.
    pub open: bool,
}

impl Criteria {
    /// Of a webhook (`rules`) or a policy's matchConstraints (`resourceRules`).
    pub(crate) fn new(document: &Value) -> Self {
        let rules = |key: &str| -> Vec<Rule> {
            document.get(key).and_then(Value::as_array).into_iter().flatten().map(Rule::new).collect()
        };
        let selector = |key: &str| match document.get(key).filter(|s| !s.is_null()) {
            Some(selector) => Selector::from_label_selector(selector),
            None => Ok(Selector::everything()),
        };
        let mut own = rules("rules");
        own.extend(rules("resourceRules"));
        Self {
            rules: own,
            excluded: rules("excludeResourceRules"),
            equivalent: document.get("matchPolicy").and_then(Value::as_str) == Some("Equivalent"),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            open: false,
        }
    }

    /// Of a binding's matchResources, which may be missing.
    pub(crate) fn binding(document: Option<&Value>) -> Self {
        let criteria = Self::new(document.unwrap_or(&Value::Null));
        Self { open: criteria.rules.is_empty(), ..criteria }
    }

    /// Whether the object or its present state has the labels that are asked for.
    pub(crate) fn selects_object(&self, request: &Request<'_>) -> Result<bool, String> {
        let selector = self.objects.as_ref().map_err(Clone::clone)?;
        if selector.is_everything() {
            return Ok(true);
        }
        let fits = |object: Option<&Value>| {
            // What has no metadata has no labels either: options of streams.
            let Some(metadata) = object.and_then(|o| o.get("metadata")) else { return false };
            selects(selector, metadata)
        };
        Ok(fits(request.object.as_ref()) || fits(request.old))
    }
}

/// Whether metadata has the labels that a selector asks for.
pub(crate) fn selects(selector: &Selector, metadata: &Value) -> bool {
    selector.matches_fn(|key| metadata.get("labels")?.get(key)?.as_str())
}

impl Operation {
    /// As rules write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Case;
    use serde_json::json;

    fn case(operation: Operation, group: &'static str, resource: &'static str, namespace: &str) -> Case {
        let mut case = Case::new(operation, group, "X", resource);
        case.object =
            Some(json!({"metadata": {"name": "a", "namespace": namespace, "labels": {"app": "x"}}}));
        case
    }

    #[test]
    fn rules_match() {
        let pods = |change: Value| {
            let mut rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
            for (k, v) in change.as_object().unwrap() {
                rule[k] = v.clone();
            }
            rule
        };
        for (change, sub, want) in [
            (json!({}), None, true),
            (json!({"operations": ["UPDATE"]}), None, false),
            (json!({"operations": ["*"]}), None, true),
            (json!({"apiGroups": ["apps"]}), None, false),
            (json!({"apiVersions": ["v2", "*"]}), None, true),
            (json!({"resources": ["*"]}), None, true),
            (json!({"resources": ["*"]}), Some("status"), false),
            (json!({"resources": ["*/*"]}), Some("status"), true),
            (json!({"resources": ["pods/status"]}), Some("status"), true),
            (json!({"resources": ["pods/status"]}), None, false),
            (json!({"resources": ["*/scale"]}), Some("status"), false),
            (json!({"scope": "Cluster"}), None, false),
            (json!({"scope": "Namespaced"}), None, true),
            (json!({"resourceNames": ["b"]}), None, false),
            (json!({"resourceNames": ["a"]}), None, true),
        ] {
            let mut case = case(Operation::Create, "", "pods", "n");
            case.subresource = sub;
            let rule = Rule::new(&pods(change.clone()));
            assert_eq!(rule.matches(&case.request(), &case.resource), want, "{change} {sub:?}");
        }
        let namespaces = case(Operation::Create, "", "namespaces", "");
        let rule = |scope: &str| {
            Rule::new(
                &json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "scope": scope}),
            )
        };
        assert!(rule("Cluster").matches(&namespaces.request(), &namespaces.resource));
        assert!(!rule("Namespaced").matches(&namespaces.request(), &namespaces.resource));
        assert_eq!(namespace_of(&namespaces.request()), "a");
    }

    #[test]
    fn objects_are_selected_now_or_before() {
        let criteria = Criteria::new(&json!({"objectSelector": {"matchLabels": {"app": "x"}}}));
        let mut case = case(Operation::Update, "", "pods", "n");
        assert!(criteria.selects_object(&case.request()).unwrap());
        case.old = case.object.replace(json!({"metadata": {"name": "a"}}));
        assert!(criteria.selects_object(&case.request()).unwrap(), "it had the label");
        case.old = None;
        assert!(!criteria.selects_object(&case.request()).unwrap());
        case.object = Some(json!({"kind": "PodAttachOptions", "stdin": true}));
        assert!(!criteria.selects_object(&case.request()).unwrap());
        assert!(Criteria::new(&json!({})).selects_object(&case.request()).unwrap());
        let broken = Criteria::new(
            &json!({"objectSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
        );
        assert!(broken.selects_object(&case.request()).is_err());
    }

    #[test]
    fn configuration_is_exempt() {
        for (group, resource, want) in [
            ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", true),
            ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", true),
            ("", "configmaps", false),
        ] {
            assert_eq!(
                is_exempt(&case(Operation::Create, group, resource, "").request()),
                want,
                "{resource}"
            );
        }
    }
}
