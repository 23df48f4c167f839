//! The nodes that execute commands under each read policy, by the nodes' own statistics.

use anyhow::{Result, ensure};
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

use crate::mesh;

const POLICIES: [&str; 5] = ["MASTER", "PREFER_MASTER", "REPLICA", "PREFER_REPLICA", "ANY"];
const LISTENS: u8 = 130;
const KEYS: u64 = 200;

fn host(policy: &str) -> String {
    format!("policy-{}", policy.to_lowercase().replace('_', "-"))
}

pub fn manifests(scene: &mut Scene<'_>) {
    scene.service("redis-cluster", 200, &[31, 32, 33, 34, 35, 36]).destination("redis-cluster", "mode: CLUSTER");
    for (i, policy) in POLICIES.iter().enumerate() {
        let rules =
            format!("settings: {{readPolicy: {policy}, scripts: Allow}}, redis: [{{route: {{host: redis-cluster}}}}]");
        scene.service(&host(policy), LISTENS + i as u8, &[31]).rules(&host(policy), "auto", &rules);
    }
}

/// Writes that return what they find, create streams, or only may write. redis_proxy's own list of
/// writes lacks some.
const WRITES: &[(&str, &[&str])] = &[
    ("set", &["SET", "@", "v"]),
    ("getset", &["GETSET", "@", "w"]),
    ("getex", &["GETEX", "@", "EX", "1000"]),
    ("xadd", &["XADD", "@x", "1-1", "f", "v"]),
    ("xtrim", &["XTRIM", "@x", "MAXLEN", "5"]),
    ("xdel", &["XDEL", "@x", "9-9"]),
    ("eval", &["EVAL", "return redis.call('incr', KEYS[1])", "1", "@i"]),
    ("getdel", &["GETDEL", "@i"]),
];

fn expected(name: &str) -> Reply {
    match name {
        "set" => Reply::ok(),
        "getset" => Reply::bulk("v"),
        "getex" => Reply::bulk("w"),
        "xadd" => Reply::bulk("1-1"),
        "xtrim" | "xdel" => Reply::Integer(0),
        "eval" => Reply::Integer(1),
        _ => Reply::bulk("1"),
    }
}

#[test]
fn reads_go_where_the_policy_says_and_writes_to_the_masters() -> Result<()> {
    let mesh = mesh()?;
    let cluster = &mesh.cluster;
    for (i, policy) in POLICIES.iter().enumerate() {
        cluster.forget()?;
        let mut client = mesh.client_at(LISTENS + i as u8)?;
        for (name, words) in WRITES {
            let commands: Vec<Vec<String>> = (0..KEYS)
                .map(|key| words.iter().map(|word| word.replace("@", &format!("{{k{key}}}"))).collect())
                .collect();
            for reply in client.pipeline(&commands)? {
                ensure!(reply == expected(name), "{policy}: {words:?}: {reply:?}");
            }
            let calls = cluster.calls(name)?;
            let masters: u64 = calls[..3].iter().sum();
            // Replicas execute what their masters hand on: the same once more, no matter who sent
            // it.
            ensure!(masters == KEYS, "{policy}: {name} on the nodes: {calls:?}");
        }
        let redirected: u64 = cluster.nodes[3..]
            .iter()
            .map(|node| Ok(rejected(&node.info("commandstats")?)))
            .collect::<Result<Vec<u64>>>()?
            .iter()
            .sum();

        for master in &cluster.nodes[..3] {
            let mut client = master.client()?;
            client.ok(&["WAIT", "1", "5000"])?;
        }
        for node in &cluster.nodes {
            node.cmd(&["CONFIG", "RESETSTAT"])?;
        }
        let reads: [(&str, &[&str], Reply); 3] = [
            ("get", &["GET", "@"], Reply::bulk("w")),
            ("xlen", &["XLEN", "@x"], Reply::Integer(1)),
            ("strlen", &["STRLEN", "@"], Reply::Integer(1)),
        ];
        let mut seen = Vec::new();
        for (name, words, expected) in reads {
            let commands: Vec<Vec<String>> = (0..KEYS)
                .map(|key| words.iter().map(|word| word.replace("@", &format!("{{k{key}}}"))).collect())
                .collect();
            for reply in client.pipeline(&commands)? {
                ensure!(reply == expected, "{policy}: {words:?}: {reply:?}");
            }
            let calls = cluster.calls(name)?;
            let (masters, replicas): (u64, u64) = (calls[..3].iter().sum(), calls[3..].iter().sum());
            ensure!(masters + replicas == KEYS, "{policy}: {name} on the nodes: {calls:?}");
            let right = match *policy {
                "MASTER" | "PREFER_MASTER" => replicas == 0,
                "REPLICA" | "PREFER_REPLICA" => masters == 0,
                _ => masters > 0 && replicas > 0,
            };
            ensure!(right, "{policy}: {name} on the nodes: {calls:?}");
            seen.push(format!("{name} {masters}/{replicas}"));
        }
        println!("{policy}: masters/replicas {}; writes redirected by a replica: {redirected}", seen.join(", "));
    }
    Ok(())
}

/// Commands that a node has turned away (`rejected_calls` of INFO commandstats), all together.
fn rejected(commandstats: &str) -> u64 {
    let fields = commandstats.split(['\n', ',']);
    fields.filter_map(|field| field.trim().strip_prefix("rejected_calls=")?.parse::<u64>().ok()).sum()
}
