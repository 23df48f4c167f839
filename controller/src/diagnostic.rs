//! Diagnostics: mistakes in the input. They are collected rather than thrown, since a
//! person wants to see all mistakes at once, each with its place and its remedy.

pub mod code;
mod suggest;

use std::fmt;

pub use code::{Code, Reason, Severity};
pub use suggest::{did_you_mean, nearest, some_of};

/// The place of an object in the input.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The position among all objects of the input.
    pub index: usize,
    /// The file as the user named it; empty for objects of an API server.
    pub file: String,
    /// The line on which the object's document begins, from 1.
    pub line: usize,
    /// The field path of the object in its document, such as `items[2]` in a List; empty for the
    /// document as a whole.
    pub path: String,
}

/// An object with its place in the input.
#[derive(Clone, Debug)]
pub struct Loaded<K> {
    /// The place.
    pub origin: Origin,
    /// The object.
    pub object: K,
}

/// The object that a diagnostic is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The place of the object in the input.
    pub origin: Origin,
    /// The kind; empty where it is unknown.
    pub kind: String,
    /// `namespace/name`.
    pub name: String,
}

impl Subject {
    fn write(&self, span: Option<SourceSpan>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.origin.file.is_empty() {
            write!(f, "{}", self.origin.file)?;
            match span {
                Some(span) => write!(f, ":{}:{}", span.line, span.column)?,
                None if self.origin.line > 0 => write!(f, ":{}", self.origin.line)?,
                None => {}
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

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(None, f)
    }
}

/// The place of a value in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceSpan {
    /// The line, from 1.
    pub line: usize,
    /// The column of the first character, from 1.
    pub column: usize,
    /// The length of the value in characters; 0 where it is unknown.
    pub length: usize,
}

/// A mistake, without its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The code.
    pub code: Code,
    /// The mistake in words, without a full stop.
    pub message: String,
    /// The remedy in words, without a full stop.
    pub remedy: String,
}

impl Problem {
    /// Creates a problem.
    pub fn new(code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { code, message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

impl std::error::Error for Problem {}

/// A problem of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The object.
    pub subject: Subject,
    /// The path of the field in the object, such as `spec.redis[0].route.host`; empty for the
    /// object as a whole.
    pub field: String,
    /// The place of the field's value in the file, or where the field is missing, of the value
    /// around it; none for objects of an API server.
    pub span: Option<SourceSpan>,
    /// The mistake.
    pub problem: Problem,
}

impl Diagnostic {
    /// The reason of a status condition that the diagnostic belongs to.
    pub fn reason(&self) -> Reason {
        self.problem.code.reason()
    }

    /// True if nothing is rendered from the object.
    pub fn is_error(&self) -> bool {
        self.problem.code.severity() == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    /// Writes one line:
    /// `SEVERITY[CODE]: FILE:LINE:COLUMN: KIND NAMESPACE/NAME: FIELD: MESSAGE; REMEDY`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.problem.code.severity(), self.problem.code)?;
        if !self.subject.origin.file.is_empty() || !self.subject.kind.is_empty() {
            f.write_str(": ")?;
            self.subject.write(self.span, f)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        // The text may quote any character of the input, and must stay on one line.
        write!(f, ": ")?;
        for character in self.problem.to_string().chars() {
            match character {
                '\n' => f.write_str(" ")?,
                control if control.is_control() => write!(f, "{}", control.escape_default())?,
                other => write!(f, "{other}")?,
            }
        }
        Ok(())
    }
}

/// A collection of diagnostics, each once.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds a problem of an object's field.
    pub fn add(&mut self, subject: &Subject, field: impl Into<String>, problem: Problem) {
        self.push(Diagnostic { subject: subject.clone(), field: field.into(), span: None, problem });
    }

    /// Adds a diagnostic.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.list.contains(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    /// True if any diagnostic is an error.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(Diagnostic::is_error)
    }

    /// The diagnostics in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// The diagnostics in the order of the input, and of one object in the order in which they
    /// were added.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<_> = self.list.iter().collect();
        sorted.sort_by_key(|diagnostic| &diagnostic.subject.origin);
        sorted
    }

    /// Sets the place of each diagnostic's value. `find` is given the place of the object and the
    /// path of the field.
    pub fn locate(&mut self, mut find: impl FnMut(&Origin, &str) -> Option<SourceSpan>) {
        for diagnostic in &mut self.list {
            diagnostic.span = find(&diagnostic.subject.origin, &diagnostic.field);
        }
    }

    /// A reporter for one field of an object.
    pub fn at<'a>(&'a mut self, subject: &'a Subject, field: impl Into<String>) -> FieldReporter<'a> {
        FieldReporter { diagnostics: self, subject, field: field.into() }
    }
}

/// Reports problems of one field.
pub struct FieldReporter<'a> {
    diagnostics: &'a mut Diagnostics,
    subject: &'a Subject,
    field: String,
}

impl FieldReporter<'_> {
    /// A reporter for a field below this one; `path` is `.name` or `[0]`.
    pub fn at(&mut self, path: impl fmt::Display) -> FieldReporter<'_> {
        FieldReporter { diagnostics: self.diagnostics, subject: self.subject, field: format!("{}{path}", self.field) }
    }

    /// Reports a problem.
    pub fn report(&mut self, code: Code, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Problem::new(code, message, remedy));
    }

    /// Reports a problem that something else has found.
    pub fn add(&mut self, problem: Problem) {
        self.diagnostics.add(self.subject, self.field.clone(), problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let mut diagnostics = Diagnostics::default();
        diagnostics.add(&Subject::default(), "spec.x", Problem::new(Code::UnknownField, "a\nb\u{1b}[0m", "c"));
        assert_eq!(diagnostics.sorted()[0].to_string(), "error[unknown-field]: spec.x: a b\\u{1b}[0m; c");
    }

    #[test]
    fn the_place_is_that_of_the_value() {
        let mut diagnostics = Diagnostics::default();
        let origin = Origin { file: "a.yaml".to_owned(), line: 3, ..Origin::default() };
        let subject = Subject { origin, kind: "RedisService".to_owned(), name: "n/r".to_owned() };
        diagnostics.add(&subject, "spec.host", Problem::new(Code::UnusedSetting, "no", "yes"));
        let before = "warning[unused-setting]: a.yaml:3: RedisService n/r: spec.host: no; yes";
        assert_eq!(diagnostics.sorted()[0].to_string(), before);
        diagnostics.locate(|_, _| Some(SourceSpan { line: 7, column: 9, length: 1 }));
        let after = "warning[unused-setting]: a.yaml:7:9: RedisService n/r: spec.host: no; yes";
        assert_eq!(diagnostics.sorted()[0].to_string(), after);
    }
}
