//! When pushes reach a client, among the replies to its commands.

use super::held_pushes::PushOrder::{AtOnce, BehindHeard, Twice};
use super::reply_queue::ReplyQueue;
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn pushes_are_written_between_replies() {
    let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
    queue.push(b">0\r\n", AtOnce, &mut out);
    let (first, second) = (queue.expect(false), queue.expect(false));
    queue.push(b">1\r\n", AtOnce, &mut out);
    queue.reply(first, b"$1\r\n", false, &mut out);
    queue.push(b">2\r\n", AtOnce, &mut out);
    assert_eq!((out.as_slice(), queue.held()), (&b">0\r\n>1\r\n$1\r\n"[..], 4));
    out.clear();
    queue.reply(second, b"$1\r\n", false, &mut out);
    queue.reply(first, b"x\r\n", true, &mut out);
    queue.push(b">3\r\n", AtOnce, &mut out);
    queue.reply(second, b"y\r\n", true, &mut out);
    assert_eq!(out, b"x\r\n>2\r\n$1\r\ny\r\n>3\r\n");
    assert!(queue.is_empty() && queue.held() == 0);
}

/// A client that keeps what it reads would keep it for ever if it were told of the change before it
/// has the value.
#[test]
fn what_is_said_of_keys_comes_behind_the_replies_that_may_have_them() {
    let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
    queue.push(b">0\r\n", BehindHeard, &mut out);
    let (first, second) = (queue.expect(false), queue.expect(false));
    let third = queue.expect_parts(Aggregation::new(ResponsePolicy::Sum, 2, false), false);
    let fourth = queue.expect(false);
    queue.push(b">1\r\n", BehindHeard, &mut out);
    assert_eq!(out, b">0\r\n>1\r\n", "nothing has been heard yet");
    out.clear();
    // The first reply is another server's, and is missing.
    queue.reply(second, b"+2\r\n", true, &mut out);
    queue.push(b">2\r\n", BehindHeard, &mut out);
    queue.part(third, 1, b":1\r\n".to_vec(), &mut out);
    queue.push(b">3\r\n", BehindHeard, &mut out);
    assert_eq!((out.as_slice(), queue.held_pushes()), (&b""[..], 8));
    queue.push(b">4\r\n", Twice, &mut out);
    assert_eq!(out, b">4\r\n");
    out.clear();
    queue.reply(first, b"+1\r\n", true, &mut out);
    assert_eq!(out, b"+1\r\n+2\r\n>2\r\n");
    out.clear();
    queue.part(third, 0, b":1\r\n".to_vec(), &mut out);
    assert_eq!(out, b":2\r\n>3\r\n");
    queue.reply(fourth, b"+4\r\n", true, &mut out);
    assert_eq!(out, b":2\r\n>3\r\n+4\r\n>4\r\n");
    assert!(queue.is_empty() && queue.held() == 0);
}
