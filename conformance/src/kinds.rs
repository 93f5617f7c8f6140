//! The built-in kinds.

use crate::api::Kind;

macro_rules! kinds {
    ($($(#[doc = $doc:expr])* $name:ident = $group:literal $version:literal $plural:literal $kind:literal $namespaced:literal;)*) => {
        $(#[doc = concat!("`", $plural, "` of ", $group, "/", $version)]
        pub const $name: Kind = Kind::new($group, $version, $plural, $kind, $namespaced);)*
    };
}

kinds! {
    PODS = "" "v1" "pods" "Pod" true;
    SERVICES = "" "v1" "services" "Service" true;
    ENDPOINTS = "" "v1" "endpoints" "Endpoints" true;
    CONFIG_MAPS = "" "v1" "configmaps" "ConfigMap" true;
    SECRETS = "" "v1" "secrets" "Secret" true;
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts" "ServiceAccount" true;
    EVENTS = "" "v1" "events" "Event" true;
    LIMIT_RANGES = "" "v1" "limitranges" "LimitRange" true;
    RESOURCE_QUOTAS = "" "v1" "resourcequotas" "ResourceQuota" true;
    POD_TEMPLATES = "" "v1" "podtemplates" "PodTemplate" true;
    REPLICATION_CONTROLLERS = "" "v1" "replicationcontrollers" "ReplicationController" true;
    CLAIMS = "" "v1" "persistentvolumeclaims" "PersistentVolumeClaim" true;
    VOLUMES = "" "v1" "persistentvolumes" "PersistentVolume" false;
    NODES = "" "v1" "nodes" "Node" false;
    NAMESPACES = "" "v1" "namespaces" "Namespace" false;
    EVENTS_V1 = "events.k8s.io" "v1" "events" "Event" true;
    DEPLOYMENTS = "apps" "v1" "deployments" "Deployment" true;
    REPLICA_SETS = "apps" "v1" "replicasets" "ReplicaSet" true;
    STATEFUL_SETS = "apps" "v1" "statefulsets" "StatefulSet" true;
    DAEMON_SETS = "apps" "v1" "daemonsets" "DaemonSet" true;
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions" "ControllerRevision" true;
    JOBS = "batch" "v1" "jobs" "Job" true;
    CRON_JOBS = "batch" "v1" "cronjobs" "CronJob" true;
    AUTOSCALERS = "autoscaling" "v2" "horizontalpodautoscalers" "HorizontalPodAutoscaler" true;
    DISRUPTION_BUDGETS = "policy" "v1" "poddisruptionbudgets" "PodDisruptionBudget" true;
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" true;
    INGRESSES = "networking.k8s.io" "v1" "ingresses" "Ingress" true;
    NETWORK_POLICIES = "networking.k8s.io" "v1" "networkpolicies" "NetworkPolicy" true;
    INGRESS_CLASSES = "networking.k8s.io" "v1" "ingressclasses" "IngressClass" false;
    IP_ADDRESSES = "networking.k8s.io" "v1" "ipaddresses" "IPAddress" false;
    SERVICE_CIDRS = "networking.k8s.io" "v1" "servicecidrs" "ServiceCIDR" false;
    LEASES = "coordination.k8s.io" "v1" "leases" "Lease" true;
    RUNTIME_CLASSES = "node.k8s.io" "v1" "runtimeclasses" "RuntimeClass" false;
    PRIORITY_CLASSES = "scheduling.k8s.io" "v1" "priorityclasses" "PriorityClass" false;
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses" "StorageClass" false;
    CSI_DRIVERS = "storage.k8s.io" "v1" "csidrivers" "CSIDriver" false;
    CSI_NODES = "storage.k8s.io" "v1" "csinodes" "CSINode" false;
    CSI_CAPACITIES = "storage.k8s.io" "v1" "csistoragecapacities" "CSIStorageCapacity" true;
    VOLUME_ATTACHMENTS = "storage.k8s.io" "v1" "volumeattachments" "VolumeAttachment" false;
    VOLUME_ATTRIBUTES_CLASSES = "storage.k8s.io" "v1" "volumeattributesclasses" "VolumeAttributesClass" false;
    ROLES = "rbac.authorization.k8s.io" "v1" "roles" "Role" true;
    ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "rolebindings" "RoleBinding" true;
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole" false;
    CLUSTER_ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "clusterrolebindings" "ClusterRoleBinding" false;
    TOKEN_REVIEWS = "authentication.k8s.io" "v1" "tokenreviews" "TokenReview" false;
    ACCESS_REVIEWS = "authorization.k8s.io" "v1" "subjectaccessreviews" "SubjectAccessReview" false;
    LOCAL_ACCESS_REVIEWS = "authorization.k8s.io" "v1" "localsubjectaccessreviews" "LocalSubjectAccessReview" true;
    SELF_ACCESS_REVIEWS = "authorization.k8s.io" "v1" "selfsubjectaccessreviews" "SelfSubjectAccessReview" false;
    SIGNING_REQUESTS = "certificates.k8s.io" "v1" "certificatesigningrequests" "CertificateSigningRequest" false;
    TRUST_BUNDLES = "certificates.k8s.io" "v1" "clustertrustbundles" "ClusterTrustBundle" false;
    POD_CERTIFICATE_REQUESTS = "certificates.k8s.io" "v1" "podcertificaterequests" "PodCertificateRequest" true;
    MUTATING_WEBHOOKS = "admissionregistration.k8s.io" "v1" "mutatingwebhookconfigurations" "MutatingWebhookConfiguration" false;
    VALIDATING_WEBHOOKS = "admissionregistration.k8s.io" "v1" "validatingwebhookconfigurations" "ValidatingWebhookConfiguration" false;
    VALIDATING_POLICIES = "admissionregistration.k8s.io" "v1" "validatingadmissionpolicies" "ValidatingAdmissionPolicy" false;
    VALIDATING_POLICY_BINDINGS = "admissionregistration.k8s.io" "v1" "validatingadmissionpolicybindings" "ValidatingAdmissionPolicyBinding" false;
    MUTATING_POLICIES = "admissionregistration.k8s.io" "v1" "mutatingadmissionpolicies" "MutatingAdmissionPolicy" false;
    MUTATING_POLICY_BINDINGS = "admissionregistration.k8s.io" "v1" "mutatingadmissionpolicybindings" "MutatingAdmissionPolicyBinding" false;
    CUSTOM_RESOURCES = "apiextensions.k8s.io" "v1" "customresourcedefinitions" "CustomResourceDefinition" false;
    API_SERVICES = "apiregistration.k8s.io" "v1" "apiservices" "APIService" false;
    FLOW_SCHEMAS = "flowcontrol.apiserver.k8s.io" "v1" "flowschemas" "FlowSchema" false;
    PRIORITY_LEVELS = "flowcontrol.apiserver.k8s.io" "v1" "prioritylevelconfigurations" "PriorityLevelConfiguration" false;
    MIGRATIONS = "storagemigration.k8s.io" "v1" "storageversionmigrations" "StorageVersionMigration" false;
    DEVICE_CLASSES = "resource.k8s.io" "v1" "deviceclasses" "DeviceClass" false;
    DEVICE_TAINT_RULES = "resource.k8s.io" "v1" "devicetaintrules" "DeviceTaintRule" false;
    RESOURCE_CLAIMS = "resource.k8s.io" "v1" "resourceclaims" "ResourceClaim" true;
    RESOURCE_CLAIM_TEMPLATES = "resource.k8s.io" "v1" "resourceclaimtemplates" "ResourceClaimTemplate" true;
    RESOURCE_SLICES = "resource.k8s.io" "v1" "resourceslices" "ResourceSlice" false;
}
