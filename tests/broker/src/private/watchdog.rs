//! The process that cleans up, whatever happens to ours.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use rustix::process::Pid;

/// Reads which process groups there are until its standard input ends: when we say so, or
/// because our process has gone, however it went. Then it kills them and removes the folder.
/// `rm` is repeated because a process that was just killed may still be writing a file.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
server= epmd=
while read -r name group; do
    case $name in
        server) server=$group ;;
        epmd) epmd=$group ;;
    esac
done
for group in $server $epmd; do kill -s KILL -- "-$group"; done
tries=0
until rm -rf -- "$1" || [ $tries -ge 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
"#;

/// What the watchdog kills, each replaced as it changes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Watched {
    Server,
    Epmd,
}

/// A small `sh` that holds the other end of our pipe.
#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
    /// Only we hold this end: children do not inherit it.
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// From here on `folder` is removed by the watchdog.
    pub(super) fn start(folder: &Path) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "busway-test-broker-watchdog"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            // Nobody who waits for our output to end should wait for the watchdog.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of the reach of Ctrl-C, and of a broker that is paused.
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// Says which group it has to kill at the end: none for what has already gone.
    pub(super) fn watch(&mut self, what: Watched, group: Option<Pid>) -> io::Result<()> {
        let name = match what {
            Watched::Server => "server",
            Watched::Epmd => "epmd",
        };
        let group = group.map_or_else(String::new, |pid| pid.as_raw_nonzero().to_string());
        match &mut self.pipe {
            // One write, so that it is never half a line.
            Some(pipe) => pipe.write_all(format!("{name} {group}\n").as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Lets it clean up now, and waits for it.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.pipe = None;
        self.shell.wait().map(drop)
    }
}
