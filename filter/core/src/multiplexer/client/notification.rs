//! Notifications of changes of keys, which a server sends for its own keys and to nobody beyond
//! (<https://redis.io/docs/latest/develop/pubsub/keyspace-notifications/>).

use super::subscription::SubscriptionKind;

/// Where a notification names its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyPlace {
    /// The channel ends with the key.
    Channel,
    /// The channel ends with the key, a newline, and a part of the value.
    ChannelBeforeNewline,
    /// The channel ends with the event, `|`, and the key.
    ChannelBehindEvent,
    /// The message is the key.
    Message,
    /// The message begins with the key's length in decimal, `:`, and the key.
    MessageWithLength,
}

/// The families of channels: what begins their names, before `@DATABASE__:`. Those of parts of
/// values are of Redis 8.8
/// (<https://redis.io/docs/latest/develop/pubsub/subkeyspace-notifications/>).
const FAMILIES: [(&[u8], KeyPlace); 6] = [
    (b"__keyspace@", KeyPlace::Channel),
    (b"__keyevent@", KeyPlace::Message),
    (b"__subkeyspace@", KeyPlace::Channel),
    (b"__subkeyevent@", KeyPlace::MessageWithLength),
    (b"__subkeyspaceitem@", KeyPlace::ChannelBeforeNewline),
    (b"__subkeyspaceevent@", KeyPlace::ChannelBehindEvent),
];

/// What a subscription may hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hears {
    /// Only what clients publish.
    Published,
    /// Notifications of changes of keys.
    Notifications,
    /// Both.
    Both,
}

impl Hears {
    /// Returns what the subscription of this name may hear. Nobody but servers is expected to publish
    /// to the channels of notifications.
    pub fn of(kind: SubscriptionKind, name: &[u8]) -> Hears {
        match kind {
            SubscriptionKind::Shard => Hears::Published,
            SubscriptionKind::Channel if head(name).is_some() => Hears::Notifications,
            SubscriptionKind::Channel => Hears::Published,
            SubscriptionKind::Pattern => {
                let literal = literal(name);
                if FAMILIES.iter().any(|(family, _)| literal.starts_with(family)) {
                    Hears::Notifications
                } else if FAMILIES.iter().any(|(family, _)| family.starts_with(literal)) && literal != name {
                    Hears::Both
                } else {
                    Hears::Published
                }
            }
        }
    }
}

/// A notification of a change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The beginning of the channel or the message, before the key or its length.
    before: &'a [u8],
    /// The key.
    pub key: &'a [u8],
    /// What follows the key there.
    behind: &'a [u8],
    /// The other one of channel and message.
    other: &'a [u8],
    place: KeyPlace,
}

impl<'a> Notification<'a> {
    /// Parses the notification in a message; `None` if it is none.
    pub fn parse(channel: &'a [u8], message: &'a [u8]) -> Option<Notification<'a>> {
        let (place, head) = head(channel)?;
        let (before, tail) = channel.split_at_checked(head)?;
        let none: &[u8] = b"";
        let (before, key, behind, other) = match place {
            KeyPlace::Channel => (before, tail, none, message),
            KeyPlace::ChannelBeforeNewline => {
                let end = memchr::memchr(b'\n', tail).unwrap_or(tail.len());
                let (key, behind) = tail.split_at_checked(end)?;
                (before, key, behind, message)
            }
            KeyPlace::ChannelBehindEvent => {
                let event = memchr::memchr(b'|', tail)? + 1;
                let (before, key) = channel.split_at_checked(head + event)?;
                (before, key, none, message)
            }
            KeyPlace::Message => (none, message, none, channel),
            KeyPlace::MessageWithLength => {
                let (length, rest) = message.split_at_checked(memchr::memchr(b':', message)?)?;
                let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
                let (key, behind) = rest.get(1..)?.split_at_checked(length)?;
                (none, key, behind, channel)
            }
        };
        Some(Notification { before, key, behind, other, place })
    }

    /// Returns the channel and the message of the same notification with another name of the key.
    pub fn with_key(&self, key: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let length = format!("{}:", key.len());
        let length = if self.place == KeyPlace::MessageWithLength { length.as_bytes() } else { b"" };
        let named = [self.before, length, key, self.behind].concat();
        match self.place {
            KeyPlace::Channel | KeyPlace::ChannelBeforeNewline | KeyPlace::ChannelBehindEvent => {
                (named, self.other.to_vec())
            }
            KeyPlace::Message | KeyPlace::MessageWithLength => (self.other.to_vec(), named),
        }
    }
}

/// Returns the notification, without a message, that a channel names if it is of one key.
pub fn of_one_key(channel: &[u8]) -> Option<Notification<'_>> {
    match head(channel)?.0 {
        KeyPlace::Channel | KeyPlace::ChannelBeforeNewline | KeyPlace::ChannelBehindEvent => {
            Notification::parse(channel, b"")
        }
        KeyPlace::Message | KeyPlace::MessageWithLength => None,
    }
}

/// Returns a pattern that matches whatever this one matches, and the same notifications with any other
/// key, too.
pub fn for_any_key(pattern: &[u8]) -> Vec<u8> {
    let names_no_key = |place| matches!(place, KeyPlace::Message | KeyPlace::MessageWithLength);
    let literal = literal(pattern);
    let is_of_family = |family: &[u8]| literal.starts_with(family) || family.starts_with(literal);
    let mut families = FAMILIES.iter().filter(|(family, _)| is_of_family(family));
    if families.all(|(_, place)| names_no_key(*place)) {
        return pattern.to_vec();
    }
    let before_key = head(literal).map_or(literal.len(), |(_, head)| head);
    [literal.get(..before_key).unwrap_or_default(), b"*"].concat()
}

/// Returns where the notifications of a channel name their keys, and the length of what precedes
/// a key or event in the channel's name; `None` if it is no channel of notifications.
fn head(channel: &[u8]) -> Option<(KeyPlace, usize)> {
    let (family, place) = FAMILIES.iter().find(|(family, _)| channel.starts_with(family))?;
    let rest = channel.get(family.len()..)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_head = digits > 0 && rest.get(digits..)?.starts_with(b"__:");
    is_head.then_some((*place, family.len() + digits + 3))
}

/// Returns the beginning of a pattern that stands for itself.
fn literal(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn subscriptions_hear_notifications_or_what_is_published() {
        let of = |kind, name: &str| Hears::of(kind, name.as_bytes());
        for family in ["keyspace", "keyevent", "subkeyspace", "subkeyevent", "subkeyspaceitem", "subkeyspaceevent"] {
            assert_eq!(of(SubscriptionKind::Channel, &format!("__{family}@0__:x")), Hears::Notifications);
            assert_eq!(of(SubscriptionKind::Shard, &format!("__{family}@0__:x")), Hears::Published);
            for pattern in ["0__:*", "*", "?__:x", "0__:x", "[01]__:*"] {
                let pattern = format!("__{family}@{pattern}");
                assert_eq!(of(SubscriptionKind::Pattern, &pattern), Hears::Notifications, "{pattern}");
            }
        }
        for channel in ["__keyspace@", "__keyspace@0", "__keyspace@__:k", "__keyspace@x__:k", "__key", "k", ""] {
            assert_eq!(of(SubscriptionKind::Channel, channel), Hears::Published, "{channel}");
        }
        for pattern in ["*", "?*", "__*", "__key*", "__sub*", "__keye[v]ent@0__:*", "\\__keyevent@0__:*"] {
            assert_eq!(of(SubscriptionKind::Pattern, pattern), Hears::Both, "{pattern}");
        }
        for pattern in ["", "news.*", "__x*", "_", "__key", "keyspace*"] {
            assert_eq!(of(SubscriptionKind::Pattern, pattern), Hears::Published, "{pattern}");
        }
    }

    #[test]
    fn keys_in_notifications_get_other_names() {
        for (channel, message, key, renamed) in [
            ("__keyspace@0__:a:b", "set", "a:b", ("__keyspace@0__:r:k", "set")),
            ("__keyspace@0__:", "set", "", ("__keyspace@0__:r:k", "set")),
            ("__keyevent@15__:del", "k", "k", ("__keyevent@15__:del", "r:k")),
            ("__subkeyspace@0__:k", "hset|1:f", "k", ("__subkeyspace@0__:r:k", "hset|1:f")),
            ("__subkeyevent@0__:hset", "3:k|l|1:f,2:gg", "k|l", ("__subkeyevent@0__:hset", "3:r:k|1:f,2:gg")),
            ("__subkeyspaceitem@0__:k\nf\ng", "hset", "k", ("__subkeyspaceitem@0__:r:k\nf\ng", "hset")),
            ("__subkeyspaceevent@0__:hset|k|l", "1:f", "k|l", ("__subkeyspaceevent@0__:hset|r:k", "1:f")),
        ] {
            let notification = Notification::parse(channel.as_bytes(), message.as_bytes()).unwrap();
            assert_eq!(notification.key, key.as_bytes(), "{channel}");
            let (channel, message) = notification.with_key(b"r:k");
            assert_eq!((&*channel, &*message), (renamed.0.as_bytes(), renamed.1.as_bytes()));
            let of_one = of_one_key(renamed.0.as_bytes()).map(|of_one| of_one.key);
            assert_eq!(of_one, (!renamed.0.contains("event@") || renamed.0.contains('|')).then_some(&b"r:k"[..]));
        }
        for (channel, message) in [
            ("__keyspace@__:k", "set"),
            ("k", "set"),
            ("__subkeyevent@0__:hset", "9:k|1:f"),
            ("__subkeyevent@0__:hset", "k"),
            ("__subkeyevent@0__:hset", "99999999999999999999:k"),
            ("__subkeyspaceevent@0__:hset", "1:f"),
        ] {
            assert_eq!(Notification::parse(channel.as_bytes(), message.as_bytes()), None, "{channel} {message}");
        }
    }

    #[test]
    fn patterns_for_any_key() {
        for (pattern, any) in [
            ("__keyevent@0__:*", "__keyevent@0__:*"),
            ("__subkeyevent@*__:h?et", "__subkeyevent@*__:h?et"),
            ("__keyspace@0__:r:*", "__keyspace@0__:*"),
            ("__keyspace@?__:r:*", "__keyspace@*"),
            ("__keyspace@0__:k", "__keyspace@0__:*"),
            ("__key*:r:k", "__key*"),
            ("*", "*"),
            ("*:r:k", "*"),
            ("__subkeyspaceitem@0__:r:k*", "__subkeyspaceitem@0__:*"),
        ] {
            assert_eq!(for_any_key(pattern.as_bytes()), any.as_bytes(), "{pattern}");
        }
    }
}
