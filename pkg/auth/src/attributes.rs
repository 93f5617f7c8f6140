//! What a request wants to do, and what was decided about it.

use async_trait::async_trait;
use knarr_machinery::fields::FieldSelector;
use knarr_machinery::labels::Selector;
use knarr_machinery::{ApiError, GroupResource, UserInfo};

/// The resource part of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourceAttributes {
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource, "" for none.
    pub subresource: String,
    /// Namespace, "" for cluster scope or all namespaces.
    pub namespace: String,
    /// Object name, "" for collections.
    pub name: String,
    /// Field selector of a list, watch or deletecollection.
    pub field_selector: Option<FieldSelector>,
    /// Label selector of a list, watch or deletecollection.
    pub label_selector: Option<Selector>,
}

impl ResourceAttributes {
    /// `resource` or `resource/subresource`.
    pub fn combined(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Group and resource.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.clone(), self.resource.clone())
    }
}

/// What a request wants to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes {
    /// Who asks.
    pub user: UserInfo,
    /// Verb (`get`, `list`, ..., or the lower case HTTP method for paths).
    pub verb: String,
    /// The resource; None for paths such as `/healthz`.
    pub resource: Option<ResourceAttributes>,
    /// URL path.
    pub path: String,
}

impl Attributes {
    /// `User "x" cannot get resource "pods" in API group "" in the namespace "y"`.
    pub fn refusal(&self) -> String {
        let user = &self.user.username;
        let Some(r) = &self.resource else {
            return format!("User {user:?} cannot {} path {:?}", self.verb, self.path);
        };
        let place = if r.namespace.is_empty() {
            "at the cluster scope".to_string()
        } else {
            format!("in the namespace {:?}", r.namespace)
        };
        format!(
            "User {user:?} cannot {} resource {:?} in API group {:?} {place}",
            self.verb,
            r.combined(),
            r.group
        )
    }

    /// The 403 of this request; `reason` as the authorizers gave it.
    pub fn forbidden(&self, reason: &str) -> ApiError {
        let mut text = self.refusal();
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(reason);
        }
        match &self.resource {
            Some(r) => ApiError::forbidden(&r.group_resource(), &r.name, &text),
            None => ApiError::forbidden(&GroupResource::default(), "", &text),
        }
    }
}

/// What an authorizer says; the text is the reason, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes; no other authorizer is asked.
    Allow(String),
    /// No; no other authorizer is asked.
    Deny(String),
    /// Somebody else may say yes.
    NoOpinion(String),
}

/// A rule about resources, as `SelfSubjectRulesReview` lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceRule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups.
    pub groups: Vec<String>,
    /// Resources.
    pub resources: Vec<String>,
    /// Names; empty means all.
    pub names: Vec<String>,
}

/// All rules known for a user in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleList {
    /// About resources.
    pub resources: Vec<ResourceRule>,
    /// About paths: verbs and URLs.
    pub urls: Vec<(Vec<String>, Vec<String>)>,
    /// Whether there may be more than is listed.
    pub incomplete: bool,
    /// Why.
    pub errors: Vec<String>,
}

/// Decides about requests.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// The decision about one request.
    async fn authorize(&self, attributes: &Attributes) -> Decision;

    /// The rules that apply to a user in a namespace.
    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> RuleList {
        let _ = (user, namespace);
        RuleList::default()
    }
}

/// Proof that a request was authorized; only [`authorize`] makes one.
#[derive(Debug)]
pub struct Permit(());

/// Judges a request.
///
/// # Errors
/// 403 with upstream's text.
pub async fn authorize(authorizer: &dyn Authorizer, attributes: &Attributes) -> Result<Permit, ApiError> {
    match authorizer.authorize(attributes).await {
        Decision::Allow(_) => Ok(Permit(())),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(attributes.forbidden(&reason)),
    }
}

/// Asks several authorizers in order.
pub struct Union {
    authorizers: Vec<std::sync::Arc<dyn Authorizer>>,
}

impl Union {
    /// Members of `system:masters` pass before any of these is asked.
    pub fn new(authorizers: Vec<std::sync::Arc<dyn Authorizer>>) -> Self {
        Self { authorizers }
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.in_group("system:masters") {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        for authorizer in &self.authorizers {
            match authorizer.authorize(attributes).await {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                Decision::Deny(reason) => {
                    reasons.push(reason);
                    return Decision::Deny(reasons.join("\n"));
                }
                allow @ Decision::Allow(_) => return allow,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> RuleList {
        let mut all = RuleList::default();
        if user.in_group("system:masters") {
            let any = || vec!["*".to_string()];
            all.resources.push(ResourceRule {
                verbs: any(),
                groups: any(),
                resources: any(),
                names: Vec::new(),
            });
            all.urls.push((any(), any()));
        }
        for authorizer in &self.authorizers {
            let part = authorizer.rules_for(user, namespace).await;
            all.resources.extend(part.resources);
            all.urls.extend(part.urls);
            all.incomplete |= part.incomplete;
            all.errors.extend(part.errors);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        let mut a = Attributes {
            user: UserInfo::component("jane", &[]),
            verb: "get".into(),
            resource: Some(ResourceAttributes {
                resource: "pods".into(),
                subresource: "log".into(),
                namespace: "y".into(),
                name: "p".into(),
                ..Default::default()
            }),
            path: String::new(),
        };
        assert_eq!(
            a.forbidden("why").message,
            "pods \"p\" is forbidden: User \"jane\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"y\": why"
        );
        a.resource = None;
        a.path = "/metrics".into();
        assert_eq!(a.forbidden("").message, "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }
}
