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
