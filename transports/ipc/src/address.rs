//! What `ipc:NAME`, `ipc:NAME?dir=/path` and `ipc:NAME?frame=4MiB` mean.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use busway_transport::{Address, Name, TransportError};

use crate::wire::MAX_PAYLOAD;

/// The variable that says where the folders of buses are.
const DIR_VARIABLE: &str = "BUSWAY_IPC_DIR";

/// The variable that says how large a payload may be.
const FRAME_VARIABLE: &str = "BUSWAY_IPC_FRAME";
/// The limits that may be asked for.
const SMALLEST_FRAME: usize = 4 << 10;
pub(crate) const LARGEST_FRAME: usize = 1 << 30;

/// An address, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The bus.
    pub(crate) name: Name,
    /// The folder that holds the bus's folder, when it is not the usual one.
    pub(crate) dir: Option<PathBuf>,
    /// The most bytes that a payload may have that this process sends.
    pub(crate) frame: usize,
}

impl Place {
    /// Reads an address; what it does not say comes from the environment.
    pub(crate) fn of(address: &Address) -> Result<Self, TransportError> {
        Self::parse(address, |variable| std::env::var_os(variable).filter(|it| !it.is_empty()))
    }

    fn parse(
        address: &Address,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, TransportError> {
        let (name, query) = match address.rest().split_once('?') {
            Some((name, query)) => (name, Some(query)),
            None => (address.rest(), None),
        };
        let name = Name::new(name).map_err(|error| bad(address, error.to_string()))?;
        let mut options = [("dir", DIR_VARIABLE, None), ("frame", FRAME_VARIABLE, None)];
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let option = options.iter_mut().find(|(known, ..)| *known == key);
            let Some((.., found)) = option else {
                let reason = format!("unknown option {key:?}: there are dir and frame");
                return Err(bad(address, reason));
            };
            *found = Some(OsString::from(value));
        }
        // Errors name the one that is meant: the option, or else the variable.
        let [dir, frame] = options.map(|(key, name, value)| match value {
            Some(value) => Some((key, value)),
            None => variable(name).map(|value| (name, value)),
        });
        let dir = match dir {
            Some((key, dir)) if !PathBuf::from(&dir).is_absolute() => {
                return Err(bad(address, format!("{key} must be an absolute path")));
            }
            other => other.map(|(_, dir)| PathBuf::from(dir)),
        };
        let frame = match frame {
            None => MAX_PAYLOAD,
            Some((key, text)) => bytes(&text).ok_or_else(|| {
                let reason = format!(
                    "{key} must be a number of bytes from 4KiB to 1024MiB, such as 65536, 64KiB or \
                     64MiB"
                );
                bad(address, reason)
            })?,
        };
        Ok(Self { name, dir, frame })
    }
}

/// Reads a size.
fn bytes(text: &OsStr) -> Option<usize> {
    let text = text.to_str()?;
    let (number, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1 << 10),
        (_, Some(number)) => (number, 1 << 20),
        _ => (text, 1),
    };
    let bytes = number.parse::<usize>().ok()?.checked_mul(unit)?;
    (SMALLEST_FRAME..=LARGEST_FRAME).contains(&bytes).then_some(bytes)
}

fn bad(address: &Address, reason: String) -> TransportError {
    TransportError::BadAddress { address: address.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where absolute paths begin.
    const ROOT: &str = if cfg!(windows) { "C:/" } else { "/" };

    fn parse(text: &str) -> Result<Place, TransportError> {
        Place::parse(&text.parse().unwrap(), |_| None)
    }

    #[test]
    fn a_name_and_perhaps_a_folder_and_a_limit() {
        let place = |dir: Option<&str>, frame| Place {
            name: Name::new("shop").unwrap(),
            dir: dir.map(|dir| PathBuf::from(format!("{ROOT}{dir}"))),
            frame,
        };
        for (text, expected) in [
            ("ipc:shop", place(None, 16 << 20)),
            ("ipc:shop?dir=ROOTrun/x y", place(Some("run/x y"), 16 << 20)),
            ("ipc:shop?frame=4MiB&dir=ROOTx", place(Some("x"), 4 << 20)),
            ("ipc:shop?frame=64KiB", place(None, 64 << 10)),
            ("ipc:shop?frame=5000", place(None, 5000)),
        ] {
            assert_eq!(parse(&text.replace("ROOT", ROOT)).unwrap(), expected);
        }
    }

    #[test]
    fn the_environment_says_what_the_address_does_not() {
        let from_environment = format!("{ROOT}from/environment");
        let variable = |name: &str| match name {
            DIR_VARIABLE => Some(from_environment.clone().into()),
            FRAME_VARIABLE => Some("1MiB".into()),
            _ => None,
        };
        let read = |text: &str| {
            let text = text.replace("ROOT", ROOT);
            let place = Place::parse(&text.parse().unwrap(), variable).unwrap();
            (place.dir.unwrap().to_str().unwrap().to_owned(), place.frame)
        };
        assert_eq!(read("ipc:shop"), (from_environment.clone(), 1 << 20));
        assert_eq!(read("ipc:shop?dir=ROOTx"), (format!("{ROOT}x"), 1 << 20));
        assert_eq!(read("ipc:shop?frame=2MiB"), (from_environment.clone(), 2 << 20));
        let error = Place::parse(&"ipc:shop".parse().unwrap(), |_| Some("here".into()));
        assert!(error.unwrap_err().to_string().contains(DIR_VARIABLE));
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        for (text, expected) in [
            ("ipc:", "empty"),
            ("ipc:../etc", "contains"),
            ("ipc://shop", "contains"),
            ("ipc:shop?dir=here", "dir must be an absolute path"),
            ("ipc:shop?dir", "absolute"),
            ("ipc:shop?folder=/x", "unknown option \"folder\""),
            ("ipc:shop?frame=", "4KiB"),
            ("ipc:shop?frame=4kb", "frame must be a number of bytes"),
            ("ipc:shop?frame=4095", "4KiB"),
            ("ipc:shop?frame=1025MiB", "1024MiB"),
            ("ipc:shop?frame=99999999999999999MiB", "1024MiB"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
