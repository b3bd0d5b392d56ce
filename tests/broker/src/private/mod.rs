//! A broker of our own: its processes, from the first to the last.

mod ctl;
mod find;
mod group;
mod node;
mod ports;
mod wait;
mod watchdog;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Signal;

use self::{
    find::Programs,
    group::Group,
    node::Node,
    ports::Ports,
    watchdog::{Watchdog, Watched},
};
use crate::BrokerError;

/// Until a broker speaks AMQP: seconds on an idle machine.
const READY: Duration = Duration::from_secs(90);
/// For an orderly end.
const STOPPED: Duration = Duration::from_secs(30);

/// One private broker. It may be down; its folder and ports are kept.
#[derive(Debug)]
pub(crate) struct Private {
    programs: Programs,
    node: Node,
    processes: Mutex<Processes>,
}

#[derive(Debug)]
struct Processes {
    watchdog: Watchdog,
    /// Lives as long as the broker's folder, through kills and restarts.
    epmd: Option<Group>,
    server: Option<Group>,
}

impl Private {
    pub(crate) fn start() -> Result<Self, BrokerError> {
        let mut attempts = 3;
        loop {
            attempts -= 1;
            match Self::start_once() {
                // Somebody took a port between our look and the broker's bind.
                Err(BrokerError::Exited { log, .. })
                    if attempts > 0 && names_a_taken_port(&log) => {}
                done => return done,
            }
        }
    }

    pub(crate) fn installed() -> Result<PathBuf, BrokerError> {
        Programs::find().map(|programs| programs.server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.node.ports.amqp
    }

    pub(crate) fn log(&self) -> String {
        self.node.log_tail()
    }

    pub(crate) fn stop(&self) -> Result<(), BrokerError> {
        let mut processes = self.processes();
        let server = processes.server.take().ok_or(BrokerError::NotRunning)?;
        // A paused broker cannot hear; ended or not, burying it is what counts.
        let _ = server.signal(Signal::CONT);
        let _ = server.signal_leader(Signal::TERM);
        let in_time = wait::until(STOPPED, || has_exited(&server));
        processes.bury(server, Watched::Server)?;
        if in_time? { Ok(()) } else { Err(self.timed_out("the broker to stop", STOPPED)) }
    }

    pub(crate) fn start_again(&self) -> Result<(), BrokerError> {
        let mut processes = self.processes();
        if let Some(server) = processes.server.take() {
            if !has_exited(&server)? {
                processes.server = Some(server);
                return Err(BrokerError::AlreadyRunning);
            }
            processes.bury(server, Watched::Server)?;
        }
        self.launch(&mut processes, Watched::Server)
    }

    pub(crate) fn kill(&self) -> Result<(), BrokerError> {
        let mut processes = self.processes();
        let server = processes.server.take().ok_or(BrokerError::NotRunning)?;
        processes.bury(server, Watched::Server).map(drop)
    }

    pub(crate) fn pause(&self) -> Result<(), BrokerError> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn resume(&self) -> Result<(), BrokerError> {
        self.signal(Signal::CONT)
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> Result<String, BrokerError> {
        // Not under the lock: another thread may have to kill the broker meanwhile.
        let group = match &self.processes().server {
            Some(server) if !has_exited(server)? => server.id(),
            _ => return Err(BrokerError::NotRunning),
        };
        ctl::run(&self.programs, &self.node, group, arguments)
    }

    fn start_once() -> Result<Self, BrokerError> {
        let programs = Programs::find()?;
        let folder = tempfile::Builder::new()
            .prefix("busway-broker-")
            .tempdir()
            .map_err(BrokerError::io("making the broker's folder"))?;
        let watchdog =
            Watchdog::start(folder.path()).map_err(BrokerError::io("starting the watchdog"))?;
        // From here on the watchdog removes the folder, and `Drop` calls the watchdog.
        let mut processes = Processes { watchdog, epmd: None, server: None };
        let folder = folder.keep();
        let node = Ports::pick().and_then(|ports| Node::lay_out(&folder, ports));
        let node = match node {
            Ok(node) => node,
            Err(error) => {
                processes.end(&folder);
                return Err(BrokerError::io("preparing the broker")(error));
            }
        };
        let private = Self { programs, node, processes: Mutex::new(processes) };
        {
            let mut processes = private.processes();
            // First, or the broker would start an epmd itself: a daemon in no group of ours.
            private.launch(&mut processes, Watched::Epmd)?;
            private.launch(&mut processes, Watched::Server)?;
        }
        Ok(private)
    }

    fn launch(&self, processes: &mut Processes, what: Watched) -> Result<(), BrokerError> {
        let ports = self.node.ports;
        let (name, program) = match what {
            Watched::Epmd => ("epmd", &self.programs.epmd),
            Watched::Server => ("rabbitmq-server", &self.programs.server),
        };
        let failed = BrokerError::io;
        let log = self.node.open_log().map_err(failed("opening the log"))?;
        let mut group = Group::hold(program, self.node.environment(), &self.node.folder, log)
            .map_err(failed("starting a process of the broker"))?;
        processes.watchdog.watch(what, Some(group.id())).map_err(failed("telling the watchdog"))?;
        group.release().map_err(failed("starting a process of the broker"))?;

        let is_up = || match what {
            Watched::Epmd => wait::listens(ports.epmd),
            Watched::Server => wait::speaks_amqp(ports.amqp),
        };
        let in_time = wait::until(READY, || Ok(has_exited(&group)? || is_up()))?;
        // Asked again: with the port taken, somebody else may have answered.
        if has_exited(&group)? {
            return Err(BrokerError::Exited {
                what: name,
                status: processes.bury(group, what)?,
                log: self.node.log_tail(),
            });
        }
        if !in_time {
            processes.bury(group, what)?;
            return Err(self.timed_out(name, READY));
        }
        *processes.slot(what) = Some(group);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), BrokerError> {
        match &self.processes().server {
            Some(server) if !has_exited(server)? => {
                server.signal(signal).map_err(BrokerError::io("signalling the broker"))
            }
            _ => Err(BrokerError::NotRunning),
        }
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        // A panic elsewhere leaves nothing here half done.
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn timed_out(&self, what: &str, after: Duration) -> BrokerError {
        BrokerError::TimedOut { what: what.into(), after, log: self.node.log_tail() }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let folder = self.node.folder.clone();
        self.processes().end(&folder);
    }
}

impl Processes {
    fn slot(&mut self, what: Watched) -> &mut Option<Group> {
        match what {
            Watched::Epmd => &mut self.epmd,
            Watched::Server => &mut self.server,
        }
    }

    /// Kills what is left of a group. The watchdog is told before the id is given
    /// back: it must not kill whoever gets it next.
    fn bury(&mut self, group: Group, what: Watched) -> Result<ExitStatus, BrokerError> {
        // Fails only if nobody is left to kill.
        let _ = group.signal(Signal::KILL);
        let told = self.watchdog.watch(what, None);
        let status = group.reap().map_err(BrokerError::io("waiting for the broker's end"))?;
        told.map_err(BrokerError::io("telling the watchdog"))?;
        Ok(status)
    }

    /// The end of everything; the watchdog removes the folder.
    fn end(&mut self, folder: &Path) {
        // The broker first: one that misses its epmd starts another.
        for what in [Watched::Server, Watched::Epmd] {
            if let Some(group) = self.slot(what).take() {
                let _ = self.bury(group, what);
            }
        }
        let _ = self.watchdog.finish();
        // Nothing is left unless somebody killed the watchdog.
        let _ = fs::remove_dir_all(folder);
    }
}

fn has_exited(group: &Group) -> Result<bool, BrokerError> {
    group.has_exited().map_err(BrokerError::io("looking after the broker"))
}

/// As RabbitMQ (for its port, for the distribution's) and epmd put it.
fn names_a_taken_port(log: &str) -> bool {
    ["eaddrinuse", "already in use", "EADDRINUSE"].iter().any(|words| log.contains(words))
}
