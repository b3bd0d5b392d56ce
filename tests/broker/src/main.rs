//! Runs a command beside a private RabbitMQ.

use std::{
    env,
    ffi::OsString,
    process::{Command, ExitCode, ExitStatus},
    time::Instant,
};

use busway_test_broker::{Broker, BrokerError, URL_VARIABLE};

const USAGE: &str = "\
usage: busway-test-broker run -- COMMAND ARGS…
           starts a private RabbitMQ, runs the command with its URL in
           BUSWAY_TEST_AMQP, stops it, and exits as the command did
       busway-test-broker check
           says whether RabbitMQ is installed (exit status 0 or 1)";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let mut rest: Vec<_> = arguments.collect();
    if rest.first().is_some_and(|first| first == "--") {
        rest.remove(0);
    }
    match (verb.to_str(), rest.as_slice()) {
        (Some("check"), []) => check(),
        (Some("run"), [program, arguments @ ..]) => run(program, arguments),
        (Some("help" | "--help" | "-h"), _) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn check() -> ExitCode {
    match Broker::installed() {
        Ok(server) => {
            println!("{}", server.display());
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn run(program: &OsString, arguments: &[OsString]) -> ExitCode {
    let named = env::var_os(URL_VARIABLE).is_some_and(|url| !url.is_empty());
    let mut command = Command::new(program);
    command.args(arguments);
    // Lives until the command has ended.
    let _broker = if named {
        eprintln!("busway-test-broker: using the broker of {URL_VARIABLE}");
        None
    } else {
        let start = Instant::now();
        match Broker::start() {
            Ok(broker) => {
                eprintln!(
                    "busway-test-broker: RabbitMQ on port {}, ready after {:.1} s",
                    broker.port(),
                    start.elapsed().as_secs_f32()
                );
                command.env(URL_VARIABLE, broker.url());
                Some(broker)
            }
            Err(error) => return fail(&error),
        }
    };
    match command.status() {
        Ok(status) => ExitCode::from(code(status)),
        Err(error) => {
            eprintln!("busway-test-broker: {}: {error}", program.display());
            ExitCode::from(127)
        }
    }
}

/// As a shell gives it: 128 and the signal for a command that was killed.
fn code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal = None;
    let code = status.code().or(signal.map(|signal: i32| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn fail(error: &BrokerError) -> ExitCode {
    eprintln!("busway-test-broker: {error}");
    ExitCode::FAILURE
}
