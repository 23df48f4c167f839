//! What is wrong with the input, collected rather than thrown: a person wants every mistake at once, each with its place.

use std::fmt;

/// Where an object was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Position among all objects of the input.
    pub index: usize,
    /// File as the user named it; empty for what comes from an API server.
    pub file: String,
    /// Line on which the object's document begins.
    pub line: usize,
}

/// An object with where it was read.
#[derive(Clone, Debug)]
pub struct Loaded<K> {
    /// Where.
    pub origin: Origin,
    /// The object.
    pub object: K,
}

/// What a message is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Where the object was read.
    pub origin: Origin,
    /// Its kind; empty where that is not known.
    pub kind: String,
    /// `namespace/name`.
    pub name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.origin.file.is_empty() {
            write!(f, "{}", self.origin.file)?;
            if self.origin.line > 0 {
                write!(f, ":{}", self.origin.line)?;
            }
            separator = ": ";
        }
        if !self.kind.is_empty() {
            write!(f, "{separator}{}", self.kind)?;
            if !self.name.is_empty() {
                write!(f, " {}", self.name)?;
            }
        }
        Ok(())
    }
}

/// Why, in the terms of a status condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not well-formed, or contradictory in itself.
    Invalid,
    /// Another object has precedence.
    Conflict,
    /// Something that it names does not exist.
    Unresolved,
    /// The data path can't do it.
    Unsupported,
    /// Valid, but without effect.
    NoEffect,
}

impl Reason {
    /// Warnings don't keep anything from being rendered.
    pub fn is_warning(self) -> bool {
        match self {
            Reason::NoEffect => true,
            Reason::Invalid | Reason::Conflict | Reason::Unresolved | Reason::Unsupported => false,
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The object.
    pub subject: Subject,
    /// The field's path in it; empty for the object as a whole.
    pub field: String,
    /// Why.
    pub reason: Reason,
    /// What is wrong and what to do, on one line.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.reason.is_warning() { "warning" } else { "error" })?;
        let subject = self.subject.to_string();
        for part in [&subject, &self.field] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        // A message is one line, whatever bytes of the input it quotes.
        write!(f, ": ")?;
        for character in self.message.chars() {
            match character {
                '\n' => f.write_str(" ")?,
                control if control.is_control() => write!(f, "{}", control.escape_default())?,
                other => write!(f, "{other}")?,
            }
        }
        Ok(())
    }
}

/// Messages as they are found.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds a message.
    pub fn add(&mut self, subject: &Subject, field: impl Into<String>, reason: Reason, message: impl Into<String>) {
        let diagnostic = Diagnostic { subject: subject.clone(), field: field.into(), reason, message: message.into() };
        if !self.list.contains(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    /// True when something is wrong.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| !diagnostic.reason.is_warning())
    }

    /// In the order of discovery.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// In the order of the input; within an object, in the order of discovery.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<_> = self.list.iter().collect();
        sorted.sort_by_key(|diagnostic| &diagnostic.subject.origin);
        sorted
    }

    /// A place to report what is found in one field.
    pub fn at<'a>(&'a mut self, subject: &'a Subject, field: impl Into<String>) -> FieldReporter<'a> {
        FieldReporter { diagnostics: self, subject, field: field.into() }
    }
}

/// A field of an object, and where to report what is wrong with it.
pub struct FieldReporter<'a> {
    diagnostics: &'a mut Diagnostics,
    subject: &'a Subject,
    field: String,
}

impl FieldReporter<'_> {
    /// A field below this one: `.name` or `[0]`.
    pub fn at(&mut self, path: impl fmt::Display) -> FieldReporter<'_> {
        FieldReporter { diagnostics: self.diagnostics, subject: self.subject, field: format!("{}{path}", self.field) }
    }

    /// Reports.
    pub fn report(&mut self, reason: Reason, message: impl Into<String>) {
        self.diagnostics.add(self.subject, self.field.clone(), reason, message);
    }

    /// Reports that the field's value is not valid.
    pub fn invalid(&mut self, message: impl Into<String>) {
        self.report(Reason::Invalid, message);
    }
}

/// The known word that was probably meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let word = folded(word);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &folded(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean `x`?`, or nothing.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|known| format!("; did you mean `{known}`?")).unwrap_or_default()
}

/// The largest number of hosts that a message names.
const NAMED: usize = 5;

/// A few of many, for a message.
pub fn some_of(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let names = names.join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let known = ["percentage", "commands", "readPolicy", "PREFER_REPLICA", "host"];
        assert_eq!(nearest("percentge", known), Some("percentage"));
        assert_eq!(nearest("read_policy", known), Some("readPolicy"));
        assert_eq!(nearest("prefer-replica", known), Some("PREFER_REPLICA"));
        assert_eq!(nearest("hosts", known), Some("host"));
        assert_eq!(nearest("zebra", known), None);
    }

    #[test]
    fn a_message_is_one_line() {
        let mut diagnostics = Diagnostics::default();
        diagnostics.add(&Subject::default(), "spec.x", Reason::Invalid, "a\nb\u{1b}[0m");
        assert_eq!(diagnostics.sorted()[0].to_string(), "error: spec.x: a b\\u{1b}[0m");
    }

    #[test]
    fn some_of_many() {
        assert_eq!(some_of(vec!["a".into(), "b".into()]), "a, b");
        assert_eq!(some_of((1..=7).map(|n| n.to_string()).collect()), "1, 2, 3, 4, 5 and 2 more");
    }
}
