//! The commands that a live server reports: their names, arity and arguments.

use anyhow::{Context, Result};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::reply::Reply;

/// A command, or a subcommand in the form `container|subcommand`.
#[derive(Clone, Debug)]
pub struct Documented {
    pub name: String,
    /// The number of arguments, the name included; negative: at least so many.
    pub arity: i64,
    pub group: String,
    pub arguments: Vec<Argument>,
    pub is_container: bool,
}

impl Documented {
    /// The words that name it.
    pub fn words(&self) -> Vec<Vec<u8>> {
        self.name.split('|').map(|word| word.to_ascii_uppercase().into_bytes()).collect()
    }

    /// Whether one of its arguments is a key.
    pub fn has_keys(&self) -> bool {
        fn any(arguments: &[Argument]) -> bool {
            arguments.iter().any(|argument| argument.kind == "key" || any(&argument.inner))
        }
        any(&self.arguments)
    }
}

/// An argument as `COMMAND DOCS` has it. All arguments of a command are numbered in the order in
/// which they stand there.
#[derive(Clone, Debug)]
pub struct Argument {
    pub id: usize,
    /// The number behind those of the arguments in it.
    pub end: usize,
    pub name: String,
    pub kind: String,
    pub token: Option<String>,
    pub is_optional: bool,
    pub is_multiple: bool,
    /// The token stands before each.
    pub is_token_multiple: bool,
    pub inner: Vec<Argument>,
}

/// Reads all commands of a server.
pub fn ask(client: &mut Client) -> Result<Vec<Documented>> {
    client.ok(&["HELLO", "3"])?;
    let (commands, docs) = (client.ok(&["COMMAND"])?, client.ok(&["COMMAND", "DOCS"])?);
    let mut all = Vec::new();
    for entry in commands.items() {
        let name = entry.items().first().context("COMMAND without a name")?.text();
        let doc = field(&docs, &name).with_context(|| format!("{name} isn't in COMMAND DOCS"))?;
        let subcommands = entry.items().get(9).map(Reply::items).unwrap_or_default();
        all.push(documented(entry, doc, !subcommands.is_empty(), "")?);
        let group = field(doc, "group").map(Reply::text).unwrap_or_default();
        for subcommand in subcommands {
            let name = subcommand.items().first().context("a subcommand without a name")?.text();
            let doc = field(doc, "subcommands").and_then(|all| field(all, &name));
            let doc = doc.with_context(|| format!("{name} isn't in COMMAND DOCS"))?;
            all.push(documented(subcommand, doc, false, &group)?);
        }
    }
    client.ok(&["HELLO", "2"])?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn documented(entry: &Reply, doc: &Reply, is_container: bool, group: &str) -> Result<Documented> {
    let [name, arity, ..] = entry.items() else { anyhow::bail!("COMMAND has an odd entry") };
    let group = field(doc, "group").map_or(group.to_owned(), Reply::text);
    let arguments = field(doc, "arguments").map(Reply::items).unwrap_or_default();
    let arity = arity.integer().context("an arity that is no integer")?;
    Ok(Documented { name: name.text(), arity, group, arguments: numbered(arguments, &mut 0), is_container })
}

fn numbered(arguments: &[Reply], next: &mut usize) -> Vec<Argument> {
    let one = |argument: &Reply| {
        let id = *next;
        *next += 1;
        let flags: Vec<String> =
            field(argument, "flags").map(Reply::items).unwrap_or_default().iter().map(Reply::text).collect();
        let has = |flag: &str| flags.iter().any(|name| name == flag);
        let inner = numbered(field(argument, "arguments").map(Reply::items).unwrap_or_default(), next);
        Argument {
            id,
            end: *next,
            name: field(argument, "name").map(Reply::text).unwrap_or_default(),
            kind: field(argument, "type").map(Reply::text).unwrap_or_default(),
            token: field(argument, "token").map(Reply::text),
            is_optional: has("optional"),
            is_multiple: has("multiple"),
            is_token_multiple: has("multiple_token"),
            inner,
        }
    };
    arguments.iter().map(one).collect()
}

fn field<'a>(map: &'a Reply, name: &str) -> Option<&'a Reply> {
    let Reply::Map(fields) = map else { return None };
    fields.iter().find(|(known, _)| known.text() == name).map(|(_, value)| value)
}
