//! What `ipc:NAME` and `ipc:NAME?dir=/path` mean.

use std::path::PathBuf;

use busway_transport::{Address, Name, TransportError};

/// The variable that says where the folders of buses are.
const DIR_VARIABLE: &str = "BUSWAY_IPC_DIR";

/// An address, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The bus.
    pub(crate) name: Name,
    /// The folder that holds the bus's folder, when it is not the usual one.
    pub(crate) dir: Option<PathBuf>,
}

impl Place {
    /// Reads an address; what it does not say comes from the environment.
    pub(crate) fn of(address: &Address) -> Result<Self, TransportError> {
        let mut place = Self::parse(address)?;
        if place.dir.is_none()
            && let Some(dir) = std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty())
        {
            let dir = PathBuf::from(dir);
            if !dir.is_absolute() {
                return Err(bad(address, format!("{DIR_VARIABLE} must be an absolute path")));
            }
            place.dir = Some(dir);
        }
        Ok(place)
    }

    fn parse(address: &Address) -> Result<Self, TransportError> {
        let (name, query) = match address.rest().split_once('?') {
            Some((name, query)) => (name, Some(query)),
            None => (address.rest(), None),
        };
        let name = Name::new(name).map_err(|error| bad(address, error.to_string()))?;
        let mut dir = None;
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            match pair.split_once('=') {
                Some(("dir", path)) if path.starts_with('/') => dir = Some(PathBuf::from(path)),
                Some(("dir", _)) => {
                    return Err(bad(address, "dir must be an absolute path".into()));
                }
                _ => {
                    let key = pair.split('=').next().unwrap_or_default();
                    return Err(bad(address, format!("unknown option {key:?}: there is dir")));
                }
            }
        }
        Ok(Self { name, dir })
    }
}

fn bad(address: &Address, reason: String) -> TransportError {
    TransportError::BadAddress { address: address.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Place, TransportError> {
        Place::parse(&text.parse().unwrap())
    }

    #[test]
    fn a_name_and_perhaps_a_folder() {
        let shop = Name::new("shop").unwrap();
        assert_eq!(parse("ipc:shop").unwrap(), Place { name: shop.clone(), dir: None });
        let dir = Some(PathBuf::from("/run/x y"));
        assert_eq!(parse("ipc:shop?dir=/run/x y").unwrap(), Place { name: shop, dir });
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        for (text, expected) in [
            ("ipc:", "empty"),
            ("ipc:../etc", "contains"),
            ("ipc://shop", "contains"),
            ("ipc:shop?dir=here", "absolute"),
            ("ipc:shop?folder=/x", "unknown option \"folder\""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
