//! The rule for the names of events and requests, and for what they are called on the wire.
//!
//! Names become routing keys, queue names and file names, and patterns are matched against them
//! word by word. So they hold nothing that any of these would read in a way of its own, and fit
//! with room for a prefix into the 255 bytes that AMQP has for a routing key.

/// The longest name in bytes.
const MAX_NAME: usize = 200;
/// The longest word in bytes.
const MAX_WORD: usize = 64;
/// The first word of the names that the bus keeps for itself.
const RESERVED: &str = "busway";

/// Says what is wrong with a name and what to write instead.
pub(crate) fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty: write one like \"area.thing_happened\"".into());
    }
    // Characters before lengths: a wrong character is the likelier slip, and after this check
    // bytes and characters are the same.
    if let Some(bad) = name.chars().find(|c| *c != '.' && !is_word_character(*c)) {
        return Err(bad_character(name, bad));
    }
    let words: Vec<&str> = name.split('.').collect();
    if words.iter().any(|word| word.is_empty()) {
        let help = did_you_mean(name);
        return Err(format!("the name \"{name}\" has a dot without a word on each side{help}"));
    }
    if let Some(long) = words.iter().find(|word| word.len() > MAX_WORD) {
        let length = long.len();
        return Err(format!(
            "the word \"{long}\" has {length} characters; a word of a name has at most {MAX_WORD}"
        ));
    }
    if name.len() > MAX_NAME {
        let length = name.len();
        return Err(format!("the name has {length} characters; a name has at most {MAX_NAME}"));
    }
    // Also `busway` alone: the filter `busway.#` matches it.
    if words[0] == RESERVED {
        return Err(format!(
            "names that begin with the word \"{RESERVED}\" are reserved for the bus itself: \
             begin with an area of your own, as in \"area.thing_happened\""
        ));
    }
    match words.split_last() {
        Some((last, rest)) if is_version(last) => Err(version_in_name(last, rest)),
        _ => Ok(()),
    }
}

/// The topic on the wire. Version 1 is the bare name, so that a program which never thought
/// about versions and one that is at its first agree.
pub(crate) fn topic(name: &str, version: u32) -> Result<String, String> {
    if version == 1 {
        return Ok(name.to_owned());
    }
    let topic = format!("{name}.v{version}");
    match topic.len() {
        length if length > MAX_NAME => Err(format!(
            "with its version the topic on the wire is \"{topic}\", which has {length} \
             characters; at most {MAX_NAME} are possible"
        )),
        _ => Ok(topic),
    }
}

fn is_word_character(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '_' | '-')
}

/// `v` and digits: what [`topic`] appends. A name that ended so would share the topic of another
/// name's version.
fn is_version(word: &str) -> bool {
    word.strip_prefix('v')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn version_in_name(last: &str, rest: &[&str]) -> String {
    let instead = match (last[1..].parse::<u32>(), rest.join(".")) {
        (_, base) if base.is_empty() => "write a name, and `version = N` after it".into(),
        (Ok(0 | 1), base) => format!("write `\"{base}\"`, which is version 1"),
        (Ok(version), base) => format!("write `\"{base}\", version = {version}`"),
        (Err(_), base) => format!("write `\"{base}\", version = N`"),
    };
    format!("the name ends in \"{last}\", which is how versions are told apart: {instead}")
}

fn bad_character(name: &str, bad: char) -> String {
    if matches!(bad, '*' | '#') {
        return format!(
            "{bad:?} belongs in a topic filter; the name of an event or request stands for one \
             topic"
        );
    }
    // Many letters look like one of the alphabet, and some are invisible.
    let code = match bad.is_ascii() {
        true => String::new(),
        false => format!(" (U+{:04X})", u32::from(bad)),
    };
    let help = did_you_mean(name);
    format!(
        "{bad:?}{code} cannot be in a name, which consists of words with dots between them, each \
         made of a-z, 0-9, '_' and '-'{help}"
    )
}

fn did_you_mean(name: &str) -> String {
    suggest(name).map_or_else(String::new, |better| format!("; did you mean {better:?}?"))
}

/// The right name that a wrong one most likely stands for: `Accounts::UserRegistered` is
/// `accounts.user_registered`. Nothing rather than a guess that would be refused as well.
fn suggest(name: &str) -> Option<String> {
    let characters: Vec<char> = name.trim().chars().collect();
    let mut better = String::with_capacity(name.len() + 8);
    for (i, &c) in characters.iter().enumerate() {
        match c {
            'A'..='Z' => {
                let before = i.checked_sub(1).map(|i| characters[i]);
                let after = characters.get(i + 1);
                // The second capital of `UserId`, and the last but one of `HTTPServer`.
                let starts_a_word = match before {
                    Some('a'..='z' | '0'..='9') => true,
                    Some('A'..='Z') => after.is_some_and(char::is_ascii_lowercase),
                    _ => false,
                };
                if starts_a_word {
                    better.push('_');
                }
                better.push(c.to_ascii_lowercase());
            }
            '.' | ':' | '/' if better.is_empty() || better.ends_with('.') => {}
            '.' | ':' | '/' => better.push('.'),
            ' ' => better.push('_'),
            c if is_word_character(c) => better.push(c),
            _ => return None,
        }
    }
    let better = better.trim_end_matches('.');
    check(better).is_ok().then(|| better.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str) -> String {
        check(name).expect_err(name)
    }

    #[test]
    fn names_of_dotted_words_are_accepted() {
        for name in [
            "a",
            "ping",
            "accounts.user_registered",
            "a.b.c.d",
            "0.1.2",
            "_",
            "-",
            "kebab-case.and_snake",
            "v",
            "orders.v",
            "orders.v2x",
            "orders.v-2",
            "orders.2",
            "v2.orders",
            "buswayish.x",
            "my.busway.x",
            "a.busway",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn each_character_outside_the_alphabet_is_named() {
        let allowed = "abcdefghijklmnopqrstuvwxyz0123456789_-";
        for c in (0..=0x2ff).filter_map(char::from_u32) {
            for name in [format!("x{c}y"), format!("{c}y"), format!("x.{c}")] {
                match check(&name) {
                    Ok(()) => assert!(allowed.contains(c) || (c == '.' && name == "x.y")),
                    Err(_) if c == '.' => assert_ne!(name, "x.y"),
                    Err(message) => {
                        assert!(!allowed.contains(c), "{name}: {message}");
                        assert!(message.contains(&format!("{c:?}")), "{name}: {message}");
                    }
                }
            }
        }
    }

    #[test]
    fn letters_that_only_look_right_are_refused() {
        // Cyrillic a, full-width a, dotless i, a combining accent, a zero-width space, a
        // full-width dot.
        for name in ["\u{430}", "\u{ff41}", "\u{131}", "a\u{301}", "a\u{200b}b", "a\u{ff0e}b"] {
            assert!(refusal(name).contains("(U+"), "{name}");
        }
        assert!(refusal("\u{430}ccounts").contains("'\u{430}' (U+0430)"));
    }

    #[test]
    fn dots_stand_between_words() {
        for name in [".", "..", ".a", "a.", "a..b", "...a"] {
            assert!(refusal(name).contains("dot without a word"), "{name}");
        }
        assert!(refusal("a..b").contains("did you mean \"a.b\"?"));
        assert!(!refusal(".").contains("did you mean"));
        assert!(refusal("").contains("empty"));
    }

    #[test]
    fn lengths_are_exact() {
        let word = |n: usize| "w".repeat(n);
        assert_eq!(check(&word(64)), Ok(()));
        assert!(refusal(&word(65)).contains("65 characters"));
        assert!(refusal(&format!("a.{}.b", word(65))).contains("65 characters"));

        // 3 * 64 + 3 dots + 5 = 200
        let name = |last: usize| [word(64), word(64), word(64), word(last)].join(".");
        assert_eq!(name(5).len(), 200);
        assert_eq!(check(&name(5)), Ok(()));
        assert!(refusal(&name(6)).contains("201 characters"));
    }

    #[test]
    fn the_first_word_busway_is_reserved() {
        for name in ["busway", "busway.x", "busway.x.y"] {
            assert!(refusal(name).contains("reserved"), "{name}");
        }
    }

    #[test]
    fn a_version_is_not_part_of_the_name() {
        assert!(refusal("orders.placed.v2").ends_with("write `\"orders.placed\", version = 2`"));
        assert!(refusal("orders.v02").ends_with("write `\"orders\", version = 2`"));
        assert!(refusal("orders.v1").ends_with("write `\"orders\"`, which is version 1"));
        assert!(refusal("orders.v99999999999").ends_with("version = N`"));
        assert!(refusal("v7").contains("write a name"));
    }

    #[test]
    fn no_name_is_another_name_s_version() {
        for version in [2, 3, 10, u32::MAX] {
            let topic = topic("orders.placed", version).expect("short enough");
            assert!(check(&topic).is_err(), "{topic}");
        }
        assert_eq!(topic("orders.placed", 1).as_deref(), Ok("orders.placed"));
        assert_eq!(topic("orders.placed", 2).as_deref(), Ok("orders.placed.v2"));
    }

    #[test]
    fn a_topic_obeys_the_limit_of_names() {
        let name = vec!["w".repeat(49); 4].join(".");
        assert_eq!(name.len(), 199);
        assert!(check(&name).is_ok());
        assert!(topic(&name, 1).is_ok());
        assert!(topic(&name, 2).expect_err("too long").contains("202 characters"));
        assert!(topic(&name[2..], 2).is_ok());
    }

    #[test]
    fn suggestions_are_snake_case() {
        for (wrong, right) in [
            ("UserRegistered", "user_registered"),
            ("Accounts.UserRegistered", "accounts.user_registered"),
            ("accounts::UserRegistered", "accounts.user_registered"),
            ("accounts/user_registered", "accounts.user_registered"),
            ("HTTPServer.UserID", "http_server.user_id"),
            ("step2Done", "step2_done"),
            ("user registered", "user_registered"),
            (" padded ", "padded"),
            ("A", "a"),
        ] {
            assert_eq!(suggest(wrong).as_deref(), Some(right));
            assert!(refusal(wrong).contains(&format!("did you mean {right:?}?")));
        }
        for hopeless in ["", "…", "café", "orders.V2", "Busway.x", "a!", "/", "*.Placed"] {
            assert_eq!(suggest(hopeless), None, "{hopeless}");
        }
    }

    #[test]
    fn suggestions_are_right_names() {
        // Every text of up to four characters over an alphabet that reaches each branch.
        let alphabet = ['a', 'v', '2', 'B', 'C', '.', ':', ' ', '_', '!', 'é'];
        let mut texts = vec![String::new()];
        for _ in 0..4 {
            let longer: Vec<String> = texts
                .iter()
                .flat_map(|text| alphabet.iter().map(move |c| format!("{text}{c}")))
                .collect();
            for text in &longer {
                if let Some(better) = suggest(text) {
                    assert_eq!(check(&better), Ok(()), "{text}");
                }
                if check(text).is_ok() {
                    assert_eq!(suggest(text).as_ref(), Some(text));
                }
            }
            texts = longer;
        }
    }
}
