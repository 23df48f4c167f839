//! The namespaces to which an object is exported, in Istio's words: `*` for all, `.` for the
//! object's own, and names.

use std::collections::BTreeSet;
use std::fmt;

/// What Istio's mesh configuration says of objects without `exportTo` of their own
/// (<https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-default_service_export_to>).
/// Empty lists mean all namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultExports {
    /// For Services and ServiceEntries.
    pub services: Vec<String>,
    /// For DestinationRules.
    pub rules: Vec<String>,
}

/// A set of namespaces; all of them by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exports(Option<BTreeSet<String>>);

impl Exports {
    /// No namespace at all.
    pub fn nobody() -> Exports {
        Exports(Some(BTreeSet::new()))
    }

    /// These namespaces alone.
    pub fn only<'a>(namespaces: impl IntoIterator<Item = &'a str>) -> Exports {
        Exports(Some(namespaces.into_iter().map(str::to_owned).collect()))
    }

    /// Reads the words of an object in `namespace`. Without any word, all namespaces are meant. `~`,
    /// which Istio takes for Services, means none.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>, namespace: &str) -> Exports {
        let words: Vec<&str> = words.into_iter().map(str::trim).filter(|word| !word.is_empty()).collect();
        if words.contains(&"~") {
            return Exports::nobody();
        }
        if words.is_empty() || words.contains(&"*") {
            return Exports::default();
        }
        Exports::only(words.into_iter().map(|word| if word == "." { namespace } else { word }))
    }

    /// The namespaces; none for all.
    pub fn namespaces(&self) -> Option<&BTreeSet<String>> {
        self.0.as_ref()
    }

    /// True if there is no namespace.
    pub fn is_nobody(&self) -> bool {
        self.0.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// True for a namespace among them.
    pub fn includes(&self, namespace: &str) -> bool {
        self.0.as_ref().is_none_or(|all| all.contains(namespace))
    }

    /// The namespaces in both.
    pub fn and(&self, others: &Exports) -> Exports {
        match (&self.0, &others.0) {
            (None, _) => others.clone(),
            (_, None) => self.clone(),
            (Some(own), Some(others)) => Exports(Some(own.intersection(others).cloned().collect())),
        }
    }

    /// The namespaces in either.
    pub fn or(&self, others: &Exports) -> Exports {
        match (&self.0, &others.0) {
            (Some(own), Some(others)) => Exports(Some(own.union(others).cloned().collect())),
            _ => Exports::default(),
        }
    }
}

impl fmt::Display for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(namespaces) = &self.0 else { return f.write_str("every namespace") };
        match namespaces.len() {
            0 => f.write_str("no namespace"),
            1 => write!(f, "namespace {}", namespaces.iter().next().map(String::as_str).unwrap_or_default()),
            _ => write!(f, "namespaces {}", namespaces.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> Exports {
        Exports::of(words.split(','), "data")
    }

    #[test]
    fn words() {
        for (words, meant) in [
            ("", "every namespace"),
            ("*", "every namespace"),
            (".,*", "every namespace"),
            (".", "namespace data"),
            (". , shop", "namespaces data, shop"),
            ("istio-system", "namespace istio-system"),
            ("~", "no namespace"),
        ] {
            assert_eq!(of(words).to_string(), meant, "{words}");
        }
    }

    #[test]
    fn sets() {
        let (all, own, two, none) = (of("*"), of("."), of(".,shop"), Exports::nobody());
        assert_eq!((two.and(&own), all.and(&two), own.and(&of("web"))), (own.clone(), two.clone(), none.clone()));
        assert_eq!((two.or(&own), all.or(&two), none.or(&own)), (two.clone(), all, own.clone()));
        assert!(none.is_nobody() && !own.is_nobody() && two.includes("shop") && !own.includes("shop"));
    }
}
