//! Frames over connections on which a client has subscribed
//! (<https://redis.io/docs/latest/develop/pubsub/>).

use super::subscription::{SubscriptionChange, SubscriptionKind};
use crate::resp::elements::Elements;
use crate::resp::encode;
use crate::resp::value::Value;

/// The kinds of frames that arrive over a connection on which a client has subscribed.
#[derive(Debug)]
pub enum PubSubFrame<'a> {
    /// The confirmation that the subscription of this name has begun or ended.
    Confirmed(SubscriptionChange, Option<&'a [u8]>),
    /// A published message, or in RESP3 another push.
    Push,
    /// The reply to a command.
    Reply,
}

impl<'a> PubSubFrame<'a> {
    /// Returns the kind of a complete frame. In RESP2 a message and a confirmation are arrays
    /// like other replies; their first element tells them apart.
    pub fn of(frame: &'a [u8], resp3: bool) -> PubSubFrame<'a> {
        let other = if resp3 { PubSubFrame::Push } else { PubSubFrame::Reply };
        if frame.first() != Some(if resp3 { &b'>' } else { &b'*' }) {
            return PubSubFrame::Reply;
        }
        // A message may be large, so only the elements that decide are parsed.
        let mut elements = Elements::of_push(frame);
        let Some(Value::Text(kind)) = elements.next().and_then(Value::parse) else { return other };
        let change = std::str::from_utf8(kind).ok().and_then(SubscriptionChange::of);
        match change {
            Some(change) => PubSubFrame::Confirmed(change, elements.next().and_then(|name| Value::parse(name)?.text())),
            None if matches!(kind, b"message" | b"pmessage" | b"smessage") => PubSubFrame::Push,
            None => other,
        }
    }
}

/// A message that was published to a channel, or a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedMessage<'a> {
    /// The kind of the subscription to which it belongs.
    pub kind: SubscriptionKind,
    /// The name of the subscription: the channel or the pattern.
    pub subscription: &'a [u8],
    /// The channel.
    pub channel: &'a [u8],
    /// The message.
    pub message: &'a [u8],
}

impl<'a> PublishedMessage<'a> {
    /// Parses a frame; `None`: it is no message to a channel or a pattern.
    pub fn parse(frame: &'a [u8]) -> Option<PublishedMessage<'a>> {
        let mut elements = Elements::of_push(frame);
        let mut next = || Value::parse(elements.next()?)?.text();
        let (kind, subscription) = (next()?, next()?);
        let (kind, channel) = match kind {
            b"message" => (SubscriptionKind::Channel, subscription),
            b"pmessage" => (SubscriptionKind::Pattern, next()?),
            _ => return None,
        };
        Some(PublishedMessage { kind, subscription, channel, message: next()? })
    }

    /// Appends the message as a frame.
    pub fn write(&self, resp3: bool, out: &mut Vec<u8>) {
        let (kind, names): (&[u8], &[&[u8]]) = match self.kind {
            SubscriptionKind::Channel => (b"message", &[self.channel]),
            SubscriptionKind::Pattern => (b"pmessage", &[self.subscription, self.channel]),
            SubscriptionKind::Shard => (b"smessage", &[self.channel]),
        };
        encode::header(out, if resp3 { b'>' } else { b'*' }, names.len() as u64 + 2);
        encode::bulk(out, kind);
        names.iter().for_each(|name| encode::bulk(out, name));
        encode::bulk(out, self.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn messages_are_read_and_written() {
        for frame in [">3 $7 message $1 c $2 hi ", "*3 $7 message $0  $0  ", ">4 $8 pmessage $1 * $1 c $2 hi "] {
            let frame = frame.replace(' ', "\r\n");
            let mut written = Vec::new();
            PublishedMessage::parse(frame.as_bytes()).unwrap().write(frame.starts_with('>'), &mut written);
            assert_eq!(written, frame.as_bytes());
        }
        for frame in [">3 $8 smessage $1 c $2 hi ", ">2 $7 message $1 c ", ">3 $7 message $1 c *0 ", "*0 ", ""] {
            assert_eq!(PublishedMessage::parse(frame.replace(' ', "\r\n").as_bytes()), None, "{frame}");
        }
    }

    #[test]
    fn frames_have_kinds() {
        let show = |frame: &str| match PubSubFrame::of(frame.replace(' ', "\r\n").as_bytes(), frame.starts_with('>')) {
            PubSubFrame::Confirmed(change, name) => {
                format!("{} {:?}", change.name(), name.map(<[u8]>::escape_ascii).map(|name| name.to_string()))
            }
            PubSubFrame::Push => "push".to_owned(),
            PubSubFrame::Reply => "reply".to_owned(),
        };
        assert_eq!(show("*3 $9 subscribe $1 a :1 "), "subscribe Some(\"a\")");
        assert_eq!(show(">3 $12 sunsubscribe $-1 :0 "), "sunsubscribe None");
        assert_eq!(show("*3 $7 message $1 a $1 x "), "push");
        assert_eq!(show("*4 $8 pmessage $1 * $1 a $1 x "), "push");
        assert_eq!(show(">3 $8 smessage $1 a $1 x "), "push");
        assert_eq!(show(">2 $10 invalidate *1 $1 a "), "push");
        assert_eq!(show("*2 $4 pong $0  "), "reply");
        assert_eq!(show("*2 $9 SUBSCRIBE $1 a "), "reply");
        assert_eq!(show("$1 a "), "reply");
        assert_eq!(show("-ERR x "), "reply");
    }

    #[test]
    fn incomplete_frames_have_a_kind_too() {
        assert!(matches!(PubSubFrame::of(b"", false), PubSubFrame::Reply));
        assert!(matches!(PubSubFrame::of(b"", true), PubSubFrame::Reply));
        assert!(matches!(PubSubFrame::of(b"*0\r\n", false), PubSubFrame::Reply));
        assert!(matches!(PubSubFrame::of(b">0\r\n", true), PubSubFrame::Push));
        assert!(matches!(PubSubFrame::of(b">1\r\n:1\r\n", true), PubSubFrame::Push));
        assert!(matches!(PubSubFrame::of(b">1\r\n$2\r\n\xff\xfe\r\n", true), PubSubFrame::Push));
        // An array isn't a push in RESP3.
        assert!(matches!(PubSubFrame::of(b"*1\r\n$7\r\nmessage\r\n", true), PubSubFrame::Reply));
        let confirmed = PubSubFrame::of(b"*1\r\n$9\r\nsubscribe\r\n", false);
        assert!(matches!(confirmed, PubSubFrame::Confirmed(SubscriptionChange { begins: true, .. }, None)));
    }
}
