//! Names: of buses, endpoints and groups ([`Name`]), of events ([`Topic`]), and patterns of the
//! latter ([`TopicFilter`]).
//!
//! Every name is checked once, here. Adapters may therefore build queue, exchange and file names
//! from them without escaping: no two names collide and no name leaves its folder.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The most bytes one word may have.
pub const MAX_WORD: usize = 64;
/// The most bytes a topic or filter may have: leaves room for prefixes below AMQP's 255.
pub const MAX_TOPIC: usize = 200;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name, or a word of it, is empty.
    #[error("{name:?} has an empty word: use [a-z0-9_-], 1 to {MAX_WORD} of them")]
    Empty {
        /// What was given.
        name: String,
    },
    /// A character that names do not have.
    #[error("{name:?} contains {found:?}: names are made of [a-z0-9_-]{hint}")]
    Character {
        /// What was given.
        name: String,
        /// The first character that is not allowed.
        found: char,
        /// What else is allowed here.
        hint: &'static str,
    },
    /// Longer than a name may be.
    #[error("{name:?} is {length} bytes long: the limit is {limit}")]
    TooLong {
        /// The beginning of what was given.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_word(whole: &str, word: &str, hint: &'static str) -> Result<(), NameError> {
    if word.is_empty() {
        return Err(NameError::Empty { name: shorten(whole) });
    }
    if let Some(found) = word.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_' | '-')) {
        return Err(NameError::Character { name: shorten(whole), found, hint });
    }
    if word.len() > MAX_WORD {
        return Err(NameError::TooLong {
            name: shorten(whole),
            length: word.len(),
            limit: MAX_WORD,
        });
    }
    Ok(())
}

fn check_length(whole: &str) -> Result<(), NameError> {
    if whole.len() > MAX_TOPIC {
        return Err(NameError::TooLong {
            name: shorten(whole),
            length: whole.len(),
            limit: MAX_TOPIC,
        });
    }
    Ok(())
}

macro_rules! text_type {
    ($type:ident) => {
        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
        impl TryFrom<&str> for $type {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }
        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}

/// The name of a bus, an endpoint or a group: `[a-z0-9_-]{1,64}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);
text_type!(Name);

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`NameError`] when it is empty, longer than 64 bytes or has other characters.
    ///
    /// ```
    /// use busway_transport::Name;
    /// assert!(Name::new("spare-parts").is_ok());
    /// assert!(Name::new("spare.parts").is_err());
    /// ```
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_word(text, text, "")?;
        Ok(Self(text.into()))
    }
}

/// The name of an event or request as transports see it: dotted words of `[a-z0-9_-]{1,64}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);
text_type!(Topic);

impl Topic {
    /// Checks and takes a topic.
    ///
    /// # Errors
    /// [`NameError`] when a word is empty or too long, the whole is longer than 200 bytes, or it
    /// has other characters.
    pub fn new(text: &str) -> Result<Self, NameError> {
        for word in text.split('.') {
            check_word(text, word, ", in words joined by dots")?;
        }
        check_length(text)?;
        Ok(Self(text.into()))
    }

    /// The filter that matches this topic and no other.
    pub fn filter(&self) -> TopicFilter {
        TopicFilter(self.0.clone())
    }
}

/// A pattern of topics: a word may be `*` (exactly one word) or `#` (any number of words, also
/// none), as in RabbitMQ's topic exchanges.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);
text_type!(TopicFilter);

impl TopicFilter {
    /// Checks and takes a filter.
    ///
    /// # Errors
    /// [`NameError`], as for [`Topic::new`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        for word in text.split('.') {
            if word != "*" && word != "#" {
                check_word(text, word, ", * and #, in words joined by dots")?;
            }
        }
        check_length(text)?;
        Ok(Self(text.into()))
    }

    /// The topic, when the filter has no wildcard and so matches just one.
    pub fn as_topic(&self) -> Option<Topic> {
        let wild = self.0.split('.').any(|word| word == "*" || word == "#");
        (!wild).then(|| Topic(self.0.clone()))
    }

    /// Whether the filter matches the topic.
    ///
    /// ```
    /// use busway_transport::{Topic, TopicFilter};
    /// let filter: TopicFilter = "shop.#".parse().unwrap();
    /// assert!(filter.matches(&"shop.order.placed".parse().unwrap()));
    /// assert!(filter.matches(&"shop".parse().unwrap()));
    /// assert!(!filter.matches(&"shopping".parse().unwrap()));
    /// ```
    pub fn matches(&self, topic: &Topic) -> bool {
        if self.0 == topic.0 {
            return true;
        }
        // Greedy matching with one point to come back to (the last `#`): linear for a filter with
        // one `#`, and never exponential.
        let filter: Vec<&str> = self.0.split('.').collect();
        let words: Vec<&str> = topic.0.split('.').collect();
        let (mut f, mut w, mut back) = (0, 0, None);
        loop {
            match filter.get(f) {
                Some(&"#") => {
                    back = Some((f, w));
                    f += 1;
                    continue;
                }
                Some(&word) if w < words.len() && (word == "*" || word == words[w]) => {
                    f += 1;
                    w += 1;
                    continue;
                }
                None if w == words.len() => return true,
                _ => {}
            }
            match back {
                Some((hash, taken)) if taken < words.len() => {
                    back = Some((hash, taken + 1));
                    f = hash + 1;
                    w = taken + 1;
                }
                _ => return false,
            }
        }
    }
}

impl From<Topic> for TopicFilter {
    fn from(topic: Topic) -> Self {
        Self(topic.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, topic: &str) -> bool {
        TopicFilter::new(filter).unwrap().matches(&Topic::new(topic).unwrap())
    }

    #[test]
    fn filters_match_like_topic_exchanges() {
        for (filter, topic, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "a.b.c", true),
            ("#.c", "a.b.c", true),
            ("#.c", "c", true),
            ("#.b", "a.b.c", false),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.b.c.c", true),
            ("a.#.*", "a", false),
            ("a.#.*", "a.b", true),
            ("#.a.#.b", "x.a.y.a.z.b", true),
            ("*.#", "a", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn names_that_leave_their_folder_or_collide_are_refused() {
        for bad in ["", ".", "..", "a/b", "A", "a b", "a.b", "ä", &"x".repeat(65)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a.*", "a.#", "A.b", &"x.".repeat(150)] {
            assert!(Topic::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(TopicFilter::new("a.*").unwrap().as_topic(), None);
        assert_eq!(TopicFilter::new("a.b").unwrap().as_topic(), Topic::new("a.b").ok());
    }
}
