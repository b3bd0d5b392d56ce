//! The folder, configuration and environment of one broker.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::{find::path_folders, ports::Ports};

/// RabbitMQ turns the Erlang VM's busy waiting off. Booting is thousands of small hand-overs
/// between VM threads, and each then wakes a sleeping core: 8 to 9 s until ready on two
/// virtual cores, against 3.3 s with the shortest busy wait.
const ERLANG_ARGUMENTS: &str = "+sbwt very_short +sbwtdcpu very_short +sbwtdio very_short \
     -kernel inet_dist_use_interface {127,0,0,1}";

/// One broker's place on this machine; outlives its processes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) folder: PathBuf,
    pub(super) ports: Ports,
}

impl Node {
    /// Writes the configuration into the folder.
    pub(super) fn lay_out(folder: &Path, ports: Ports) -> io::Result<Self> {
        let node = Self { folder: folder.to_owned(), ports };
        // `guest` may log in over loopback, which is all that is listened on. The disk limit
        // is low because a nearly full disk is no reason to block publishers in a test.
        fs::write(
            node.config(),
            format!(
                "listeners.tcp.local = 127.0.0.1:{}\ndisk_free_limit.absolute = 1MB\n",
                ports.amqp
            ),
        )?;
        fs::write(node.plugins(), "[].\n")?;
        Ok(node)
    }

    /// The whole environment of the broker and of its tools. Nothing is inherited: a
    /// stray `RABBITMQ_…` or `ERL_…` variable would point them at another broker.
    pub(super) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let path = |name: &str| self.folder.join(name).into_os_string();
        let ports = self.ports;
        vec![
            ("PATH", env::join_paths(path_folders()).unwrap_or_else(|_| "/usr/bin:/bin".into())),
            ("LANG", "C.UTF-8".into()),
            // The home of Erlang's cookie, so that nobody else's node can come in.
            ("HOME", self.folder.clone().into_os_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("ERL_EPMD_PORT", ports.epmd.to_string().into()),
            ("ERL_CRASH_DUMP_SECONDS", "0".into()),
            ("RABBITMQ_NODENAME", format!("busway-{}@localhost", ports.amqp).into()),
            ("RABBITMQ_DIST_PORT", ports.distribution.to_string().into()),
            ("RABBITMQ_CONFIG_FILE", self.config().into_os_string()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", self.plugins().into_os_string()),
            // These do not exist: they keep those of the system out.
            ("RABBITMQ_CONF_ENV_FILE", path("none.env")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("none.config")),
            ("RABBITMQ_MNESIA_BASE", path("data")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", path("generated")),
            ("RABBITMQ_SCHEMA_DIR", path("schema")),
            ("RABBITMQ_PID_FILE", path("pid")),
            // To standard output.
            ("RABBITMQ_LOGS", "-".into()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG_ARGUMENTS.into()),
            // The script then becomes the broker (exec) instead of waiting for it
            // in a shell between, which would die first and leave it for a moment.
            ("RUNNING_UNDER_SYSTEMD", "true".into()),
        ]
    }

    /// Where the broker writes, run after run.
    pub(super) fn open_log(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.log_file())
    }

    /// The last lines of the log.
    pub(super) fn log_tail(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("rabbitmq.conf")
    }

    fn plugins(&self) -> PathBuf {
        self.folder.join("enabled_plugins")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("broker.log")
    }
}
