//! The text form of a conversation: what a client sends, what the next filter gets, what it
//! answers, what the client gets.
//!
//! ```text
//! # A comment.
//! host {"host": "redis:6379", "path": "direct", "targets": […], "routes": […]}    the host's configuration; may go on in
//!                                                                                  further lines that begin with a space
//! refused redis:6379       … or the only entry of `refused`
//! client> SET a "x y"      a command, as an array of bulk strings; words as in redis-cli
//! client> raw PING\r\n     bytes, with escapes as in Rust
//! next<   SET a "x y"      what the next filter must get: commands, one a line, …
//! next<   ECHO <1>         … where <1> is the first nonce, numbered in the order in which they go out
//! next>   +OK              what it answers: a line; a bulk string is `$ text`; anything else `raw …`
//! next>   $ <1>
//! client< +OK              what the client must get, in the same forms
//! wait 100ms               time passes
//! closed                   the connection is closed now
//! only core                (first line) depends on the time of day
//! asks                     (first line) the first connection of a worker, which asks what the login may do;
//!                          only the core can replay it again and again
//!
//! `<id>` in what the client gets is the number of its connection.
//! ```

/// The nonces of a conversation, in the order in which they have gone out.
#[derive(Default)]
pub struct Nonces(Vec<Vec<u8>>);

impl Nonces {
    /// Returns a word of a command with `<n>` in the place of the nonce that ends it, if one does.
    /// Nonces are recognised by their form.
    pub fn name(&mut self, mut word: Vec<u8>) -> Vec<u8> {
        let end = word.get(word.len().saturating_sub(32)..).unwrap_or_default();
        if end.len() == 32 && end.iter().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(b)) {
            self.0.push(end.to_vec());
            word.truncate(word.len() - 32);
            word.extend(format!("<{}>", self.0.len()).into_bytes());
        }
        word
    }

    /// Returns bytes with the nonces in the places of `<n>`.
    pub fn fill(&self, bytes: &[u8]) -> Vec<u8> {
        let nonces = self.0.iter().enumerate();
        nonces.fold(bytes.to_vec(), |text, (i, nonce)| replace(&text, format!("<{}>", i + 1).as_bytes(), nonce))
    }
}

/// A conversation.
pub struct Transcript {
    /// The host's configuration, as JSON; empty if connections of the host are refused.
    pub host: String,
    /// The host of which connections are refused.
    pub refused: Option<String>,
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// The conversation depends on the time of day, so that only the core can replay it.
    pub only_core: bool,
    /// The connection is the first one, which asks what the login may do.
    pub asks: bool,
}

/// A line of a transcript.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The client sends these bytes.
    ClientSends(Vec<u8>),
    /// The next filter gets this command.
    NextGets(Vec<Vec<u8>>),
    /// The next filter answers; nonces are written `<n>`.
    NextAnswers(Vec<u8>),
    /// The client gets these bytes.
    ClientGets(Vec<u8>),
    /// Milliseconds pass.
    Wait(u64),
    /// The connection is to be closed.
    Closed,
}

impl Transcript {
    /// Parses a transcript; panics with the number of a line that is wrong.
    pub fn parse(text: &str) -> Transcript {
        let mut transcript =
            Transcript { host: String::new(), refused: None, steps: Vec::new(), only_core: false, asks: false };
        let mut in_host = false;
        for (number, line) in text.lines().enumerate() {
            let bad = |why: &str| -> ! { panic!("line {}: {why}: {line}", number + 1) };
            if in_host && line.starts_with(' ') {
                transcript.host.push_str(line);
                continue;
            }
            in_host = false;
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = rest.trim_start();
            transcript.steps.push(match kind {
                "host" => {
                    transcript.host.push_str(rest);
                    in_host = true;
                    continue;
                }
                "refused" => {
                    transcript.refused = Some(rest.to_owned());
                    continue;
                }
                "only" => {
                    transcript.only_core = true;
                    continue;
                }
                "asks" => {
                    (transcript.only_core, transcript.asks) = (true, true);
                    continue;
                }
                "client>" => Step::ClientSends(match rest.strip_prefix("raw ") {
                    Some(raw) => unescape(raw),
                    None => encode(&words(rest)),
                }),
                "next<" => Step::NextGets(words(rest)),
                "next>" => Step::NextAnswers(reply(rest)),
                "client<" => Step::ClientGets(reply(rest)),
                "wait" => match rest.strip_suffix("ms").and_then(|n| n.parse().ok()) {
                    Some(ms) => Step::Wait(ms),
                    None => bad("not a time in ms"),
                },
                "closed" => Step::Closed,
                _ => bad("no such step"),
            });
        }
        transcript
    }
}

impl Transcript {
    /// Returns the filter's configuration of this name.
    pub fn document(&self, name: &str) -> String {
        let (host, refused) = (&self.host, &self.refused);
        let refused = refused.iter().map(|host| format!("\"{host}\"")).collect::<String>();
        format!(r#"{{"name": "{name}", "revision": 1, "hosts": [{host}], "refused": [{refused}]}}"#)
    }
}

/// Returns `text` with every `mark` replaced.
pub fn replace(text: &[u8], mark: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(mark.len()).position(|w| w == mark) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(by);
        rest = &rest[at + mark.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn reply(text: &str) -> Vec<u8> {
    if let Some(raw) = text.strip_prefix("raw ") {
        return unescape(raw);
    }
    if let Some(bulk) = text.strip_prefix("$ ") {
        let bytes = unescape(bulk);
        // A nonce has 32 bytes.
        let len = if bulk.starts_with('<') && bulk.ends_with('>') { 32 } else { bytes.len() };
        return [format!("${len}\r\n").into_bytes(), bytes, b"\r\n".to_vec()].concat();
    }
    [unescape(text), b"\r\n".to_vec()].concat()
}

/// Returns a command as an array of bulk strings.
pub fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n", word.len()).into_bytes());
        out.extend(word);
        out.extend(b"\r\n");
    }
    out
}

fn words(text: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, tail) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').unwrap_or_else(|| panic!("no closing quote: {text}"));
                (&quoted[..end], &quoted[end + 1..])
            }
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(unescape(word));
        rest = tail.trim_start();
    }
    words
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend(c.to_string().into_bytes());
            continue;
        }
        match chars.next() {
            Some('r') => out.push(b'\r'),
            Some('n') => out.push(b'\n'),
            Some('\\') => out.push(b'\\'),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                out.push(u8::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("\\x{digits} in {text}")));
            }
            other => panic!("\\{other:?} in {text}"),
        }
    }
    out
}
