//! The operations of each kind, in a form that both OpenAPI versions are written from.

use knarr_kinds::kind::{KindInfo, Scope, Subresource, Verb};
use knarr_machinery::GroupVersionKind;

use crate::params::{self, Param};

/// One path with its operations.
#[derive(Debug)]
pub(crate) struct Path {
    pub path: String,
    /// Parameters of all its operations.
    pub params: Vec<Param>,
    pub operations: Vec<Operation>,
}

/// One operation.
#[derive(Debug)]
pub(crate) struct Operation {
    /// HTTP method in lower case.
    pub method: &'static str,
    /// `x-kubernetes-action`.
    pub action: &'static str,
    pub id: String,
    pub tag: String,
    pub description: String,
    pub gvk: GroupVersionKind,
    pub params: Vec<Param>,
    pub body: Body,
    /// Definition of the answer; `None` for text.
    pub answer: Option<String>,
    /// Success codes.
    pub codes: &'static [u16],
    /// Of a custom resource: no protobuf, no strategic merge patch.
    pub custom: bool,
}

/// What the request carries.
#[derive(Debug)]
pub(crate) enum Body {
    None,
    /// A document of this definition.
    Document(String),
    /// DeleteOptions, which may be left out.
    DeleteOptions,
    Patch,
}

pub(crate) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(crate) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
pub(crate) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The definition of a kind's list.
pub(crate) fn list_definition(info: &KindInfo) -> String {
    let gvk = GroupVersionKind { kind: info.list_kind.clone(), ..info.gvk.clone() };
    match knarr_schema::definition_name(&gvk) {
        Some(name) if !info.custom => name.to_owned(),
        _ => match info.definition.rsplit_once('.') {
            Some((package, _)) => format!("{package}.{}", info.list_kind),
            None => info.list_kind.to_string(),
        },
    }
}

/// `/api/v1` or `/apis/<group>/<version>`.
pub(crate) fn base_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// Words of a name with capital initials: `rbac.authorization` becomes `RbacAuthorization`.
fn camel(text: &str) -> String {
    text.split(['.', '-', '/'])
        .map(|word| {
            let mut chars = word.chars();
            chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
        })
        .collect()
}

/// Writes the operations of one kind.
struct Builder<'a> {
    info: &'a KindInfo,
    /// `AppsV1`.
    group_version: String,
    tag: String,
    scope: &'static str,
    paths: Vec<Path>,
}

/// All paths of a kind, in no particular order.
pub(crate) fn paths(info: &KindInfo) -> Vec<Path> {
    let group = info.gvk.group.strip_suffix(".k8s.io").unwrap_or(&info.gvk.group);
    let group = if group.is_empty() { "Core".to_owned() } else { camel(group) };
    let mut initial = group.chars();
    let low: String = initial.next().map_or(String::new(), |c| c.to_lowercase().chain(initial).collect());
    let mut builder = Builder {
        info,
        group_version: format!("{group}{}", camel(&info.gvk.version)),
        tag: format!("{low}_{}", info.gvk.version),
        scope: if info.scope == Scope::Namespaced { "Namespaced" } else { "" },
        paths: Vec::new(),
    };
    builder.collection();
    builder.item();
    for sub in &info.subresources {
        builder.subresource(sub);
    }
    builder.paths
}

impl Builder<'_> {
    fn has(&self, verb: Verb) -> bool {
        self.info.verbs.contains(&verb)
    }

    fn root(&self) -> String {
        let gvk = &self.info.gvk;
        let base = base_path(&gvk.group, &gvk.version);
        match self.info.scope {
            Scope::Namespaced => format!("{base}/namespaces/{{namespace}}/{}", self.info.plural),
            Scope::Cluster => format!("{base}/{}", self.info.plural),
        }
    }

    fn path_params(&self, named: bool) -> Vec<Param> {
        let mut list = Vec::new();
        if named {
            list.push(params::path("name", format!("name of the {}", self.info.gvk.kind)));
        }
        if self.info.scope == Scope::Namespaced {
            list.push(params::path("namespace", "namespace of the object".into()));
        }
        list
    }

    /// An operation on the kind itself; the caller adjusts what differs.
    fn operation(&self, method: &'static str, action: &'static str, id: String, text: &str) -> Operation {
        Operation {
            method,
            action,
            id,
            tag: self.tag.clone(),
            description: text.to_owned(),
            gvk: self.info.gvk.clone(),
            params: Vec::new(),
            body: Body::None,
            answer: Some(self.info.definition.to_string()),
            codes: &[200],
            custom: self.info.custom,
        }
    }

    fn id(&self, verb: &str, suffix: &str) -> String {
        format!("{verb}{}{}{}{suffix}", self.group_version, self.scope, self.info.gvk.kind)
    }

    fn collection(&mut self) {
        let kind = &self.info.gvk.kind;
        let mut operations = Vec::new();
        if self.has(Verb::List) {
            let mut op = self.operation(
                "get",
                "list",
                self.id("list", ""),
                &format!("list or watch objects of kind {kind}"),
            );
            op.params = params::list();
            op.answer = Some(list_definition(self.info));
            operations.push(op);
        }
        if self.has(Verb::Create) {
            let mut op = self.operation("post", "post", self.id("create", ""), &format!("create a {kind}"));
            op.params = params::write();
            op.body = Body::Document(self.info.definition.to_string());
            op.codes = &[200, 201, 202];
            operations.push(op);
        }
        if self.has(Verb::DeleteCollection) {
            let id = format!("delete{}Collection{}{kind}", self.group_version, self.scope);
            let mut op =
                self.operation("delete", "deletecollection", id, &format!("delete a collection of {kind}"));
            op.params = params::delete_collection();
            op.body = Body::DeleteOptions;
            op.answer = Some(STATUS.to_owned());
            operations.push(op);
        }
        self.push(self.root(), false, operations);
        if self.info.scope == Scope::Namespaced && self.has(Verb::List) {
            let id = format!("list{}{kind}ForAllNamespaces", self.group_version);
            let mut op = self.operation("get", "list", id, &format!("list or watch objects of kind {kind}"));
            op.params = params::list();
            op.answer = Some(list_definition(self.info));
            let gvk = &self.info.gvk;
            let path = format!("{}/{}", base_path(&gvk.group, &gvk.version), self.info.plural);
            self.paths.push(Path { path, params: vec![params::pretty()], operations: vec![op] });
        }
    }

    fn push(&mut self, path: String, named: bool, operations: Vec<Operation>) {
        if operations.is_empty() {
            return;
        }
        let mut list = self.path_params(named);
        list.push(params::pretty());
        self.paths.push(Path { path, params: list, operations });
    }

    fn item(&mut self) {
        let kind = &self.info.gvk.kind;
        let mut operations = self.document_operations(&self.info.verbs, "", &format!("the specified {kind}"));
        if self.has(Verb::Delete) {
            let mut op =
                self.operation("delete", "delete", self.id("delete", ""), &format!("delete a {kind}"));
            op.params = params::delete();
            op.body = Body::DeleteOptions;
            op.codes = &[200, 202];
            op.answer = Some(STATUS.to_owned());
            operations.push(op);
        }
        self.push(format!("{}/{{name}}", self.root()), true, operations);
    }

    /// get, put and patch of the object or of a subresource that is a document.
    fn document_operations(&self, verbs: &[Verb], suffix: &str, what: &str) -> Vec<Operation> {
        let mut operations = Vec::new();
        if verbs.contains(&Verb::Get) {
            operations.push(self.operation("get", "get", self.id("read", suffix), &format!("read {what}")));
        }
        if verbs.contains(&Verb::Update) {
            let mut op = self.operation("put", "put", self.id("replace", suffix), &format!("replace {what}"));
            op.params = params::write();
            op.body = Body::Document(self.info.definition.to_string());
            op.codes = &[200, 201];
            operations.push(op);
        }
        if verbs.contains(&Verb::Patch) {
            let mut op = self.operation(
                "patch",
                "patch",
                self.id("patch", suffix),
                &format!("change fields of {what}"),
            );
            op.params = params::patch();
            op.body = Body::Patch;
            op.codes = &[200, 201];
            operations.push(op);
        }
        operations
    }

    fn subresource(&mut self, sub: &Subresource) {
        let path = format!("{}/{{name}}/{}", self.root(), sub.name);
        if sub.gvk.kind.ends_with("Options") {
            self.connect(sub, path);
            return;
        }
        let suffix = camel(&sub.name);
        let definition = if sub.gvk == self.info.gvk {
            self.info.definition.to_string()
        } else {
            knarr_schema::definition_name(&sub.gvk).unwrap_or(&self.info.definition).to_owned()
        };
        let what = format!("{} of the specified {}", sub.name, self.info.gvk.kind);
        let mut operations = self.document_operations(&sub.verbs, &suffix, &what);
        if sub.verbs.contains(&Verb::Create) {
            let mut op =
                self.operation("post", "post", self.id("create", &suffix), &format!("create {what}"));
            op.params = params::write();
            op.body = Body::Document(definition.clone());
            op.codes = &[200, 201, 202];
            operations.push(op);
        }
        for op in &mut operations {
            op.gvk = sub.gvk.clone();
            op.answer = Some(definition.clone());
            if let Body::Document(d) = &mut op.body {
                d.clone_from(&definition);
            }
        }
        if sub.name == "log" {
            for op in &mut operations {
                op.params = params::options("io.k8s.api.core.v1.PodLogOptions");
                op.answer = None;
            }
        }
        self.push(path, true, operations);
    }

    /// exec, attach, portforward, proxy: a connection whose options come in the query.
    fn connect(&mut self, sub: &Subresource, path: String) {
        let methods: &[(&'static str, Verb)] = &[
            ("get", Verb::Get),
            ("post", Verb::Create),
            ("put", Verb::Update),
            ("patch", Verb::Patch),
            ("delete", Verb::Delete),
        ];
        let suffix = camel(&sub.name);
        let query = knarr_schema::definition_name(&sub.gvk).map(params::options).unwrap_or_default();
        let rest: &[(&str, &str)] =
            if sub.name == "proxy" { &[("", ""), ("/{path}", "WithPath")] } else { &[("", "")] };
        for (tail, with_path) in rest {
            let operations: Vec<Operation> = methods
                .iter()
                .filter(|(_, verb)| sub.verbs.contains(verb))
                .map(|(method, _)| {
                    let id = format!(
                        "connect{}{}{}{}{suffix}{with_path}",
                        self.group_version,
                        camel(method),
                        self.scope,
                        self.info.gvk.kind
                    );
                    let text = format!(
                        "connect {} requests to {} of {}",
                        method.to_uppercase(),
                        sub.name,
                        self.info.gvk.kind
                    );
                    let mut op = self.operation(method, "connect", id, &text);
                    op.gvk = sub.gvk.clone();
                    op.answer = None;
                    op
                })
                .collect();
            let mut list = self.path_params(true);
            if !tail.is_empty() {
                list.push(params::path("path", "path of the request to the target".into()));
            }
            list.extend(query.iter().filter(|p| tail.is_empty() || p.name != "path").cloned());
            if !operations.is_empty() {
                self.paths.push(Path { path: format!("{path}{tail}"), params: list, operations });
            }
        }
    }
}
