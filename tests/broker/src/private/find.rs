//! Where RabbitMQ is on this machine.

use std::{
    env, fs,
    path::{self, Path, PathBuf},
};

use crate::BrokerError;

const SERVER_VARIABLE: &str = "BUSWAY_TEST_AMQP_SERVER";

/// Where packages put the real scripts, outside most users' PATH.
const FOLDERS: [&str; 5] = [
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/sbin",
    "/usr/local/sbin",
    "/opt/rabbitmq/sbin",
    "/usr/sbin",
];

/// The three programs that make a broker.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) server: PathBuf,
    pub(super) ctl: PathBuf,
    pub(super) epmd: PathBuf,
}

impl Programs {
    pub(super) fn find() -> Result<Self, BrokerError> {
        let server = server()?;
        Ok(Self { ctl: server.with_file_name("rabbitmqctl"), epmd: epmd()?, server })
    }
}

fn server() -> Result<PathBuf, BrokerError> {
    if let Some(named) = env::var_os(SERVER_VARIABLE).filter(|path| !path.is_empty()) {
        // Absolute, because the broker runs in its own folder.
        let named = path::absolute(&named).unwrap_or_else(|_| named.into());
        return if named.is_file() {
            Ok(named)
        } else {
            Err(missing(&format!("{} ({SERVER_VARIABLE})", named.display())))
        };
    }
    path_folders()
        .into_iter()
        .chain(FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join("rabbitmq-server"))
        .find(|script| is_real(script))
        .ok_or_else(|| missing("rabbitmq-server"))
}

/// The packages link /usr/sbin/rabbitmq-server to a wrapper of another name, which changes
/// to the user `rabbitmq`. The real script reads `rabbitmq-env` from beside itself.
fn is_real(script: &Path) -> bool {
    fs::canonicalize(script).is_ok_and(|real| {
        real.file_name() == script.file_name() && real.with_file_name("rabbitmq-env").is_file()
    })
}

/// In PATH, or beside the `erl` that is there: packages do not always link it.
fn epmd() -> Result<PathBuf, BrokerError> {
    let folders = path_folders();
    let beside_erl = folders
        .iter()
        .filter_map(|folder| fs::canonicalize(folder.join("erl")).ok())
        .map(|erl| erl.with_file_name("epmd"));
    folders
        .iter()
        .map(|folder| folder.join("epmd"))
        .chain(beside_erl)
        .find(|epmd| epmd.is_file())
        .ok_or_else(|| missing("Erlang's epmd"))
}

/// PATH, then the folders that a bare environment lacks.
pub(super) fn path_folders() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/opt/homebrew/bin"];
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(usual.map(PathBuf::from))
        .collect()
}

fn missing(what: &str) -> BrokerError {
    BrokerError::Missing { what: what.into() }
}
