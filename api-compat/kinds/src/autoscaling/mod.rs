//! `autoscaling`: one stored form (v2), two versions.

pub(crate) mod horizontalpodautoscaler_v1;
pub(crate) mod horizontalpodautoscaler_v2;
