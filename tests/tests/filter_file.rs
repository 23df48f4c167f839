//! The filter as a file.

use redis_mesh_tests::filter;

#[test]
fn the_filter_is_small() -> anyhow::Result<()> {
    let bytes = std::fs::metadata(filter::build()?)?.len();
    // A ConfigMap or an image layer carries it, and every Envoy compiles it.
    assert!(bytes <= 400 * 1024, "the filter has {bytes} bytes");
    Ok(())
}
