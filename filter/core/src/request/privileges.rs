//! What a login of the configuration may do that clients' scripts could turn against its owner.

/// Commands by which a client's script could turn a login against its owner: it could send keys or
/// the password elsewhere, or make the server another one's replica. Their arguments are those of
/// `ACL DRYRUN`, which executes nothing.
pub const PRIVILEGED: [&[&[u8]]; 3] = [
    &[b"CONFIG", b"SET", b"maxmemory", b"0"],
    &[b"MIGRATE", b"127.0.0.1", b"1", b"key", b"0", b"1"],
    &[b"REPLICAOF", b"NO", b"ONE"],
];

/// Names of [`PRIVILEGED`].
pub type CommandNames = Vec<&'static str>;

/// The name of the command of this index in [`PRIVILEGED`].
pub fn name(index: usize) -> Option<&'static str> {
    let name = PRIVILEGED.get(index)?.first()?;
    std::str::from_utf8(name).ok()
}

/// The words of the question whether a user may execute one of [`PRIVILEGED`].
pub fn question<'a>(user: &'a [u8], command: &[&'a [u8]]) -> Vec<&'a [u8]> {
    [&[&b"ACL"[..], b"DRYRUN", user], command].concat()
}

/// True if a reply to `ACL DRYRUN`, or its end, says that the user may execute the command, at least
/// with other keys (<https://redis.io/docs/latest/commands/acl-dryrun/>).
pub fn is_allowed(reply: &[u8]) -> bool {
    let is_about_keys = || reply.windows(11).any(|words| words == b" to access ");
    reply == b"+OK\r\n" || reply.first() != Some(&b'-') && is_about_keys()
}

/// The line in the log about a login of a host that may do these.
pub fn warning(host: &str, destination: &str, allowed: &CommandNames) -> String {
    format!(
        "redis-mesh: {host}: the login at {destination} may execute {}, which scripts of clients can turn against the \
         server; give it an ACL user without @admin and @dangerous",
        allowed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_a_login_may_do() {
        for (reply, expected) in [
            ("+OK\r\n", true),
            ("+User app has no permissions to access the 'key' key\r\n", true),
            ("$48\r\nUser app has no permissions to access the 'key' key\r\n", true),
            ("+User app has no permissions to run the 'migrate' command\r\n", false),
            ("-NOPERM User app has no permissions to run the 'acl|dryrun' command\r\n", false),
            ("-ERR Unknown subcommand or wrong number of arguments for 'DRYRUN'. Try ACL HELP.\r\n", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(reply.as_bytes()), expected, "{reply}");
        }
    }

    #[test]
    fn the_log_says_what_a_login_may_do() {
        let allowed: CommandNames = (0..PRIVILEGED.len()).filter_map(name).collect();
        assert!(warning("h:1", "d:1", &allowed).contains("may execute CONFIG, MIGRATE, REPLICAOF, which"));
    }
}
