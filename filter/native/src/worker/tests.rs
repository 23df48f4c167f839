//! A worker in the stand-in for Envoy.

use super::*;
use crate::standin::{self, StandinConnection, connections, listener, settle};

const GET: &[u8] = b"GET a\r\n";
const COMMAND: &str = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n";

fn only(name: &str) -> Rc<StandinConnection> {
    let all = connections(name);
    assert_eq!(all.len(), 1, "{name}");
    all[0].clone()
}

/// The only upstream connection, after the handshake with Redis.
fn connected() -> Rc<StandinConnection> {
    let upstream = only("redis_carrier");
    assert_eq!(bytes(&upstream.passed), "*1\r\n$4\r\nPING\r\n");
    upstream.replied(b"+PONG\r\n");
    upstream
}

fn bytes(buffer: &RefCell<Vec<u8>>) -> String {
    String::from_utf8(buffer.take()).unwrap()
}

#[test]
fn a_command_goes_over_an_upstream_connection_that_stays() {
    let _end = standin::begin();
    let config = listener("travels");
    let client = standin::connect("client", config);
    client.received(&GET[..3]);
    settle();
    assert!(connections("redis_carrier").is_empty());
    client.received(&GET[3..]);
    settle();
    let upstream = connected();
    assert_eq!(*upstream.state.borrow(), [("envoy.tcp_proxy.cluster".to_string(), "travels".to_string())]);
    assert_eq!(bytes(&upstream.passed), COMMAND);
    upstream.replied(b"$8\r\nre");
    upstream.replied(b"ceived\r\n");
    assert_eq!((bytes(&client.written), bytes(&upstream.written)), ("$8\r\nreceived\r\n".into(), String::new()));
    client.destroy();
    settle();
    let next = standin::connect("client", config);
    next.received(GET);
    assert_eq!(bytes(&only("redis_carrier").passed), COMMAND);
    only("redis_anchor");
}

/// A client that reads nothing, with a command over a connection of its own, over which Redis has
/// replied.
fn unread(name: &str) -> (Rc<StandinConnection>, Rc<StandinConnection>) {
    let client = standin::connect("client", listener(name));
    client.received(GET);
    settle();
    let shared = connected();
    shared.replied(b"+0\r\n");
    client.full(true);
    client.received(GET);
    // Most clients read on soon.
    std::thread::sleep(Duration::from_millis(30));
    tick();
    settle();
    let own = connections("redis_carrier").into_iter().find(|upstream| !Rc::ptr_eq(upstream, &shared)).unwrap();
    own.replied(b"+PONG\r\n+1\r\n");
    client.received(GET);
    own.replied(b"+2\r\n");
    (client, own)
}

#[test]
fn what_a_client_does_not_read_is_left_to_envoy() {
    let _end = standin::begin();
    let (client, own) = unread("unread");
    assert_eq!(bytes(&client.written), "+0\r\n+1\r\n");
    assert!(own.passed.borrow().ends_with(COMMAND.repeat(2).as_bytes()));
    client.full(false);
    assert_eq!(bytes(&client.written), "", "it comes in a later turn");
    settle();
    assert_eq!(bytes(&client.written), "+2\r\n");
    assert_eq!(bytes(&own.written), "HTTP/1.1 102 Processing\r\n\r\n", "the callout gets nothing of Redis");
    assert_eq!(own.limit.get(), 1024 * 1024);
}

/// Envoy doesn't give again what was left of the replies for a client that reads again.
fn stuck(name: &str) {
    let (client, own) = unread(name);
    client.full(false);
    standin::forget_crossed();
    tick();
    assert!(!own.closed.get());
    let later = now() + Duration::from_secs(3);
    with(|worker| {
        worker.lost(worker.flow.check(&worker.multiplexer, later));
        worker.perform();
    });
    assert!(own.closed.get());
    assert!(bytes(&client.written).ends_with("the command may have been executed\r\n"));
    client.destroy();
}

#[test]
fn an_envoy_that_does_not_go_on_is_noticed() {
    let _end = standin::begin();
    // One connection may be at fault.
    for (number, are_held_back) in [false, false, true].into_iter().enumerate() {
        standin::log();
        stuck(&format!("stuck{number}"));
        let told = standin::log().into_iter().find(|line| line.contains("doesn't go on")).unwrap();
        assert_eq!(told.contains("are held back"), are_held_back, "{told}");
    }
}

#[test]
fn the_end_of_a_connection_is_taken_though_its_client_reads_nothing() {
    let _end = standin::begin();
    let (client, own) = unread("ended");
    own.replied_last(b"");
    own.destroy();
    assert_eq!(bytes(&client.written), "+0\r\n+1\r\n+2\r\n");
    client.full(false);
    settle();
    assert!(!client.closed.get());
}

#[test]
fn a_key_goes_to_the_member_that_has_it() {
    let _end = standin::begin();
    standin::set_hosts("placed", &[&["10.0.0.1:6379"]]);
    let client = standin::connect("client", standin::placing_listener("placed"));
    client.received(GET);
    settle();
    let upstream = connected();
    let of_node = |connection: &StandinConnection| connection.state.borrow().last().map(|(_, node)| node.clone());
    assert_eq!(of_node(&upstream), Some("10.0.0.1:6379".into()));
    upstream.replied(b"$1\r\n1\r\n");
    assert_eq!(bytes(&client.written), "$1\r\n1\r\n");
    standin::set_hosts("placed", &[&["10.0.0.2:6379"]]);
    standin::update_hosts();
    client.received(GET);
    settle();
    let upstreams = connections("redis_carrier");
    assert_eq!(upstreams.iter().filter_map(|upstream| of_node(upstream)).collect::<Vec<_>>(), ["10.0.0.2:6379"]);
    standin::set_hosts("", &[]);
}

#[test]
fn a_connection_to_another_host_than_was_asked_for_is_closed() {
    let _end = standin::begin();
    standin::set_hosts("astray", &[&["10.0.0.1:6379"]]);
    let client = standin::connect("client", standin::placing_listener("astray"));
    client.received(GET);
    settle();
    standin::set_chosen(Some(("10.0.0.2", 6379)));
    let upstream = only("redis_carrier");
    upstream.replied(b"+PONG\r\n");
    assert!(upstream.closed.get());
    assert!(!bytes(&upstream.passed).contains("GET"), "no command has gone there");
    standin::set_chosen(Some(("10.0.0.1", 6379)));
    tick();
    settle();
    let next = connected();
    assert_eq!(bytes(&next.passed), COMMAND);
    standin::set_chosen(None);
    standin::set_hosts("", &[]);
}

#[test]
fn another_client_asks_for_a_dialer_when_the_one_that_asked_goes() {
    let _end = standin::begin();
    let config = listener("asks");
    let (a, b) = (standin::connect("client", config), standin::connect("client", config));
    a.received(GET);
    b.received(GET);
    a.destroy();
    settle();
    assert!(connections("redis_carrier").is_empty(), "nothing is opened when Envoy tells of an end");
    tick();
    settle();
    let upstream = connected();
    assert_eq!(bytes(&upstream.passed), COMMAND.repeat(2));
    upstream.replied(b"+first\r\n+second\r\n");
    assert_eq!(bytes(&b.written), "+second\r\n");
}

#[test]
fn the_next_client_asks_for_a_dialer_when_none_was_left() {
    let _end = standin::begin();
    let config = listener("next");
    let gone = standin::connect("client", config);
    gone.received(GET);
    gone.destroy();
    settle();
    assert!(connections("redis_carrier").is_empty());
    let next = standin::connect("client", config);
    next.received(GET);
    settle();
    let upstream = connected();
    assert_eq!(bytes(&upstream.passed), COMMAND.repeat(2));
    upstream.replied(b"+first\r\n+second\r\n");
    assert_eq!(bytes(&next.written), "+second\r\n");
}

#[test]
fn a_client_is_closed_when_there_is_no_dialer_or_upstream_connection() {
    let _end = standin::begin();
    for cluster in ["redis_anchor", "redis_carrier"] {
        let client = standin::connect("client", listener(cluster));
        standin::remove_cluster(cluster);
        client.received(GET);
        settle();
        assert!(client.closed.get() && client.written.borrow().is_empty(), "{cluster}");
        client.destroy();
        standin::restore_clusters();
        let next = loop {
            let next = standin::connect("client", listener(cluster));
            next.received(GET);
            settle();
            if let Some(upstream) = connections("redis_carrier").first() {
                upstream.replied(b"+PONG\r\n+OK\r\n");
                break next;
            }
            // The destination is still backed off from.
            assert!(next.closed.get(), "{cluster}");
            next.destroy();
        };
        assert_eq!(bytes(&next.written), "+OK\r\n");
        next.destroy();
        only("redis_anchor").destroy();
    }
}

#[test]
fn a_dialer_takes_its_upstream_connections_along_and_others_come() {
    let _end = standin::begin();
    let client = standin::connect("client", listener("anchor"));
    client.received(GET);
    settle();
    connected().replied(b"+1\r\n");
    client.received(GET);
    only("redis_anchor").destroy();
    // A read is sent again.
    assert_eq!(bytes(&client.written), "+1\r\n");
    client.received(GET);
    settle();
    connected().replied(b"+2\r\n+3\r\n");
    assert_eq!(bytes(&client.written), "+2\r\n+3\r\n");
}

#[test]
fn a_full_upstream_connection_gets_nothing_until_it_takes_more() {
    let _end = standin::begin();
    let client = standin::connect("client", listener("full"));
    client.received(GET);
    settle();
    let upstream = connected();
    assert_eq!(bytes(&upstream.passed), COMMAND);
    upstream.blocked.set(true);
    client.received(GET);
    tick();
    assert_eq!(bytes(&upstream.passed), "");
    upstream.blocked.set(false);
    tick();
    assert_eq!(bytes(&upstream.passed), COMMAND);
    // A reply makes the worker look too.
    upstream.blocked.set(true);
    client.received(GET);
    upstream.blocked.set(false);
    upstream.replied(b"+OK\r\n");
    assert_eq!(bytes(&upstream.passed), COMMAND);
}

#[test]
fn a_client_that_takes_nothing_is_not_read() {
    let _end = standin::begin();
    let client = standin::connect("client", listener("slow"));
    client.received(GET);
    settle();
    let upstream = connected();
    upstream.passed.take();
    client.full(true);
    client.received(GET);
    client.received(GET);
    // Reading goes on up to a limit: Envoy learns by it that a client has gone.
    assert_eq!((client.disabled.get(), upstream.passed.borrow().len()), (0, 0));
    client.full(false);
    assert_eq!(client.disabled.get(), 0);
    settle();
    assert_eq!(bytes(&upstream.passed), COMMAND.repeat(2));
    client.full(true);
    let many = 64 * 1024 / GET.len() + 1;
    client.received(&GET.repeat(many - 1));
    client.received(GET);
    assert_eq!((client.disabled.get(), upstream.passed.borrow().len()), (1, 0));
    client.full(false);
    settle();
    assert_eq!(client.disabled.get(), 0);
    assert!(bytes(&upstream.passed).starts_with(COMMAND));
}

#[test]
fn connections_that_end_leave_nothing_behind() {
    let _end = standin::begin();
    let config = listener("ends");
    for i in 0..100 {
        let client = standin::connect("client", config);
        client.received(GET);
        if i % 2 == 0 {
            settle();
        }
        match i % 3 {
            0 => client.destroy(),
            1 => client.close(crate::abi::REMOTE_CLOSE),
            _ => lose_one_of(i, &client),
        }
        standin::bury();
    }
    for name in ["client", "redis_anchor", "redis_carrier"] {
        connections(name).iter().for_each(StandinConnection::destroy);
    }
    standin::bury();
    assert_eq!(standin::living(), 0);
    with(|worker| {
        assert!(worker.downstreams.borrow().is_empty());
        assert!(worker.full.borrow().is_empty());
        assert!(worker.dialer.is_at_rest());
    });
}

/// Loses the upstream connection, or the dialer, with the client's command in flight.
fn lose_one_of(i: usize, client: &Rc<StandinConnection>) {
    let name = if i.is_multiple_of(4) { "redis_carrier" } else { "redis_anchor" };
    if let Some(connection) = connections(name).first() {
        connection.destroy();
    }
    client.destroy();
}

#[test]
fn open_connections_follow_a_new_configuration() {
    let _end = standin::begin();
    let client = standin::connect("client", listener("follows"));
    client.received(GET);
    settle();
    assert_eq!(connections("redis_carrier").len(), 1);
    let document = r#"{"name": "follows", "revision": 2, "hosts": [{"host": "follows:6379", "path": "native",
        "targets": [{"destination": "elsewhere", "upstream": {"cluster": "elsewhere"}}], "routes": [{"match": "any", "target": 0}]}]}"#;
    assert!(!standin::configure("proxy", document).is_null());
    client.received(GET);
    settle();
    // The command that was sent before is answered first.
    connected().replied(b"+first\r\n");
    settle();
    let upstreams = connections("redis_carrier");
    assert_eq!(upstreams.last().map(|upstream| upstream.state.borrow()[0].1.clone()).as_deref(), Some("elsewhere"));
}

#[test]
fn commands_and_connections_are_counted() {
    let _end = standin::begin();
    let config = listener("counts");
    let client = standin::connect("client", config);
    client.received(b"GET a\r\nNOSUCH\r\n");
    settle();
    connected().replied(b"$-1\r\n");
    // A report isn't made for each command.
    tick();
    let of = |name: &str| standin::metric(&format!("redis_host=.=counts:6379;.;{name}"));
    let counted = ["commands_total", "error_replies_total", "redis_route=.=*;.;route_commands_total", "clients_active"];
    assert_eq!(counted.map(of), [2, 1, 1, 1]);
    assert_eq!(["upstream_connections_total", "upstream_connections_active"].map(standin::metric), [1, 1]);
    only("redis_carrier").destroy();
    client.destroy();
    assert_eq!((standin::metric("upstream_connections_active"), of("clients_active")), (0, 0));
}

#[test]
fn a_client_of_an_older_listener_counts_where_the_newest_one_does() {
    let _end = standin::begin();
    let old = listener("counts");
    let client = standin::connect("client", old);
    let new = listener("counts");
    let number = standin::newest();
    client.received(b"ECHO x\r\n");
    let of = |name: &str| standin::metric(&format!("redis_host=.=counts:6379;.;{name}"));
    assert_eq!(of("commands_total"), 1);
    // The newest configuration goes, and the older one stays with its client.
    standin::forget(new, number);
    client.received(b"ECHO x\r\nGET a\r\n");
    tick();
    assert_eq!((of("commands_total"), of("redis_route=.=*;.;route_commands_total"), of("clients_active")), (3, 1, 1));
    client.destroy();
    assert_eq!(of("clients_active"), 0);
}
