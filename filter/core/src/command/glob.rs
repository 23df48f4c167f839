//! Glob-style patterns, matched as Redis matches them (`stringmatchlen`): `*`, `?`, `[a-z]`,
//! `[^x]`, and `\` before a byte that stands for itself
//! (<https://redis.io/docs/latest/commands/keys/>).

/// Whether a letter matches the same letter in the other case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// `a` matches only `a`: names of keys and channels.
    Sensitive,
    /// `a` matches `a` and `A`: names of commands and of configuration parameters.
    Insensitive,
}

impl Case {
    fn fold(self, byte: u8) -> u8 {
        match self {
            Case::Sensitive => byte,
            Case::Insensitive => byte.to_ascii_lowercase(),
        }
    }
}

/// True if `text` as a whole matches `pattern`.
///
/// The matcher goes back only to the last `*`, so its time is at most the product of both lengths,
/// whatever the pattern.
pub fn glob(pattern: &[u8], text: &[u8], case: Case) -> bool {
    let (mut at, mut rest) = (pattern, text);
    // The pattern behind the last star, and the text where its match was tried last.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', behind)) = at.split_first() {
            star = Some((behind, rest));
            at = behind;
        } else if at.is_empty() && rest.is_empty() {
            return true;
        } else if let Some((&byte, behind)) = rest.split_first()
            && let Some(behind_element) = match_element(at, byte, case)
        {
            (at, rest) = (behind_element, behind);
        } else {
            // The last star takes one more byte.
            let Some((pattern, [_, text @ ..])) = star else { return false };
            (at, rest) = (pattern, text);
            star = Some((pattern, text));
        }
    }
}

/// Returns the pattern behind its first element if the element matches `byte`.
fn match_element(pattern: &[u8], byte: u8, case: Case) -> Option<&[u8]> {
    let byte = case.fold(byte);
    match pattern {
        [b'?', behind @ ..] => Some(behind),
        [b'[', class @ ..] => match_class(class, byte, case),
        [b'\\', literal, behind @ ..] | [literal, behind @ ..] => (case.fold(*literal) == byte).then_some(behind),
        [] => None,
    }
}

/// Does what [`match_element`] does for a class, which begins behind its `[`. A class without `]`
/// ends with the pattern, as in Redis.
fn match_class(class: &[u8], byte: u8, case: Case) -> Option<&[u8]> {
    let (is_negated, mut class) = match class {
        [b'^', class @ ..] => (true, class),
        class => (false, class),
    };
    let mut is_in_class = false;
    loop {
        class = match class {
            [b']', behind @ ..] => return (is_in_class != is_negated).then_some(behind),
            [] => return (is_in_class != is_negated).then_some(class),
            [b'\\', literal, behind @ ..] => {
                is_in_class |= case.fold(*literal) == byte;
                behind
            }
            [from, b'-', to, behind @ ..] => {
                let (from, to) = (case.fold(*from), case.fold(*to));
                is_in_class |= (from.min(to)..=from.max(to)).contains(&byte);
                behind
            }
            [literal, behind @ ..] => {
                is_in_class |= case.fold(*literal) == byte;
                behind
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn patterns() {
        for (pattern, text, is_match) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("a*b*c", "a-b-b-c", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hallo", false),
            (r"[\]]", "]", true),
            ("", "", true),
            ("", "a", false),
            ("[a", "a", true),
            ("user:*", "user:1", true),
            ("user:*", "USER:1", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes(), Case::Sensitive), is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_in_any_case() {
        for (pattern, text, is_match) in [
            ("*", "", true),
            ("x*", "xadd", true),
            ("*|get*", "config|getx", true),
            ("?et", "GET", true),
            ("[gs]et", "set", true),
            ("[^gs]et", "set", false),
            ("[a-h]et", "get", true),
            ("\\*", "*", true),
            ("get", "gets", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes(), Case::Insensitive), is_match, "{pattern} {text}");
        }
        assert!(!glob("*a".repeat(50).as_bytes(), &[b'a'; 49], Case::Sensitive));
    }
}
