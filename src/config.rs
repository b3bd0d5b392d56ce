//! One line of configuration: code before environment before file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the configuration was refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A key that there is none of.
    #[error("{place}: unknown key {key:?}{}", nearest.as_ref().map_or_else(String::new, |n| format!(": did you mean {n:?}?")))]
    UnknownKey {
        /// Where it stands.
        place: String,
        /// The key.
        key: String,
        /// The key that was perhaps meant.
        nearest: Option<String>,
    },
    /// A value that does not fit its key.
    #[error("{place}: {key} = {value:?}: {reason}")]
    BadValue {
        /// Where it stands.
        place: String,
        /// The key.
        key: String,
        /// The value; not shown for keys that may hold secrets.
        value: String,
        /// What is expected.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{place}: {reason}")]
    Syntax {
        /// Which file.
        place: String,
        /// What is wrong, and on which line.
        reason: String,
    },
    /// The file cannot be read.
    #[error("{place} cannot be read: {reason}")]
    Unreadable {
        /// Which file.
        place: String,
        /// What the system said.
        reason: String,
    },
}

/// What one source of configuration says; `None` where it is silent.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Config {
    pub(crate) transport: Option<String>,
    pub(crate) capacity: Option<usize>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) publish_timeout: Option<Duration>,
    pub(crate) subscribe_timeout: Option<Duration>,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) drain_timeout: Option<Duration>,
}

/// The keys, as they stand in `busway.toml` and, upper case behind `BUSWAY_`, in the environment.
const KEYS: [&str; 7] = [
    "transport",
    "capacity",
    "connect_timeout",
    "publish_timeout",
    "subscribe_timeout",
    "request_timeout",
    "drain_timeout",
];

/// Variables that are read elsewhere: the file's place, the folder and the frame limit of local
/// sockets, and the tests' broker.
const OTHER_VARIABLES: [&str; 3] = ["BUSWAY_CONFIG", "BUSWAY_IPC_DIR", "BUSWAY_IPC_FRAME"];
const TEST_VARIABLES: &str = "BUSWAY_TEST_";

/// The most events that a queue may be told to hold.
pub(crate) const MOST: usize = u32::MAX as usize;

/// The settings of a bus.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) capacity: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) publish_timeout: Duration,
    pub(crate) subscribe_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) drain_timeout: Duration,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let limit = |timeout: Option<Duration>| timeout.unwrap_or(Duration::from_secs(30));
        Self {
            capacity: config.capacity.unwrap_or(1024).clamp(1, MOST),
            connect_timeout: limit(config.connect_timeout),
            publish_timeout: limit(config.publish_timeout),
            subscribe_timeout: limit(config.subscribe_timeout),
            request_timeout: limit(config.request_timeout),
            drain_timeout: limit(config.drain_timeout),
        }
    }
}

impl Config {
    /// This, and where it is silent the other.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            transport: self.transport.or(other.transport),
            capacity: self.capacity.or(other.capacity),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            publish_timeout: self.publish_timeout.or(other.publish_timeout),
            subscribe_timeout: self.subscribe_timeout.or(other.subscribe_timeout),
            request_timeout: self.request_timeout.or(other.request_timeout),
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
        }
    }

    /// What the `BUSWAY_` variables say.
    pub(crate) fn from_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let Some(key) = name.strip_prefix("BUSWAY_") else { continue };
            if OTHER_VARIABLES.contains(&name) || name.starts_with(TEST_VARIABLES) {
                continue;
            }
            let value = value.to_str().ok_or_else(|| ConfigError::BadValue {
                place: "the environment".into(),
                key: name.into(),
                value: "…".into(),
                reason: "it is not text".into(),
            })?;
            config.set("the environment", name, &key.to_lowercase(), Value::Text(value))?;
        }
        Ok(config)
    }

    /// What the file says: the named one, else the one at `BUSWAY_CONFIG`, else `busway.toml` here
    /// if there is one.
    pub(crate) fn from_file(named: Option<PathBuf>) -> Result<Self, ConfigError> {
        let named = named.or_else(|| std::env::var_os("BUSWAY_CONFIG").map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| PathBuf::from("busway.toml"));
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::from_toml(&path, &text),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(ConfigError::Unreadable {
                place: path.display().to_string(),
                reason: error.to_string(),
            }),
        }
    }

    fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let place = path.display().to_string();
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            // The error's own text quotes the line, which may hold a password.
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            ConfigError::Syntax {
                place: place.clone(),
                reason: format!("line {line}: {}", error.message()),
            }
        })?;
        let mut config = Self::default();
        for (key, value) in &table {
            let value = match value {
                toml::Value::String(text) => Value::Text(text),
                toml::Value::Integer(number) => Value::Number(*number),
                other => Value::Other(other.type_str()),
            };
            config.set(&place, key, key, value)?;
        }
        Ok(config)
    }

    fn set(
        &mut self,
        place: &str,
        shown: &str,
        key: &str,
        value: Value<'_>,
    ) -> Result<(), ConfigError> {
        let bad = |reason: &str| ConfigError::BadValue {
            place: place.to_owned(),
            key: shown.to_owned(),
            value: if key == "transport" { "…".into() } else { value.show() },
            reason: reason.to_owned(),
        };
        match key {
            "transport" => self.transport = Some(value.text().ok_or_else(|| bad("write a text"))?),
            "capacity" => {
                let events = value.number().and_then(|number| usize::try_from(number).ok());
                let events = events.filter(|events| *events > 0);
                self.capacity = Some(events.ok_or_else(|| bad("write a number of events from 1"))?);
            }
            _ => {
                let timeout = match key {
                    "connect_timeout" => &mut self.connect_timeout,
                    "publish_timeout" => &mut self.publish_timeout,
                    "subscribe_timeout" => &mut self.subscribe_timeout,
                    "request_timeout" => &mut self.request_timeout,
                    "drain_timeout" => &mut self.drain_timeout,
                    _ => return Err(unknown(place, shown, key)),
                };
                let duration = value.text().and_then(|text| humantime::parse_duration(&text).ok());
                let duration = duration.filter(|duration| !duration.is_zero());
                *timeout =
                    Some(duration.ok_or_else(|| bad("write a time such as \"30s\" or \"500ms\""))?);
            }
        }
        Ok(())
    }
}

fn unknown(place: &str, shown: &str, key: &str) -> ConfigError {
    let nearest = KEYS
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(known, key), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.3);
    let prefix = if shown.starts_with("BUSWAY_") { "BUSWAY_" } else { "" };
    let nearest = nearest.map(|(_, known)| match prefix {
        "" => known.to_owned(),
        prefix => format!("{prefix}{}", known.to_uppercase()),
    });
    ConfigError::UnknownKey { place: place.to_owned(), key: shown.to_owned(), nearest }
}

/// A value from any source.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Other(&'static str),
}

impl Value<'_> {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.to_owned()),
            _ => None,
        }
    }

    fn number(self) -> Option<i64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Number(number) => Some(number),
            Self::Other(_) => None,
        }
    }

    fn show(self) -> String {
        match self {
            Self::Text(text) => text.chars().take(80).collect(),
            Self::Number(number) => number.to_string(),
            Self::Other(kind) => format!("a {kind}"),
        }
    }
}

// The transport's address may hold a password.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> Result<Config, ConfigError> {
        Config::from_toml(Path::new("busway.toml"), text)
    }

    fn environment(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_environment(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())))
    }

    #[test]
    fn code_comes_before_environment_before_file() {
        let code = Config { capacity: Some(1), ..Config::default() };
        let environment = environment(&[("BUSWAY_CAPACITY", "2"), ("BUSWAY_TRANSPORT", "ipc:a")]);
        let file = toml("transport = \"ipc:b\"\ncapacity = 3\nrequest_timeout = \"5s\"");
        let config = code.or(environment.unwrap()).or(file.unwrap());
        assert_eq!(config.capacity, Some(1));
        assert_eq!(config.transport.as_deref(), Some("ipc:a"));
        assert_eq!(config.request_timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn an_unknown_key_names_its_nearest_neighbour() {
        let error = toml("transprot = \"ipc:a\"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "busway.toml: unknown key \"transprot\": did you mean \"transport\"?"
        );
        let error = environment(&[("BUSWAY_REQUEST_TIMOUT", "5s")]).unwrap_err();
        assert!(error.to_string().ends_with("did you mean \"BUSWAY_REQUEST_TIMEOUT\"?"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_text_shows_no_secret() {
        use std::os::unix::ffi::OsStringExt;
        let value = OsString::from_vec(b"amqp://a:secret\xff@b".to_vec());
        let error = Config::from_environment([("BUSWAY_TRANSPORT".into(), value)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }

    #[test]
    fn a_wrong_value_says_what_to_write_and_shows_no_secret() {
        let error = toml("capacity = 0").unwrap_err();
        assert!(error.to_string().contains("number of events from 1"), "{error}");
        let error = toml("drain_timeout = 5").unwrap_err();
        assert!(error.to_string().contains("\"30s\""), "{error}");
        let error = toml("transport = \"amqp://a:secret@b\" x").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
