//! Upstream: `test/e2e/common/storage/projected_downwardapi.go`.

use super::downwardapi_volume::{allocatable, annotations, labels, mode, pod_name, resource};

tests! {
    "[sig-storage] Projected downwardAPI should provide podname only" => |c| pod_name(c, true),
    "[sig-storage] Projected downwardAPI should set DefaultMode on files [LinuxOnly]" => |c| mode(c, true, false),
    "[sig-storage] Projected downwardAPI should set mode on item file [LinuxOnly]" => |c| mode(c, true, true),
    "[sig-storage] Projected downwardAPI should update labels on modification" => |c| labels(c, true),
    "[sig-storage] Projected downwardAPI should update annotations on modification" => |c| annotations(c, true),
    "[sig-storage] Projected downwardAPI should provide container's cpu limit" => |c| resource(c, true, "limits.cpu", "2"),
    "[sig-storage] Projected downwardAPI should provide container's memory limit" => |c| resource(c, true, "limits.memory", "67108864"),
    "[sig-storage] Projected downwardAPI should provide container's cpu request" => |c| resource(c, true, "requests.cpu", "1"),
    "[sig-storage] Projected downwardAPI should provide container's memory request" => |c| resource(c, true, "requests.memory", "33554432"),
    "[sig-storage] Projected downwardAPI should provide node allocatable (cpu) as default cpu limit if the limit is not set" => |c| allocatable(c, true, "cpu"),
    "[sig-storage] Projected downwardAPI should provide node allocatable (memory) as default memory limit if the limit is not set" => |c| allocatable(c, true, "memory"),
}
