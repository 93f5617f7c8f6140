//! The table of built-in kinds.

use std::collections::HashMap;
use std::sync::LazyLock;

use knarr_machinery::GroupVersionResource;

use crate::kind::Kind;
use crate::{
    admissionregistration, apiextensions, apiregistration, apps, authentication, authorization, autoscaling,
    batch, certificates, coordination, core, discovery, events, flowcontrol, networking, node, policy, rbac,
    resource, scheduling, storage, storagemigration,
};

/// One line for each group/version/resource, sorted by group, version and plural name.
const BUILTINS: &[fn() -> Kind] = &[
    core::binding::kind,
    core::componentstatus::kind,
    core::configmap::kind,
    core::endpoints::kind,
    core::event::kind,
    core::limitrange::kind,
    core::namespace::kind,
    core::node::kind,
    core::persistentvolumeclaim::kind,
    core::persistentvolume::kind,
    core::pod::kind,
    core::podtemplate::kind,
    core::replicationcontroller::kind,
    core::resourcequota::kind,
    core::secret::kind,
    core::serviceaccount::kind,
    core::service::kind,
    admissionregistration::mutatingadmissionpolicy::kind,
    admissionregistration::mutatingadmissionpolicybinding::kind,
    admissionregistration::mutatingwebhookconfiguration::kind,
    admissionregistration::validatingadmissionpolicy::kind,
    admissionregistration::validatingadmissionpolicybinding::kind,
    admissionregistration::validatingwebhookconfiguration::kind,
    apiextensions::customresourcedefinition::kind,
    apiregistration::apiservice::kind,
    apps::controllerrevision::kind,
    apps::daemonset::kind,
    apps::deployment::kind,
    apps::replicaset::kind,
    apps::statefulset::kind,
    authentication::selfsubjectreview::kind,
    authentication::tokenreview::kind,
    authorization::localsubjectaccessreview::kind,
    authorization::selfsubjectaccessreview::kind,
    authorization::selfsubjectrulesreview::kind,
    authorization::subjectaccessreview::kind,
    autoscaling::horizontalpodautoscaler_v1::kind,
    autoscaling::horizontalpodautoscaler_v2::kind,
    batch::cronjob::kind,
    batch::job::kind,
    certificates::certificatesigningrequest::kind,
    certificates::clustertrustbundle::kind,
    certificates::podcertificaterequest::kind,
    coordination::lease::kind,
    discovery::endpointslice::kind,
    events::event::kind,
    flowcontrol::flowschema::kind,
    flowcontrol::prioritylevelconfiguration::kind,
    networking::ingressclass::kind,
    networking::ingress::kind,
    networking::ipaddress::kind,
    networking::networkpolicy::kind,
    networking::servicecidr::kind,
    node::runtimeclass::kind,
    policy::poddisruptionbudget::kind,
    rbac::clusterrolebinding::kind,
    rbac::clusterrole::kind,
    rbac::rolebinding::kind,
    rbac::role::kind,
    resource::deviceclass::kind,
    resource::devicetaintrule::kind,
    resource::resourceclaim::kind,
    resource::resourceclaimtemplate::kind,
    resource::resourceslice::kind,
    scheduling::priorityclass::kind,
    storage::csidriver::kind,
    storage::csinode::kind,
    storage::csistoragecapacity::kind,
    storage::storageclass::kind,
    storage::volumeattachment::kind,
    storage::volumeattributesclass::kind,
    storagemigration::storageversionmigration::kind,
];

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| BUILTINS.iter().map(|make| make()).collect());

static BY_RESOURCE: LazyLock<HashMap<GroupVersionResource, usize>> = LazyLock::new(|| {
    let key = |k: &Kind| GroupVersionResource {
        group: k.info.gvk.group.clone(),
        version: k.info.gvk.version.clone(),
        resource: k.info.plural.clone(),
    };
    KINDS.iter().enumerate().map(|(i, k)| (key(k), i)).collect()
});

/// All built-in kinds, sorted by group, version and plural name.
pub fn builtins() -> &'static [Kind] {
    &KINDS
}

/// The built-in kind of a resource.
pub fn find(gvr: &GroupVersionResource) -> Option<&'static Kind> {
    BY_RESOURCE.get(gvr).map(|i| &KINDS[*i])
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;
