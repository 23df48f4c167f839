//! YAML in and out. In: the documents of a stream, each with the line on which it begins, so that one bad document does not
//! hide what is wrong with the others. Out: the same bytes for the same value.

use serde_json::Value;

/// One document of a stream.
pub struct YamlDocument {
    /// Line of its first content, from 1.
    pub line: usize,
    /// Its value, or why it has none.
    pub value: Result<Value, String>,
}

/// Parses a stream. Documents without content are left out.
pub fn documents(text: &str) -> Vec<YamlDocument> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut start = 1;
    let mut chunk = String::new();
    // `---` and `...` at the beginning of a line are markers wherever they stand: no scalar may contain them there.
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = ["---", "..."].iter().find_map(|marker| line.strip_prefix(marker));
        match marker.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            Some(rest) => {
                flush(&mut documents, start, &mut chunk);
                start = number + 1;
                // The content may begin on the marker's own line; the line count stays right either way.
                chunk.push_str("   ");
                chunk.push_str(rest);
            }
            None => chunk.push_str(line),
        }
    }
    flush(&mut documents, start, &mut chunk);
    documents
}

fn flush(documents: &mut Vec<YamlDocument>, start: usize, chunk: &mut String) {
    let text = std::mem::take(chunk);
    let is_blank = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line.starts_with('%')
    };
    let Some(blank) = text.lines().position(|line| !is_blank(line)) else { return };
    let value = serde_saphyr::from_str_with_options::<Value>(&text, options()).map_err(|error| reason(&error, start));
    documents.push(YamlDocument { line: start + blank, value });
}

fn options() -> serde_saphyr::Options {
    // Thousands of routes are one legitimate document; what is bounded is what grows out of proportion, such as aliases.
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000_000,
            max_nodes: 20_000_000,
            max_total_scalar_bytes: 1 << 30,
            max_reader_input_bytes: Some(1 << 30),
        },
    }
}

/// The first line of the parser's report, without quoting the input (it may hold a Secret).
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

/// A stream of documents.
pub fn stream<'a>(values: impl IntoIterator<Item = &'a Value>) -> String {
    let documents: Vec<_> = values.into_iter().map(document).collect();
    documents.join("---\n")
}

/// One document.
pub fn document(value: &Value) -> String {
    // A `Value` has nothing that YAML could not express.
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
