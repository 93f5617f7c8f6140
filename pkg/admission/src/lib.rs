//! Admission: what may change or refuse a write between authorization and storage.
//!
//! Entry point: [`Chain`], over the ordered table [`CHAIN`] (the order is upstream's and is law). One file per
//! plugin. Plugins reach state through [`Context`] only. This crate knows no registry and no datastore.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod certificates;
mod default_classes;
mod evaluate;
mod limit_ranger;
mod limits;
pub mod metrics;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod not_implemented;
mod params;
mod pod_security;
mod pod_security_checks;
mod pod_topology_labels;
mod policies;
mod policy_mutating;
mod policy_validating;
mod priority;
mod quota_usage;
mod ready;
mod request;
mod resource_quota;
mod review;
mod rules;
mod runtime_class;
mod service_account;
mod state;
mod storage_protection;
mod tolerations;
mod versions;
mod volume_resize;
mod webhook_mutating;
mod webhook_validating;
mod webhooks;

use std::sync::Arc;

use async_trait::async_trait;
use knarr_machinery::ApiError;

pub use priority::system_priority_classes;
pub use request::{Notes, Operation, Request, Rounds};
pub use state::{Api, CallError, Context, Server};

/// One admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Whether the plugin looks at such writes.
    fn handles(&self, operation: Operation) -> bool;

    /// May change the object.
    ///
    /// # Errors
    /// The write is refused.
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let _ = request;
        Ok(())
    }

    /// May refuse the write.
    ///
    /// # Errors
    /// The write is refused.
    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        let _ = request;
        Ok(())
    }
}

type Make = fn(&Context) -> Arc<dyn Plugin>;

/// The plugins in force, in upstream's order.
pub const CHAIN: &[(&str, Make)] = &[
    ("NamespaceLifecycle", |c| Arc::new(namespace_lifecycle::NamespaceLifecycle::new(c))),
    ("LimitRanger", |c| Arc::new(limit_ranger::LimitRanger::new(c))),
    ("ServiceAccount", |c| Arc::new(service_account::ServiceAccountPlugin::new(c))),
    ("NodeRestriction", |c| Arc::new(node_restriction::NodeRestriction::new(c))),
    ("TaintNodesByCondition", |_| Arc::new(node_taint::TaintNodesByCondition)),
    ("PodSecurity", |c| Arc::new(pod_security::PodSecurity::new(c))),
    ("Priority", |c| Arc::new(priority::Priority::new(c))),
    ("DefaultTolerationSeconds", |_| Arc::new(tolerations::DefaultTolerationSeconds)),
    ("DefaultStorageClass", |c| Arc::new(default_classes::DefaultStorageClass::new(c))),
    ("StorageObjectInUseProtection", |_| Arc::new(storage_protection::StorageObjectInUseProtection)),
    ("PersistentVolumeClaimResize", |c| Arc::new(volume_resize::PersistentVolumeClaimResize::new(c))),
    ("RuntimeClass", |c| Arc::new(runtime_class::RuntimeClassPlugin::new(c))),
    ("CertificateApproval", |c| Arc::new(certificates::CertificateApproval::new(c))),
    ("CertificateSigning", |c| Arc::new(certificates::CertificateSigning::new(c))),
    ("ClusterTrustBundleAttest", |c| Arc::new(certificates::ClusterTrustBundleAttest::new(c))),
    ("CertificateSubjectRestriction", |_| Arc::new(certificates::CertificateSubjectRestriction)),
    ("DefaultIngressClass", |c| Arc::new(default_classes::DefaultIngressClass::new(c))),
    ("PodTopologyLabels", |c| Arc::new(pod_topology_labels::PodTopologyLabels::new(c))),
    ("MutatingAdmissionPolicy", |c| Arc::new(policy_mutating::MutatingPolicies::new(c))),
    ("MutatingAdmissionWebhook", |c| Arc::new(webhook_mutating::MutatingAdmissionWebhook::new(c))),
    ("ValidatingAdmissionPolicy", |c| Arc::new(policy_validating::ValidatingPolicies::new(c))),
    ("ValidatingAdmissionWebhook", |c| Arc::new(webhook_validating::ValidatingAdmissionWebhook::new(c))),
    ("NotImplemented", |_| Arc::new(not_implemented::NotImplemented)),
    ("ResourceQuota", |c| Arc::new(resource_quota::ResourceQuotaPlugin::new(c))),
];

/// All plugins, in order.
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
}

impl Chain {
    /// Makes the plugins of [`CHAIN`], except those named in `disabled`.
    pub fn new(context: &Context, disabled: &[String]) -> Self {
        let on = CHAIN.iter().filter(|(name, _)| !disabled.iter().any(|d| d == name));
        Self { plugins: on.map(|(_, make)| make(context)).collect() }
    }

    /// Lets every plugin change the object; once more when a webhook or a policy did.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        self.round(request).await?;
        if request.rounds.wanted {
            request.rounds.second = true;
            self.round(request).await?;
        }
        Ok(())
    }

    async fn round(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let operation = request.operation;
        for plugin in self.plugins.iter().filter(|p| p.handles(operation)) {
            plugin.mutate(request).await?;
        }
        Ok(())
    }

    /// Lets every plugin look at the object as it will be stored.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        for plugin in self.plugins.iter().filter(|p| p.handles(request.operation)) {
            plugin.validate(request).await?;
        }
        Ok(())
    }
}
