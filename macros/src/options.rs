//! The two helper attributes, the options that each knows, and help with misspelt ones.

/// One of the two helper attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    Event,
    Request,
}

impl Helper {
    /// As written between `#[` and `(`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Helper::Event => "event",
            Helper::Request => "request",
        }
    }

    /// With its article, for messages.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Helper::Event => "an event",
            Helper::Request => "a request",
        }
    }

    /// The shortest right use, for messages.
    pub(crate) fn usage(self) -> &'static str {
        match self {
            Helper::Event => r#"#[event("area.thing_happened")]"#,
            Helper::Request => r#"#[request("area.question", response = Answer)]"#,
        }
    }

    /// What may follow the name.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Helper::Event => &["version", "local", "codec", "crate"],
            Helper::Request => &["response", "error", "version", "codec", "crate"],
        }
    }

    pub(crate) fn other(self) -> Helper {
        match self {
            Helper::Event => Helper::Request,
            Helper::Request => Helper::Event,
        }
    }
}

/// What to say about an option that `helper` does not have.
pub(crate) fn unknown(helper: Helper, option: &str) -> String {
    let (this, other) = (helper.name(), helper.other().name());
    let known = list(helper.options(), "`");
    if helper.other().options().contains(&option) {
        return format!(
            "`{option}` is an option of `#[{other}(…)]`; those of `#[{this}(…)]` are {known}"
        );
    }
    match nearest(option, helper.options()) {
        Some(near) => format!(
            "unknown option `{option}`, did you mean `{near}`? `#[{this}(…)]` takes {known}"
        ),
        None => format!("unknown option `{option}`: `#[{this}(…)]` takes {known}"),
    }
}

/// The candidate that `word` was most likely meant to be, if any is near enough.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (distance(&word.to_lowercase(), candidate), *candidate))
        // A third of the letters may be wrong: beyond that the guess only distracts.
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` and `c`, each between two of `quote`.
pub(crate) fn list(words: &[&str], quote: &str) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("{quote}{w}{quote}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Levenshtein's edit distance. Written out, because every user of busway builds this crate
/// first, and a dependency for a handful of short words would only lengthen that.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_edits() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("codec", "codec", 0),
            ("verison", "version", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let options = Helper::Request.options();
        assert_eq!(nearest("verison", options), Some("version"));
        assert_eq!(nearest("Version", options), Some("version"));
        assert_eq!(nearest("respone", options), Some("response"));
        assert_eq!(nearest("err", options), Some("error"));
        assert_eq!(nearest("codecs", options), Some("codec"));
        assert_eq!(nearest("durable", options), None);
        assert_eq!(nearest("", options), None);
    }

    #[test]
    fn lists_read_as_prose() {
        assert_eq!(list(&[], "`"), "");
        assert_eq!(list(&["a"], "`"), "`a`");
        assert_eq!(list(&["a", "b"], "`"), "`a` and `b`");
        assert_eq!(list(&["a", "b", "c"], "\""), "\"a\", \"b\" and \"c\"");
    }
}
