# Settings of the nodes under test. A machine of tests may have a small or a well filled disk: that is not what is tested.
export KNARR_KUBELET_ARG="${KNARR_KUBELET_ARG:-eviction-hard=nodefs.available<256Mi,imagefs.available<256Mi,memory.available<100Mi image-gc-high-threshold=100}"
