//! YAML. Input: streams of documents, each with its line, so that one document with a mistake
//! doesn't hide the mistakes of the others. Output: the same bytes for the same value.

use serde_json::Value;

use crate::spans::SpanTree;

/// One document of a stream.
pub struct YamlDocument {
    /// The line of the first content, from 1.
    pub line: usize,
    /// The value, or why there is none.
    pub value: Result<Value, String>,
}

/// Parses a stream. Documents without content are left out.
pub fn documents(text: &str) -> Vec<YamlDocument> {
    let parse = |chunk: &Chunk| {
        serde_saphyr::from_str_with_options::<Value>(&chunk.text, options())
            .map_err(|error| reason(&error, chunk.start))
    };
    chunks(text).iter().map(|chunk| YamlDocument { line: chunk.line, value: parse(chunk) }).collect()
}

/// The places of the values in the document whose first content is on this line.
pub fn spans(text: &str, line: usize) -> Option<SpanTree> {
    let chunks = chunks(text);
    let chunk = chunks.iter().find(|chunk| chunk.line == line)?;
    SpanTree::parse(&chunk.text, chunk.start - 1, options())
}

/// The text of one document.
struct Chunk {
    text: String,
    /// The line on which the text begins, from 1.
    start: usize,
    /// The line of the first content, from 1.
    line: usize,
}

/// Splits a stream into its documents. Those without content are left out.
fn chunks(text: &str) -> Vec<Chunk> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let mut start = 1;
    let mut chunk = String::new();
    // `---` and `...` at the beginning of a line are markers wherever they stand: no scalar may
    // contain them there.
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = ["---", "..."].iter().find_map(|marker| line.strip_prefix(marker));
        match marker.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            Some(rest) => {
                chunks.extend(content(start, std::mem::take(&mut chunk)));
                start = number + 1;
                // The content may begin on the marker's own line; spaces keep its column.
                chunk.push_str("   ");
                chunk.push_str(rest);
            }
            None => chunk.push_str(line),
        }
    }
    chunks.extend(content(start, chunk));
    chunks
}

fn content(start: usize, text: String) -> Option<Chunk> {
    let is_blank = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line.starts_with('%')
    };
    let blank = text.lines().position(|line| !is_blank(line))?;
    Some(Chunk { text, start, line: start + blank })
}

fn options() -> serde_saphyr::Options {
    // A document may hold thousands of routes. The bounds are against documents that grow out of
    // proportion, as by aliases.
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000_000,
            max_nodes: 20_000_000,
            max_total_scalar_bytes: 1 << 30,
            max_reader_input_bytes: Some(1 << 30),
        },
    }
}

/// The first line of the parser's report. It doesn't quote the input, which may be a Secret.
fn reason(error: &serde_saphyr::Error, start: usize) -> String {
    let error = error.without_snippet();
    let line = error.location().map(|location| location.line() as usize + start - 1);
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.trim_start_matches("error: ");
    let text = text.split_once(" at line ").map_or(text, |(before, _)| before);
    let text = match text.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((_, after)) => after,
        None => text,
    };
    match line {
        Some(line) => format!("is not YAML: line {line}: {text}"),
        None => format!("is not YAML: {text}"),
    }
}

/// Writes a stream of documents.
pub fn stream<'a>(values: impl IntoIterator<Item = &'a Value>) -> String {
    let documents: Vec<_> = values.into_iter().map(document).collect();
    documents.join("---\n")
}

/// Writes one document.
pub fn document(value: &Value) -> String {
    // YAML can express every `Value`.
    let options = serde_saphyr::ser_options! { min_fold_chars: usize::MAX, folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(value, options).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_documents() {
        let found =
            documents("# head\n---\na: 1\n---\n# nothing\n---\n\nb: [1,\n--- {c: 2}\n...\n%YAML 1.2\n---\nd: |\n  x\n");
        let lines: Vec<_> = found.iter().map(|document| (document.line, document.value.is_ok())).collect();
        assert_eq!(lines, [(3, true), (8, false), (9, true), (13, true)]);
    }

    #[test]
    fn errors_name_the_line_and_quote_nothing() {
        let found = documents("a: 1\n---\nkind: Secret\npassword: 'hunter2\n");
        let error = found[1].value.as_ref().unwrap_err();
        assert!(error.starts_with("is not YAML: line 4: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_is_written_reads_back_as_it_was() {
        let value = serde_json::json!({"z": ["true", "1", "\u{1}abc:", "a: b", "a\nb\n", "~", "0x1", "é", ""], "a": {"yes": null}});
        let text = document(&value);
        assert!(text.starts_with("z:\n"), "{text}");
        assert_eq!(documents(&text)[0].value.as_ref(), Ok(&value));
    }
}
