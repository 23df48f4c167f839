//! Confirmations of subscriptions, and subscriptions that a server ends by itself.

use super::*;
use crate::multiplexer::client::subscription::SubscriptionChange;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Whose confirmation each event is, with the name.
fn confirmed(side: &mut Side, connection: ConnectionId, frame: &str) -> Vec<(Option<u64>, String)> {
    let bytes = frame.replace(' ', "\r\n").into_bytes();
    let mut receipt = receive::begin(&mut side.upstreams, connection, &bytes, &side.effects).unwrap();
    let mut told = Vec::new();
    while let Some(event) = receive::receive(&mut side.upstreams, &mut receipt, &mut side.effects) {
        let confirmation = match event {
            Event::SubscriptionChanged(_, confirmation) => confirmation,
            Event::ChangedSilently(_, confirmation) => {
                told.push((None, "silently".to_owned()));
                confirmation
            }
            Event::Idle { .. } => continue,
            other => panic!("{other:?}"),
        };
        told.push((confirmation.sequence, String::from_utf8(confirmation.name.unwrap()).unwrap()));
    }
    receive::end(&mut side.upstreams, receipt, &mut side.effects);
    told
}

#[test]
fn a_slot_that_is_given_away_answers_no_command() {
    let mut side = Side::new();
    let key = PoolKey { node: Some(node(1)), ..PoolKey::new(endpoint(None), true) };
    let client = ClientId::of_number(1);
    let connection = side.upstreams.dedicated(client, key, true, &mut side.effects).unwrap().id();
    side.opened();
    side.receive(connection, "%0 ");
    let send = |side: &mut Side, sequence, words: [&str; 2]| {
        let change = SubscriptionChange::of(words[0]).unwrap();
        let to = match sequence {
            Some(sequence) => PendingReply::Subscription(owner(sequence), 0, change),
            None => PendingReply::SilentChange(change),
        };
        side.upstreams.pool.send(connection, to.into(), &mut side.effects, |out| {
            crate::resp::encode::command(out, &words.map(str::as_bytes));
        });
    };
    let ended = |name: &str| format!(">3 $12 sunsubscribe $1 {name} :0 ");
    let begun = |name: &str| format!(">3 $10 ssubscribe $1 {name} :1 ");
    send(&mut side, Some(3), ["ssubscribe", "b"]);
    assert_eq!(confirmed(&mut side, connection, &ended("a")), [(None, "a".into())]);
    assert_eq!(confirmed(&mut side, connection, &begun("b")), [(Some(3), "b".into())]);
    send(&mut side, Some(4), ["sunsubscribe", "b"]);
    assert_eq!(confirmed(&mut side, connection, &ended("c")), [(None, "c".into())]);
    assert_eq!(confirmed(&mut side, connection, &ended("b")), [(Some(4), "b".into())]);
    send(&mut side, None, ["ssubscribe", "d"]);
    assert_eq!(confirmed(&mut side, connection, &ended("c")), [(None, "c".into())]);
    assert_eq!(confirmed(&mut side, connection, &begun("d")), [(None, "silently".into()), (None, "d".into())]);
}

#[test]
fn a_push_that_nobody_has_asked_for_answers_no_command() {
    let mut side = Side::new();
    let connection = side.upstreams.shared(PoolKey::new(endpoint(None), true), &mut side.effects).unwrap();
    side.opened();
    let push = ">3 $6 MOVING :1 $10 10.0.0.9:1 ";
    // In the handshake, between replies, before each of them, and when nothing is to come.
    let hello = "%1 $5 proto :3 ";
    assert_eq!(side.receive(connection.id(), &format!("{push}{hello}{push}")), [""; 0]);
    side.send(connection, PendingReply::Command(owner(1)).into(), "GET a");
    side.send(connection, PendingReply::Command(owner(2)).into(), "GET b");
    assert_eq!(side.receive(connection.id(), ">2 $6 MOV"), [""; 0]);
    assert_eq!(side.receive(connection.id(), "ING :1 $1 a "), ["1: $1\r\na"]);
    assert_eq!(side.receive(connection.id(), &format!("{push}$1 b {push}")), ["2: $1\r\nb"]);
    side.opened();
    assert_eq!(side.closed, []);
}

#[test]
fn no_push_tells_a_client_to_which_address_to_go() {
    let mut side = Side::new();
    let (client, key) = (ClientId::of_number(1), PoolKey::new(endpoint(None), true));
    let own = side.upstreams.dedicated(client, key, true, &mut side.effects).unwrap();
    side.receive(own.id(), "%1 $5 proto :3 ");
    let of = |kind: &str| format!(">2 ${} {kind} *1 $1 a ", kind.len());
    for kind in ["MOVING", "moving", "MIGRATED"] {
        assert_eq!(side.receive(own.id(), &of(kind)), ["idle"], "{kind}");
    }
    assert_eq!(side.receive(own.id(), &of("invalidate")).len(), 2);
}
