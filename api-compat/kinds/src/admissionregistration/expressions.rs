//! Expressions of webhooks' match conditions and of admission policies: which variables they see, how they compile.
//!
//! Entry points: [`Environment::compile`], and [`Environment::bindings`] for their evaluation.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use knarr_cel::authority::{self, Check};
use knarr_cel::{Binding, Fields, ObjectType, Patches, Program, Type, Val};
use serde_json::Value;

/// What an expression sees besides the object, the old object, the namespace and the request.
#[derive(Debug, Clone)]
pub struct Environment {
    /// `params`.
    pub params: bool,
    /// `authorizer`.
    pub authorizer: bool,
    /// `variables`, by name, in their order; none where there is no such variable.
    pub variables: Vec<(String, Type)>,
    /// The structs of a change.
    pub patches: Patches,
}

/// The values for an evaluation.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// `object`, null when it is deleted.
    pub object: &'a Value,
    /// `oldObject`, null when it is created.
    pub old: &'a Value,
    /// `namespaceObject`, null for cluster scope.
    pub namespace: &'a Value,
    /// `request`.
    pub request: &'a Value,
    /// `params`, null without any.
    pub params: &'a Value,
    /// `authorizer.requestResource`.
    pub resource: Check,
}

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(n, t)| ((*n).to_string(), t.clone())).collect();
    Type::Object(Arc::new(ObjectType { name: name.into(), fields }))
}

static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::String;
    let kind =
        object("kubernetes.GroupVersionKind", &[("group", text()), ("version", text()), ("kind", text())]);
    let resource = object(
        "kubernetes.GroupVersionResource",
        &[("group", text()), ("version", text()), ("resource", text())],
    );
    let user = object(
        "kubernetes.UserInfo",
        &[
            ("username", text()),
            ("uid", text()),
            ("groups", Type::list(text())),
            ("extra", Type::map(Type::list(text()))),
        ],
    );
    object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
});

static NAMESPACE: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::String;
    let condition = object(
        "kubernetes.NamespaceCondition",
        &[
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", Type::Timestamp),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let metadata = object(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", Type::map(text())),
            ("annotations", Type::map(text())),
            ("UID", text()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", text()),
            ("finalizers", Type::list(text())),
        ],
    );
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(text()))]);
    let status =
        object("kubernetes.NamespaceStatus", &[("conditions", Type::list(condition)), ("phase", text())]);
    object("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
});

impl Environment {
    /// What match conditions of webhooks see.
    pub fn conditions(params: bool) -> Self {
        Self { params, authorizer: true, variables: Vec::new(), patches: Patches::None }
    }

    fn declarations(&self) -> Vec<(String, Type)> {
        let mut all = vec![
            ("object".to_string(), Type::Dyn),
            ("oldObject".to_string(), Type::Dyn),
            ("namespaceObject".to_string(), NAMESPACE.clone()),
            ("request".to_string(), REQUEST.clone()),
        ];
        if self.params {
            all.push(("params".to_string(), Type::Dyn));
        }
        if self.authorizer {
            let check = Type::Opaque("kubernetes.authorization.ResourceCheck");
            let authorizer = Type::Opaque("kubernetes.authorization.Authorizer");
            all.push(("authorizer".to_string(), authorizer));
            all.push(("authorizer.requestResource".to_string(), check));
        }
        if !self.variables.is_empty() {
            let fields: BTreeMap<String, Type> = self.variables.iter().cloned().collect();
            let name = "kubernetes.variables".to_string();
            all.push(("variables".to_string(), Type::Object(Arc::new(ObjectType { name, fields }))));
        }
        all
    }

    /// Compiles an expression whose result is of one of these types; of any where there are none.
    ///
    /// # Errors
    /// What is wrong, in upstream's words.
    pub fn compile(&self, source: &str, results: &[Type]) -> Result<Program, String> {
        let program = Program::compile_for(source, self.declarations(), self.patches)
            .map_err(|e| format!("compilation failed: {e}"))?;
        let found = program.output();
        if results.is_empty() || results.contains(found) {
            return Ok(program);
        }
        let names: Vec<String> = results.iter().map(ToString::to_string).collect();
        Err(match names.as_slice() {
            [one] => format!("must evaluate to {one} but got {found}"),
            many => format!("must evaluate to one of [{}] but got {found}", many.join(" ")),
        })
    }

    /// The values of the variables, in the order of their declaration.
    pub fn bindings<'a>(&self, inputs: &Inputs<'a>, variables: Arc<Fields<'a>>) -> Vec<Binding<'a>> {
        let mut all = vec![
            Binding::Value(inputs.object),
            Binding::Value(inputs.old),
            Binding::Value(inputs.namespace),
            Binding::Value(inputs.request),
        ];
        if self.params {
            all.push(Binding::Value(inputs.params));
        }
        if self.authorizer {
            all.push(Binding::Given(authority::authorizer()));
            all.push(Binding::Given(authority::resource(inputs.resource.clone())));
        }
        if !self.variables.is_empty() {
            all.push(Binding::Given(Val::Fields(variables)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(source: &str) -> String {
        let environment = Environment::conditions(true);
        let program = match environment.compile(source, &[]) {
            Ok(p) => p,
            Err(e) => return e,
        };
        let request =
            json!({"operation": "CREATE", "name": "x", "userInfo": {"username": "jane", "groups": ["a"]}});
        let (object, namespace) = (json!({"spec": {"replicas": 2}}), json!({"metadata": {"name": "n"}}));
        let inputs = Inputs {
            object: &object,
            old: &Value::Null,
            namespace: &namespace,
            request: &request,
            params: &Value::Null,
            resource: Check::default(),
        };
        let bindings = environment.bindings(&inputs, Arc::default());
        match program.evaluate(&bindings, 10_000).value {
            Ok(v) => v.to_json().map_or_else(|e| e.to_string(), |j| j.to_string()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn sees_the_request() {
        for (source, want) in [
            ("object.spec.replicas > 1 && oldObject == null && params == null", "true"),
            ("request.userInfo.username == 'jane' && 'a' in request.userInfo.groups", "true"),
            ("namespaceObject.metadata.name + request.operation", "\"nCREATE\""),
            ("object.spec.missing == 1", "no such key: missing"),
        ] {
            assert_eq!(run(source), want, "{source}");
        }
        assert!(run("request.nothing == 1").contains("undefined field 'nothing'"));
        assert!(run("... [] bad").starts_with("compilation failed: ERROR: <input>:1:"), "{}", run("... []"));
        assert!(run("Object{}").contains("undeclared reference to 'Object'"));
        let bools = Environment::conditions(false).compile("1", &[Type::Bool]).unwrap_err();
        assert_eq!(bools, "must evaluate to bool but got int");
    }
}
