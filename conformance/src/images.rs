//! Names of the images, as upstream's `test/utils/image/manifest.go` of v1.37 has them.

/// The helper program with its many sub-commands.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";
/// The same program under an earlier tag, for rolling updates.
pub const AGNHOST_PREV: &str = "registry.k8s.io/e2e-test-images/agnhost:2.55";
/// A small userland.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
/// A web server.
pub const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.15-4";
/// A newer web server.
pub const NGINX_NEW: &str = "registry.k8s.io/e2e-test-images/nginx:1.27-0";
/// Sleeps for ever.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
/// A web server with a picture, for the update demo.
pub const NAUTILUS: &str = "registry.k8s.io/e2e-test-images/nautilus:1.8";
/// Another one.
pub const KITTEN: &str = "registry.k8s.io/e2e-test-images/kitten:1.8";
/// A set-uid program that prints its effective user.
pub const NONEWPRIVS: &str = "registry.k8s.io/e2e-test-images/nonewprivs:1.4";
/// A userland with the GNU C library and `dig`.
pub const GLIBC_DNS: &str = "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0";
/// The sample of an aggregated API server.
pub const SAMPLE_APISERVER: &str = "registry.k8s.io/e2e-test-images/sample-apiserver:1.29.2";
/// etcd, beside the sample API server.
pub const ETCD: &str = "registry.k8s.io/etcd:3.6.6-0";
