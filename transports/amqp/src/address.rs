//! `amqp://user:password@host:port/vhost?bus=NAME&heartbeat=5&window=256&queue_type=quorum`.
//!
//! Parsed by hand and not by lapin: its parser quietly turns `[::1]` into `localhost`, ignores
//! parameters that it does not know, and prints the password in `Debug`.

use std::fmt;

use busway_transport::{Address, Name, TransportError};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};

const PARAMETERS: [&str; 10] = [
    "bus",
    "heartbeat",
    "window",
    "queue_type",
    "wait",
    "password_file",
    "password_env",
    "ca",
    "cert",
    "key",
];

/// What holds the work of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueType {
    Quorum,
    Classic,
}

impl QueueType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

/// An address with its parameters. `Debug` shows no secret: `uri` has them.
#[derive(Clone)]
pub(crate) struct Settings {
    /// What lapin connects to; holds the password.
    pub(crate) uri: AMQPUri,
    /// The address as it may be shown.
    pub(crate) shown: String,
    /// The bus's name: the first word of every exchange and queue.
    pub(crate) bus: Name,
    /// How many publishes may be unconfirmed.
    pub(crate) window: usize,
    /// The type of group queues.
    pub(crate) queue_type: QueueType,
    /// Whether to wait for a broker that is not there.
    pub(crate) wait: bool,
    /// Whom to trust and who we are; holds a private key.
    pub(crate) tls: OwnedTLSConfig,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("address", &self.shown)
            .field("bus", &self.bus)
            .field("window", &self.window)
            .field("queue_type", &self.queue_type)
            .finish_non_exhaustive()
    }
}

impl Settings {
    pub(crate) fn parse(address: &Address) -> Result<Self, TransportError> {
        parse(address)
            .map_err(|reason| TransportError::BadAddress { address: address.to_string(), reason })
    }
}

// The reasons in here never quote a part of the address that may hold a secret.
fn parse(address: &Address) -> Result<Settings, String> {
    let scheme = match address.scheme() {
        "amqps" => AMQPScheme::AMQPS,
        _ => AMQPScheme::AMQP,
    };
    let rest = address
        .rest()
        .strip_prefix("//")
        .ok_or("write amqp://user:password@host:port/vhost?bus=NAME")?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    if path.contains('@') || query.contains('@') || rest.contains('#') {
        return Err("a character of the user name or password has to be escaped: \
                    write / as %2f, ? as %3f, # as %23, @ as %40"
            .into());
    }
    let (user, place) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let (host, port) = host_and_port(place, scheme.default_port())?;
    // `amqp://host/` would be the vhost with the empty name, which nobody has.
    let vhost = if path.is_empty() { "/".to_owned() } else { unescape(path, "the vhost")? };
    if vhost.len() > 255 {
        return Err("the vhost is longer than 255 bytes".into());
    }

    let mut settings = Settings {
        uri: AMQPUri {
            scheme,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: unescape(name, "the user name")?,
                    password: unescape(password, "the password")?,
                },
                host,
                port,
            },
            vhost,
            query: AMQPQueryString {
                heartbeat: Some(5),
                auth_mechanism: Some(SASLMechanism::Plain),
                ..AMQPQueryString::default()
            },
        },
        shown: address.to_string(),
        bus: Name::new("busway").map_err(|error| error.to_string())?,
        window: 256,
        queue_type: QueueType::Quorum,
        wait: false,
        tls: OwnedTLSConfig::default(),
    };
    let mut identity = Identity::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !identity.set(key, value)? {
            settings.set(key, value)?;
        }
    }
    identity.apply(&mut settings)?;
    Ok(settings)
}

/// Passwords and certificates that do not stand in the address.
#[derive(Default)]
struct Identity {
    password: Option<String>,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

impl Identity {
    /// Takes a parameter if it is one of these.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let place = match key {
            "password_file" | "password_env" => &mut self.password,
            "ca" => &mut self.ca,
            "cert" => &mut self.cert,
            "key" => &mut self.key,
            _ => return Ok(false),
        };
        let value = unescape(value, key)?;
        let text = match key {
            "password_env" => {
                std::env::var(&value).map_err(|error| format!("{key}: {value}: {error}"))?
            }
            _ => std::fs::read_to_string(&value)
                .map_err(|error| format!("{key}: {value}: {error}"))?,
        };
        if place.replace(text).is_some() {
            return Err(format!("{key}: one is enough"));
        }
        Ok(true)
    }

    fn apply(self, settings: &mut Settings) -> Result<(), String> {
        let uri = &mut settings.uri;
        if let Some(password) = self.password {
            if !uri.authority.userinfo.password.is_empty() {
                return Err("there is a password in the address, and another elsewhere: write \
                            user@host"
                    .into());
            }
            uri.authority.userinfo.password = password.trim_end_matches(['\r', '\n']).to_owned();
        }
        let plain = uri.scheme == AMQPScheme::AMQP;
        if plain && (self.ca.is_some() || self.cert.is_some() || self.key.is_some()) {
            return Err("certificates are for amqps://".into());
        }
        settings.tls.cert_chain = self.ca;
        settings.tls.identity = match (self.cert, self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                Some(OwnedIdentity::PKCS8 { pem: cert.into_bytes(), key: key.into_bytes() })
            }
            _ => return Err("cert and key belong together".into()),
        };
        Ok(())
    }
}

impl Settings {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "bus" => self.bus = Name::new(value).map_err(|error| format!("bus: {error}"))?,
            "heartbeat" => {
                self.uri.query.heartbeat = Some(number(value, 1, 3600, "heartbeat (seconds)")?);
            }
            "window" => self.window = usize::from(number(value, 1, 16384, "window")?),
            "queue_type" => {
                self.queue_type = match value {
                    "quorum" => QueueType::Quorum,
                    "classic" => QueueType::Classic,
                    _ => return Err("queue_type is quorum or classic".into()),
                }
            }
            "wait" => {
                self.wait = match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err("wait is true or false".into()),
                }
            }
            _ => {
                return Err(format!(
                    "there is no parameter {key:?}; did you mean {:?}?",
                    nearest(key)
                ));
            }
        }
        Ok(())
    }
}

fn number(value: &str, min: u16, max: u16, what: &str) -> Result<u16, String> {
    match value.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("{what} is a number from {min} to {max}")),
    }
}

fn host_and_port(place: &str, default: u16) -> Result<(String, u16), String> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']').ok_or("the [ of the host has no ]")?;
            (host, tail.strip_prefix(':'))
        }
        None => match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        None | Some("") => default,
        Some(port) => port.parse().map_err(
            |_| "the port is not a number (a : in the user name or password is written %3a)",
        )?,
    };
    let host = if host.is_empty() { "localhost".to_owned() } else { unescape(host, "the host")? };
    Ok((host, port))
}

fn unescape(text: &str, what: &str) -> Result<String, String> {
    let bad = || format!("{what} has a % that is not followed by two hexadecimal digits of UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// The parameter of which it is the beginning, else the one with the least edit distance.
fn nearest(key: &str) -> &'static str {
    let far = |known: &&str| (!known.starts_with(key), distance(key, known));
    PARAMETERS.into_iter().min_by_key(far).unwrap_or("bus")
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        let address: Address = text.parse().map_err(|error: TransportError| error.to_string())?;
        Settings::parse(&address).map_err(|error| error.to_string())
    }

    #[test]
    fn the_parts_of_an_address() {
        let all = settings(
            "amqps://us%40er:p%2fss@broker.example:7/my%2fhost?bus=shop&heartbeat=9&window=8&queue_type=classic",
        )
        .unwrap();
        assert_eq!(all.uri.scheme, AMQPScheme::AMQPS);
        assert_eq!(all.uri.authority.userinfo.username, "us@er");
        assert_eq!(all.uri.authority.userinfo.password, "p/ss");
        assert_eq!(
            (all.uri.authority.host.as_str(), all.uri.authority.port),
            ("broker.example", 7)
        );
        assert_eq!(all.uri.vhost, "my/host");
        assert_eq!(all.uri.query.heartbeat, Some(9));
        assert_eq!((all.bus.as_str(), all.window, all.queue_type), ("shop", 8, QueueType::Classic));

        for (text, host, port, vhost) in [
            ("amqp://localhost", "localhost", 5672, "/"),
            ("amqp://localhost/", "localhost", 5672, "/"),
            ("amqp://u@[::1]:99/%2f", "::1", 99, "/"),
            ("amqps://", "localhost", 5671, "/"),
        ] {
            let found = settings(text).unwrap();
            let place = found.uri.authority;
            assert_eq!(
                (place.host.as_str(), place.port, found.uri.vhost.as_str()),
                (host, port, vhost)
            );
        }
    }

    #[test]
    fn a_password_may_come_from_a_file_or_the_environment() {
        let file = std::env::temp_dir().join(format!("busway-password-{}", std::process::id()));
        std::fs::write(&file, "se/same\n").unwrap();
        let with = |place: &str| format!("amqp://{place}?password_file={}", file.display());
        let found = settings(&with("me@h/v")).unwrap();
        let user = &found.uri.authority.userinfo;
        assert_eq!((user.username.as_str(), user.password.as_str()), ("me", "se/same"));
        let twice = settings(&with("me:other@h/v")).unwrap_err();
        assert!(twice.contains("another elsewhere") && !twice.contains("other@"), "{twice}");
        std::fs::remove_file(&file).unwrap();
        let missing = settings(&with("me@h/v")).unwrap_err();
        assert!(missing.contains("password_file"), "{missing}");

        // Cargo sets it for tests.
        let found = settings("amqp://me@h/v?password_env=CARGO_PKG_NAME").unwrap();
        assert_eq!(found.uri.authority.userinfo.password, env!("CARGO_PKG_NAME"));
        let missing = settings("amqp://me@h/v?password_env=BUSWAY_NO_SUCH").unwrap_err();
        assert!(missing.contains("BUSWAY_NO_SUCH"), "{missing}");
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong_and_show_no_secret() {
        for (text, says) in [
            ("amqp:shop", "write amqp://"),
            ("amqp://u:secret@h/v?buss=x", "did you mean \"bus\""),
            ("amqp://u:secret@h/v?heart=5", "did you mean \"heartbeat\""),
            ("amqp://u:secret@h/v?bus=A", "bus:"),
            ("amqp://u:secret@h/v?window=0", "window is a number"),
            ("amqp://u:secret@h/v?queue_type=lazy", "quorum or classic"),
            ("amqp://u:secret@h/v?wait=long", "true or false"),
            ("amqp://u:secret@h/v?ca=/dev/null", "amqps"),
            ("amqps://u:secret@h/v?cert=/dev/null", "belong together"),
            ("amqp://u:secret/x@h/v", "escaped"),
            ("amqp://u:secret?x@h/v", "escaped"),
            ("amqp://u:secret%zz@h/v", "the password has a %"),
            ("amqp://u:secret@h:port/v", "the port is not a number"),
        ] {
            let error = settings(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let debug = format!("{:?}", settings("amqp://u:secret@h/v?bus=shop").unwrap());
        assert!(!debug.contains("secret"), "{debug}");
    }
}
