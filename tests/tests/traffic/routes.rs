//! The server to which a key is routed, and the key's name there.

use anyhow::{Result, ensure};
use redis_mesh_tests::line::words;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

use crate::mesh;

const SERVERS: [(&str, u8); 2] = [("users", 20), ("others", 21)];

pub fn manifests(scene: &mut Scene<'_>) {
    for (i, (name, server)) in SERVERS.iter().enumerate() {
        scene.service(name, 220 + i as u8, &[*server]);
    }
    let route = |key: &str, host: &str| format!("{{match: {{key: {{{key}}}}}, route: {{host: {host}}}}}");
    let rules = [
        route("prefix: 'user:', removePrefix: true", "users"),
        route("prefix: 'user:admin:'", "others"),
        route("prefix: 'plain:'", "users"),
        route("exact: 'user:special'", "others"),
        route("regex: '^[0-9]+$'", "others"),
        route("regex: '^9'", "users"),
    ];
    scene.service("routes", 150, &[20]).rules("routes", "auto", &format!("redis: [{}]", rules.join(", ")));
    let any_case = format!(
        "settings: {{caseInsensitive: true}}, redis: [{}, {}, {{route: {{host: others}}}}]",
        route("prefix: 'User:', removePrefix: true", "users"),
        route("exact: 'One'", "users")
    );
    scene.service("any-case", 151, &[20]).rules("any-case", "auto", &any_case);
    let one = format!("redis: [{}]", route("prefix: 'app:', removePrefix: true", "users"));
    for (i, path) in crate::PATHS.iter().enumerate() {
        let name = format!("one-{path}");
        scene.service(&name, 152 + i as u8, &[20]).rules(&name, path, &one);
    }
}

/// Each line: what the client sends; what `users` and `others` then hold under which keys.
#[test]
fn keys_find_their_server_and_their_name() -> Result<()> {
    let mesh = mesh()?;
    let (users, others) = (mesh.server(SERVERS[0].1)?, mesh.server(SERVERS[1].1)?);
    let no_route = |host: &str| {
        let port = mesh.subnet.port();
        format!("ERR redis-mesh: no route of {host}.redis.svc.cluster.local:{port} takes this key")
    };
    let keys = |server: &redis_mesh_tests::redis::Redis| -> Result<String> {
        let mut keys: Vec<String> = server.cmd(&["KEYS", "*"])?.items().iter().map(Reply::text).collect();
        keys.sort();
        Ok(keys.join(" "))
    };
    let check = |listens: u8, host: &str, cases: &[(&str, &str, &str)]| -> Result<()> {
        for (line, at_users, at_others) in cases {
            users.forget()?;
            others.forget()?;
            let reply = mesh.client_at(listens)?.line(line)?;
            if at_users.is_empty() && at_others.is_empty() {
                ensure!(reply == Reply::error(no_route(host)), "{host}: {line}: {reply:?}");
            } else {
                ensure!(!reply.is_error(), "{host}: {line}: {reply:?}");
            }
            let (a, b) = (keys(&users)?, keys(&others)?);
            ensure!(a == *at_users && b == *at_others, "{host}: {line}: users have [{a}], others [{b}]");
        }
        Ok(())
    };
    check(
        150,
        "routes",
        &[
            ("SET user:1 x", "1", ""),
            ("SET user:admin:1 x", "", "user:admin:1"),
            ("SET user:special x", "", "user:special"),
            ("SET user:special2 x", "special2", ""),
            ("SET plain:1 x", "plain:1", ""),
            ("SET 123 x", "", "123"),
            ("SET 9 x", "", "9"),
            ("SET 9a x", "9a", ""),
            ("SET USER:1 x", "", ""),
            ("SET other x", "", ""),
            ("SET \"\" x", "", ""),
            ("MSET user:1 x 5 y user:admin:2 z plain:3 w", "1 plain:3", "5 user:admin:2"),
            ("SADD user:s x", "s", ""),
            ("EVAL \"return redis.call('set', KEYS[1], KEYS[2])\" 2 user:a user:b", "a", ""),
        ],
    )?;
    check(
        151,
        "any-case",
        &[
            ("SET USER:1 x", "1", ""),
            ("SET user:Big x", "Big", ""),
            ("SET oNE x", "oNE", ""),
            ("SET oNE2 x", "", "oNE2"),
        ],
    )?;
    for (listens, host) in [(152, "one-direct"), (153, "one-proxy")] {
        check(
            listens,
            host,
            &[
                ("SET app:1 x", "1", ""),
                ("MSET app:1 x app:2 y", "1 2", ""),
                ("RPUSH app:l a b", "l", ""),
                ("SET App:1 x", "", ""),
                ("SET other x", "", ""),
                ("MSET app:1 x other y", "", ""),
            ],
        )?;
    }

    users.forget()?;
    others.forget()?;
    let mut client = mesh.client_at(150)?;
    for (line, expected) in [
        ("MSET user:1 a 5 b user:admin:2 c", Reply::ok()),
        (
            "MGET 5 user:1 user:none user:admin:2",
            Reply::Array(vec![Reply::bulk("b"), Reply::bulk("a"), Reply::NullBulk, Reply::bulk("c")]),
        ),
        ("EXISTS user:1 5 5 user:none", Reply::Integer(3)),
        ("DEL user:1 user:admin:2 user:none", Reply::Integer(2)),
        ("MGET user:1 other", Reply::error(no_route("routes"))),
        ("RENAME user:1 5", Reply::error("CROSSSLOT redis-mesh: keys route to different destinations")),
        ("GET 5", Reply::bulk("b")),
    ] {
        let reply = client.cmd(&words(line)?)?;
        ensure!(reply == expected, "{line}: {reply:?}");
    }
    Ok(())
}
