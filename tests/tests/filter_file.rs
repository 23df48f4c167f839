//! The sizes of the filter and the module.

use redis_mesh_tests::{filter, native};

#[test]
fn the_filter_is_small() -> anyhow::Result<()> {
    let bytes = std::fs::metadata(filter::build()?)?.len();
    // A ConfigMap or an image layer carries it, and every Envoy compiles it.
    assert!(bytes <= 400 * 1024, "the filter has {bytes} bytes");
    Ok(())
}

#[test]
fn the_module_fits_into_a_configmap() -> anyhow::Result<()> {
    let bytes = std::fs::metadata(native::build()?)?.len();
    // All of it may have 1 MiB, in whatever names.
    assert!(bytes <= 1_040_000, "the module has {bytes} bytes");
    Ok(())
}
