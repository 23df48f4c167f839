# The recipes of redis-mesh. `cargo demo` and `cargo test` need none of them.

# Show the recipes.
default:
    @just --list

# Build the wasm filter: target/wasm32-wasip1/filter/redis_mesh.wasm.
filter:
    filter/build wasm

# Build the dynamic module for Envoy 1.40: target/module/libredis_mesh_native.so.
module:
    filter/build module

# Build the command line.
build:
    cargo build --release -p redis-mesh

# All tests of `cargo test`.
test:
    cargo test

# The core's tests compiled to wasm32, run by node.
test-wasm32:
    tests/scripts/test-wasm32

# Formatting and lints.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --document-private-items

# Measure against tcp_proxy and redis_proxy; the report goes to reports/. `just bench --help`
bench *arguments:
    cargo run --release -p redis-mesh-tests --bin bench -- {{arguments}}

# Fuzz a target of filter/core/fuzz for some seconds. Needs a nightly toolchain.
fuzz target="rewriter" seconds="60":
    tests/scripts/fuzz {{target}} {{seconds}}

# The module's unit tests in Miri, which sees undefined behaviour and leaks. Needs a nightly toolchain with Miri.
miri:
    tests/scripts/miri

# What takes too long for CI: many random sessions, fuzzing, Miri, the mesh without the controller. `just nightly --list`
nightly *steps:
    tests/scripts/nightly {{steps}}

# Rewrite the goldens and generated examples after a change that is meant.
bless:
    BLESS=1 cargo test -p redis-mesh
    BLESS=1 cargo test -p redis-mesh-tests --test istio

# Regenerate what is generated from real servers and from types: the command table and the CRDs.
generate:
    cargo run -p redis-mesh-tests --bin generate-command-table
    BLESS=1 cargo test -p redis-mesh

# Run the walkthroughs in examples/ step by step: `just demo --exit`
demo *arguments:
    cargo demo {{arguments}}

# The suite on a real kube-apiserver, istiod and sidecars (root and Go): `just mesh`, `just mesh FILTER`, `just mesh --keep`
mesh *arguments:
    cargo mesh {{arguments}}

# What the controller costs with up to 5,000 RedisServices, on a real kube-apiserver, istiod and sidecar: `just scale --quick`
scale *arguments:
    cargo mesh scale {{arguments}}
