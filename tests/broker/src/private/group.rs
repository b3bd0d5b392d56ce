//! A program in a process group of its own.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

/// Becomes the program when told to. If we die first, it reads the end of its input.
const GATE: &str = r#"read -r go || exit 0; exec "$@" </dev/null"#;

/// A process and all that it starts in its group.
#[derive(Debug)]
pub(super) struct Group {
    leader: Child,
    id: Pid,
}

impl Group {
    /// Starts the program held at a gate until [`release`](Self::release): the watchdog
    /// must know the group before it can do anything that somebody has to clean up.
    pub(super) fn hold(
        program: &Path,
        environment: Vec<(&'static str, OsString)>,
        folder: &Path,
        log: File,
    ) -> io::Result<Self> {
        let leader = Command::new("/bin/sh")
            .args(["-c", GATE, "busway-test-broker-gate"])
            .arg(program)
            .env_clear()
            .envs(environment)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let id = Pid::from_child(&leader);
        Ok(Self { leader, id })
    }

    pub(super) fn release(&mut self) -> io::Result<()> {
        match self.leader.stdin.take() {
            Some(mut gate) => gate.write_all(b"go\n"),
            None => Ok(()),
        }
    }

    pub(super) fn id(&self) -> Pid {
        self.id
    }

    /// Whether the leader has ended. It is only looked at: until [`reap`](Self::reap) its
    /// id stays taken, so that no signal of ours can meet a stranger.
    pub(super) fn has_exited(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.id), options)?.is_some())
    }

    /// To everybody in the group.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process_group(self.id, signal)?)
    }

    /// To its leader alone.
    pub(super) fn signal_leader(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.id, signal)?)
    }

    /// Waits for the leader's end and gives its id back.
    pub(super) fn reap(mut self) -> io::Result<ExitStatus> {
        self.leader.wait()
    }
}
