//! `rabbitmqctl` against the private broker.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Pid;

use super::{find::Programs, node::Node, wait};
use crate::BrokerError;

const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn run(
    programs: &Programs,
    node: &Node,
    group: Pid,
    arguments: &[&str],
) -> Result<String, BrokerError> {
    let failed = BrokerError::io;
    // Files and not pipes, so that one thread can wait under a deadline.
    let mut output = tempfile::tempfile_in(&node.folder).map_err(failed("rabbitmqctl's output"))?;
    let mut errors = tempfile::tempfile_in(&node.folder).map_err(failed("rabbitmqctl's output"))?;
    let mut child = Command::new(&programs.ctl)
        .arg("-q")
        .args(arguments)
        .env_clear()
        .envs(node.environment())
        .current_dir(&node.folder)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(failed("rabbitmqctl's output"))?)
        .stderr(errors.try_clone().map_err(failed("rabbitmqctl's output"))?)
        // With the broker it is stopped and with it it dies. Alone it could outlive our epmd
        // and start another.
        .process_group(group.as_raw_nonzero().get())
        .spawn()
        .map_err(failed("starting rabbitmqctl"))?;

    let mut status = None;
    let in_time = wait::until(DEADLINE, || {
        status = child.try_wait()?;
        Ok::<_, io::Error>(status.is_some())
    })
    .map_err(failed("waiting for rabbitmqctl"))?;
    let Some(status) = status.filter(|_| in_time) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(BrokerError::TimedOut {
            what: format!("rabbitmqctl {}", arguments.join(" ")),
            after: DEADLINE,
            log: node.log_tail(),
        });
    };
    let output = text(&mut output).map_err(failed("rabbitmqctl's output"))?;
    if status.success() {
        return Ok(output);
    }
    let errors = text(&mut errors).map_err(failed("rabbitmqctl's output"))?;
    Err(BrokerError::Ctl { command: arguments.join(" "), status, output: output + &errors })
}

fn text(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
