//! Suggestions, and lists of names that stay short.

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

/// The question whether the nearest known word was meant, if there is one.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|known| format!("did you mean `{known}`?"))
}

/// The greatest number of names in a message.
const NAMED: usize = 5;

/// Joins the first names of a list; of the others only the number is given.
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
    fn some_of_many() {
        assert_eq!(some_of(vec!["a".into(), "b".into()]), "a, b");
        assert_eq!(some_of((1..=7).map(|n| n.to_string()).collect()), "1, 2, 3, 4, 5 and 2 more");
    }
}
