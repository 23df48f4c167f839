//! What `check` accepts, a real Envoy takes: manifests with every field of both kinds at its bounds, by seed.
//!
//! The fields come from the definitions that are committed, so that a new field takes part by itself; what a
//! string may be is in [`string`]. Objects that `check` refuses are counted and left out, the others are
//! rendered together, for a standalone Envoy on each data path and for Istio, whose clusters and network filters
//! go into a configuration of their own.
//!
//! `BOUNDS` is the number of manifests (default 120), `FIRST` the seed of the first one.

// Clippy knows only the bodies of tests as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use redis_mesh_tests::{envoy, filter, native};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How many manifests are given to Envoy at once.
const BATCH: usize = 40;

/// Where pods have the module.
const POD_MODULE: &str = "/etc/redis-mesh/redis_mesh-0123abcd.so";

/// One manifest in the making.
struct Sample {
    number: usize,
    choices: fastrand::Rng,
    /// Names of the Secrets with certificates that the manifest has.
    secrets: Vec<String>,
    /// The share of values that are meant to be refused: one in so many.
    wrong: usize,
}

const DURATIONS: [&str; 8] = ["1ms", "1.5ms", "500ms", "1s", "1h", "24h", "876000h", "1m30.000000001s"];
const WRONG_DURATIONS: [&str; 8] = ["0", "0s", "1ns", "999us", "32768s", "1000000h", "-1s", "999999999999h"];
const TEXTS: [&str; 8] = ["x", "user:1", "a b", "ä", "\u{1}", "{tag}", "\"'\\`", "%s$1\n"];
const COMMANDS: [&str; 6] = ["get", "GET", "mget", "blpop", "eval", "nosuch"];
const EXPRESSIONS: [&str; 6] = ["^user:[0-9]+$", ".*", "(a|b){1,20}", "[^x]*?", "\\x00", "(?i)ä"];
const WRONG_EXPRESSIONS: [&str; 4] = ["(", "a{1000000}", "\\1", "(((a{100}){100}){100}){100}"];

impl Sample {
    fn one_in(&mut self, n: usize) -> bool {
        self.choices.usize(..n) == 0
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.choices.usize(..all.len())]
    }

    fn is_wrong(&mut self) -> bool {
        self.one_in(self.wrong)
    }

    fn value(&mut self, path: &str, schema: &Value) -> Value {
        match schema["type"].as_str().unwrap_or_default() {
            "object" => self.object(path, schema),
            "array" => {
                let most = schema["maxItems"].as_u64().unwrap_or(4).min(3);
                let least = schema["minItems"].as_u64().unwrap_or(0);
                let length = self.choices.u64(least..=most);
                (0..length).map(|_| self.value(path, &schema["items"])).collect()
            }
            "boolean" => json!(self.one_in(2)),
            "integer" if path.ends_with(".port") && !self.is_wrong() => json!(6379),
            "integer" => json!(self.integer(schema)),
            "number" => json!([0.0, 1e-9, 0.00005, 33.3333, 99.99999, 100.0][self.choices.usize(..6)]),
            "string" => json!(self.string(path, schema)),
            other => unreachable!("{path}: a type `{other}` is new"),
        }
    }

    fn object(&mut self, path: &str, schema: &Value) -> Value {
        let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
        let mut object = Map::new();
        // Of these, one has to be chosen.
        let alternatives: &[&str] = match path.rsplit('.').next() {
            Some("auth") => &["plain"],
            Some("key") => &["prefix", "exact", "regex"],
            _ => &[],
        };
        let chosen = (!alternatives.is_empty()).then(|| self.of(alternatives));
        for (name, property) in schema["properties"].as_object().unwrap() {
            let is_there = match chosen {
                Some(chosen) if name == chosen => true,
                Some(_) if matches!(name.as_str(), "secret" | "plain" | "prefix" | "exact" | "regex") => {
                    self.is_wrong()
                }
                _ => required.contains(&name.as_str()) || self.one_in(2),
            };
            if is_there {
                object.insert(name.clone(), self.value(&format!("{path}.{name}"), property));
            }
        }
        if path.ends_with("faults") && object.get("type") != Some(&json!("ERROR")) {
            object.entry("delay").or_insert_with(|| json!("1ms"));
        }
        if path.ends_with(".key") && !object.contains_key("prefix") && !self.is_wrong() {
            object.remove("removePrefix");
        }
        if path.ends_with(".tls") && ["DISABLE", "ISTIO_MUTUAL"].map(Value::from).contains(&object["mode"]) {
            object.retain(|name, _| name == "mode");
        }
        if path.ends_with(".tls") && object["mode"] == "MUTUAL" {
            object.insert("secret".into(), json!({"name": self.secret()}));
        }
        Value::Object(object)
    }

    fn integer(&mut self, schema: &Value) -> i64 {
        let least = schema["minimum"].as_f64().unwrap_or(0.0) as i64;
        let most = schema["maximum"].as_f64().map_or(i64::from(i32::MAX), |most| most as i64);
        if self.is_wrong() {
            return if self.one_in(2) { least - 1 } else { most + 1 };
        }
        match self.choices.usize(..4) {
            0 => least,
            1 => most,
            2 => (least + 1).min(most),
            _ => self.choices.i64(least..=most),
        }
    }

    fn secret(&mut self) -> String {
        self.secrets[self.choices.usize(..self.secrets.len())].clone()
    }

    fn string(&mut self, path: &str, schema: &Value) -> String {
        if let Some(values) = schema["enum"].as_array() {
            return values[self.choices.usize(..values.len())].as_str().unwrap().to_owned();
        }
        let n = self.number;
        let most = schema["maxLength"].as_u64().unwrap_or(300) as usize;
        if schema["pattern"].is_string() {
            let is_keepalive = path.contains("tcpKeepalive");
            return match self.is_wrong() {
                true => self.of(&WRONG_DURATIONS).to_owned(),
                false if is_keepalive => self.of(&["1s", "32767s", "60s", "1m30s"]).to_owned(),
                false => self.of(&DURATIONS).to_owned(),
            };
        }
        let is_wrong = self.is_wrong();
        let names: &[&str] = match path.rsplit('.').next().unwrap() {
            // Each manifest has two hosts of its own, so that manifests of a batch have no object in common.
            "host" if path.ends_with("spec.host") => return format!("s{n}.redis.svc.cluster.local"),
            "host" => return format!("{}{n}.redis.svc.cluster.local", self.of(&["s", "d"])),
            "name" => return self.secret(),
            "username" => &["a", "default", "ä", "user:1"],
            "regex" if is_wrong => &WRONG_EXPRESSIONS,
            "regex" => &EXPRESSIONS,
            "commands" => &COMMANDS,
            "sni" => &["redis.example.com", "a", "*.example.com", "ä", "a b"],
            "subjectAltNames" => &["redis.example.com", "spiffe://cluster.local/ns/a/sa/b", "10.0.0.1", "*"],
            "discoveryEndpoints" if is_wrong => &[":1", "h:0", "h:65536", "a b:1", "[::1", "::1"],
            "discoveryEndpoints" => &["10.0.0.1:6379", "10.0.0.1", "[::1]:65535", "d.example.com:1"],
            _ if self.one_in(4) => return "k".repeat(if is_wrong { most + 1 } else { most }),
            _ => &TEXTS,
        };
        self.of(names).to_owned()
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn documents(path: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The schema of a kind's `spec`.
fn spec_of(kind: &str) -> Value {
    let definition = documents(&repository().join(format!("istio/crds/{kind}.yaml"))).remove(0);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// The Secrets with certificates of every kind that are among the goldens.
fn secrets() -> Vec<Value> {
    let golden = repository().join("controller/tests/golden");
    ["tls-material.in.yaml", "error-tls-material.in.yaml"]
        .iter()
        .flat_map(|name| documents(&golden.join(name)))
        .filter(|document| document["kind"] == "Secret")
        .collect()
}

/// A Service of this name, with as many endpoints.
fn service(name: &str, number: usize, block: usize, endpoints: usize) -> [Value; 2] {
    let address = |block: usize, last: usize| format!("10.{block}.{}.{last}", number / 250);
    let ports = json!([{"name": "tcp-redis", "port": 6379}]);
    let addresses: Vec<Value> =
        (0..endpoints).map(|i| json!({"addresses": [address(block + 1 + i, number % 250 + 1)]})).collect();
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "redis"},
            "spec": {"clusterIP": address(block, number % 250 + 1), "ports": ports}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "redis", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": addresses, "ports": ports}),
    ]
}

/// The manifest of a seed: two Services, a RedisService for one of them, and a RedisDestination for each.
fn manifest(number: usize, seed: u64, kinds: &[Value; 2], secrets: &[Value]) -> Vec<Value> {
    let names = secrets.iter().map(|secret| secret["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    let mut sample = Sample { number, choices: fastrand::Rng::with_seed(seed), secrets: names, wrong: 150 };
    let mut objects = Vec::new();
    for (prefix, block) in [("s", 10), ("d", 20)] {
        let endpoints = sample.choices.usize(1..=3);
        objects.extend(service(&format!("{prefix}{number}"), number, block, endpoints));
        let mut spec = sample.value("spec", &kinds[1]);
        spec["host"] = json!(format!("{prefix}{number}"));
        objects.push(json!({"apiVersion": "redis.aeraki.io/v1alpha1", "kind": "RedisDestination",
            "metadata": {"name": format!("{prefix}{number}"), "namespace": "redis"}, "spec": spec}));
    }
    let mut spec = sample.value("spec", &kinds[0]);
    spec["host"] = json!([format!("s{number}")]);
    // One route, the last, takes what no other takes.
    let routes = spec["redis"].as_array_mut().map_or(&mut [][..], Vec::as_mut_slice);
    if let [before @ .., _] = routes {
        for (place, route) in before.iter_mut().enumerate() {
            if route["match"]["key"].is_null() {
                route["match"] = json!({"key": {"exact": format!("only{place}")}});
            }
        }
    }
    objects.push(json!({"apiVersion": "redis.aeraki.io/v1alpha1", "kind": "RedisService",
        "metadata": {"name": format!("s{number}"), "namespace": "redis"}, "spec": spec}));
    objects
}

fn write(name: &str, objects: &[Value]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    std::fs::write(&path, list.to_string()).unwrap();
    path.into_os_string().into_string().unwrap()
}

fn redis_mesh(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_redis-mesh")).args(arguments).output().unwrap()
}

/// A configuration with the clusters and the network filters that Istio's sidecars would get.
fn bootstrap(rendered: &str) -> String {
    let objects: Vec<Value> = serde_saphyr::from_multiple(rendered).unwrap();
    let patches: Vec<&Value> =
        objects.iter().filter_map(|object| object["spec"]["configPatches"].as_array()).flatten().collect();
    let of = |patch: &&Value, kind: &str| patch["applyTo"] == kind;
    let values: Vec<&Value> =
        patches.iter().filter(|patch| of(patch, "CLUSTER")).map(|patch| &patch["patch"]["value"]).collect();
    let filters = patches.iter().filter(|patch| of(patch, "NETWORK_FILTER")).map(|patch| &patch["patch"]["value"]);
    let own = |name: &str| json!({"name": name, "type": "STATIC"});
    let mut clusters: Vec<Value> = ["xds", "sds-grpc"].map(own).to_vec();
    clusters.extend(values.into_iter().filter(|value| value["name"].is_string()).cloned());
    let listeners: Vec<Value> = filters
        .filter(|filter| filter["name"] == "envoy.filters.network.redis_proxy")
        .zip(20_000..)
        .map(|(filter, port)| {
            json!({"name": format!("l{port}"), "filter_chains": [{"filters": [filter]}],
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}})
        })
        .collect();
    let ads = json!({"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]});
    json!({"node": {"id": "bounds", "cluster": "bounds"}, "dynamic_resources": {"ads_config": ads},
        "static_resources": {"clusters": clusters, "listeners": listeners}})
    .to_string()
}

/// True for what only a mesh can do: it has certificates of its own.
fn is_for_a_mesh(objects: &[Value]) -> bool {
    objects.iter().any(|object| object["spec"]["trafficPolicy"]["tls"]["mode"] == "ISTIO_MUTUAL")
}

/// Why these manifests, which `check` accepts, can't be rendered or aren't taken, if so.
fn refusal(manifests: &[(u64, Vec<Value>)], secrets: &[Value]) -> Option<String> {
    let (filter, module) = (filter::build().unwrap(), native::build().unwrap());
    let (filter, module) = (filter.to_str().unwrap(), module.to_str().unwrap());
    let url = "oci://registry.example.com/redis-mesh:1.0";
    let targets: [&[&str]; 3] = [
        &["istio", "--filter-url", url, "--show-secrets", "--module", POD_MODULE],
        &["envoy", "--filter", filter],
        &["envoy", "--filter", filter, "--module", module],
    ];
    targets.into_iter().find_map(|target| {
        let is_mesh = target[0] == "istio";
        let manifests = manifests.iter().filter(|(_, objects)| is_mesh || !is_for_a_mesh(objects));
        let objects: Vec<Value> = manifests.flat_map(|(_, objects)| objects).cloned().collect();
        if objects.is_empty() {
            return None;
        }
        let input = write("bounds.json", &[secrets, &objects].concat());
        let output = redis_mesh(&[&["render"], target, &["-f", &input]].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if !output.status.success() {
            let errors = text(output.stderr);
            let errors: Vec<&str> = errors.lines().filter(|line| line.starts_with("error")).collect();
            return Some(format!("render {}: {}", target.join(" "), errors.join("\n")));
        }
        let rendered = text(output.stdout);
        let config = if is_mesh { bootstrap(&rendered).replace(POD_MODULE, module) } else { rendered };
        envoy::validate(&config).err().map(|error| format!("{}: {error:#}", target.join(" ")))
    })
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn envoy_takes_what_check_accepts() {
    let (count, first) = (number("BOUNDS", 120), number("FIRST", 1));
    let kinds = [spec_of("redisservices"), spec_of("redisdestinations")];
    let secrets = secrets();
    let (mut accepted, mut batch, mut failures) = (0, Vec::new(), Vec::new());
    for number in 0..count as usize {
        let objects = manifest(number, first + number as u64, &kinds, &secrets);
        let input = write("bounds-one.json", &[&secrets[..], &objects].concat());
        let output = redis_mesh(&["check", "-f", &input]);
        match output.status.code() {
            Some(0) => batch.push((first + number as u64, objects)),
            Some(1) => {}
            _ => failures.push(format!("seed {}: check ends with {:?}", first + number as u64, output)),
        }
        if batch.len() == BATCH || number + 1 == count as usize {
            accepted += batch.len();
            if refusal(&batch, &secrets).is_some() {
                // Whose is it?
                failures.extend(batch.iter().filter_map(|sample| {
                    refusal(std::slice::from_ref(sample), &secrets).map(|why| format!("seed {}: {why}", sample.0))
                }));
                assert!(!failures.is_empty(), "manifests from {first} are taken one by one, but not together");
            }
            batch.clear();
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{accepted} of {count} manifests from seed {first} are accepted");
    assert!(accepted * 5 >= count as usize, "only {accepted} of {count} manifests are accepted");
}
