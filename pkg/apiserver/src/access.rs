//! Attributes of a request, for authorization.

use knarr_auth::{Attributes, ResourceAttributes};
use knarr_machinery::UserInfo;
use knarr_machinery::fields::FieldSelector;
use knarr_machinery::labels::Selector;

use crate::info::{Query, RequestInfo};

/// The attributes of a request. Selectors that do not parse are left out: the handler refuses them later.
pub fn attributes(user: &UserInfo, info: &RequestInfo, query: &Query) -> Attributes {
    let selects = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    let resource = info.is_resource.then(|| ResourceAttributes {
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        field_selector: query
            .get("fieldSelector")
            .filter(|_| selects)
            .and_then(|s| FieldSelector::parse(s).ok()),
        label_selector: query.get("labelSelector").filter(|_| selects).and_then(|s| Selector::parse(s).ok()),
    });
    Attributes { user: user.clone(), verb: info.verb.clone(), resource, path: info.path.clone() }
}
