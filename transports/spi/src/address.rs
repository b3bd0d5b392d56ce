//! Addresses of transports: `memory:shop`, `ipc:shop`, `amqp://user:secret@host/vhost?bus=shop`.

use std::fmt;
use std::str::FromStr;

use crate::TransportError;

/// Where a bus is. Shows neither password nor query in `Display` and `Debug`.
///
/// ```
/// use busway_transport::Address;
/// let address: Address = "amqp://guest:secret@localhost/%2f?bus=shop".parse().unwrap();
/// assert_eq!(address.scheme(), "amqp");
/// assert_eq!(address.to_string(), "amqp://guest:***@localhost/%2f");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    colon: usize,
}

impl Address {
    /// The part before the first colon.
    pub fn scheme(&self) -> &str {
        &self.text[..self.colon]
    }

    /// The part after the first colon, with its secrets.
    pub fn rest(&self) -> &str {
        &self.text[self.colon + 1..]
    }

    /// The whole address, with its secrets: never to be logged.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl FromStr for Address {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        let scheme_ok = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_lowercase())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
        };
        match text.find(':') {
            Some(colon) if scheme_ok(&text[..colon]) => Ok(Self { text: text.to_owned(), colon }),
            _ => Err(TransportError::BadAddress {
                address: redact(text),
                reason: "write SCHEME:REST, for instance memory:shop, ipc:shop or \
                         amqp://user@host/%2f?bus=shop"
                    .into(),
            }),
        }
    }
}

/// Cuts the query, and hides all from the user's name to the last `@`: a password that was not
/// escaped may itself contain `/`, `?` or `@`, and showing too little is no harm.
fn redact(text: &str) -> String {
    let (head, tail) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
    let (user, host) =
        tail.rsplit_once('@').map_or((None, tail), |(user, host)| (Some(user), host));
    let host = host.split(['?', '#']).next().unwrap_or_default();
    match user {
        None => format!("{head}{host}"),
        Some(user) => match user.find([':', '/', '?', '#']) {
            Some(end) => format!("{head}{}:***@{host}", &user[..end]),
            None => format!("{head}{user}@{host}"),
        },
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.text))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redact(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        for (text, shown) in [
            ("amqp://u:p@h/v?bus=b", "amqp://u:***@h/v"),
            ("amqp://u:p@ss/w:rd@h:5672/v", "amqp://u:***@h:5672/v"),
            ("amqp://u:p?q@h/v", "amqp://u:***@h/v"),
            ("amqp://h/v?password=p", "amqp://h/v"),
            ("ipc:shop", "ipc:shop"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("p@"), "{address:?}");
        }
    }

    #[test]
    fn an_address_needs_a_scheme() {
        for bad in ["", "shop", ":shop", "A:b", "/tmp:x"] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("SCHEME:REST"), "{error}");
        }
    }
}
