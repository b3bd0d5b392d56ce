//! A private broker lives, dies, lives again and leaves nothing.
//! Where there is no RabbitMQ these fail and say what to install.
#![cfg(unix)]

use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use busway_test_broker::{Broker, BrokerError};

#[test]
fn it_lives_dies_lives_again_and_leaves_nothing() {
    let broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let port = broker.port();
    assert_eq!(broker.url(), format!("amqp://guest:guest@127.0.0.1:{port}/%2f"));
    assert!(!processes_of(port).is_empty());

    let status = broker.ctl(&["status"]).unwrap();
    assert!(status.contains(&format!("port: {port}")), "{status}");
    assert!(status.contains(&format!("busway-{port}")), "{status}");
    let refused = broker.ctl(&["no_such_command"]);
    assert!(matches!(refused, Err(BrokerError::Ctl { .. })), "{refused:?}");
    assert!(matches!(broker.start_again(), Err(BrokerError::AlreadyRunning)));

    // What was declared survives both ends.
    broker.ctl(&["add_vhost", "kept"]).unwrap();
    broker.kill().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(matches!(broker.kill(), Err(BrokerError::NotRunning)));
    assert!(matches!(broker.ctl(&["status"]), Err(BrokerError::NotRunning)));
    broker.start_again().unwrap();

    broker.pause().unwrap();
    broker.resume().unwrap();
    broker.ctl(&["status"]).unwrap();

    // Stopping hears even a paused one.
    broker.pause().unwrap();
    broker.stop().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    broker.start_again().unwrap();
    let vhosts = broker.ctl(&["list_vhosts"]).unwrap();
    assert!(vhosts.contains("kept"), "{vhosts}");

    let folder = folder_of(port);
    assert!(Path::new(&folder).is_dir());
    drop(broker);
    assert!(!Path::new(&folder).exists());
    assert_all_gone(port);
}

#[test]
fn it_goes_with_a_test_that_panics() {
    let (tell, told) = std::sync::mpsc::channel();
    let test = thread::spawn(move || {
        let broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
        tell.send((broker.port(), folder_of(broker.port()))).unwrap();
        panic!("as a failing test does");
    });
    test.join().unwrap_err();
    let (port, folder) = told.recv().unwrap();
    assert!(!Path::new(&folder).exists());
    assert_all_gone(port);
}

#[test]
fn it_goes_with_a_process_that_is_killed() {
    let temporary = tempfile::tempdir().unwrap();
    // The command kills the process that holds the broker.
    let output = Command::new(env!("CARGO_BIN_EXE_busway-test-broker"))
        .args(["run", "--", "sh", "-c"])
        .arg("echo $BUSWAY_TEST_AMQP; kill -s KILL $PPID")
        .env("TMPDIR", temporary.path())
        .env_remove("BUSWAY_TEST_AMQP")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), None, "killed");
    let url = String::from_utf8(output.stdout).unwrap();
    let port = url.split([':', '/']).find_map(|part| part.parse().ok());
    assert_all_gone(port.unwrap_or_else(|| panic!("no port in {url}")));
    eventually("the folder is removed", || {
        fs::read_dir(temporary.path()).unwrap().next().is_none()
    });
}

#[test]
fn all_share_one() {
    let first = Broker::shared().unwrap_or_else(|error| panic!("{error}"));
    let second = Broker::shared().unwrap_or_else(|error| panic!("{error}"));
    assert!(std::ptr::eq(first, second));
    assert!(first.url().starts_with("amqp"), "{}", first.url());
}

#[test]
fn a_missing_server_says_what_to_install() {
    let output = Command::new(env!("CARGO_BIN_EXE_busway-test-broker"))
        .arg("check")
        .env("BUSWAY_TEST_AMQP_SERVER", "/nowhere/rabbitmq-server")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("apt-get install rabbitmq-server"), "{said}");
}

#[test]
fn the_command_gets_the_url_and_gives_its_exit_status() {
    let status = Command::new(env!("CARGO_BIN_EXE_busway-test-broker"))
        .args(["run", "--", "sh", "-c", "test $BUSWAY_TEST_AMQP = amqp://there && exit 42"])
        .env("BUSWAY_TEST_AMQP", "amqp://there")
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(42));
}

fn assert_all_gone(port: u16) {
    // The kernel and the broker's helpers (which end when their pipe does) may need a moment.
    eventually("all processes end", || processes_of(port).is_empty());
}

/// The watchdog of the tests themselves: a process that ends needs no time worth measuring.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The environment of every living process that was started for the broker on this port, be
/// it in a session of its own: they all inherit the node's name, and the dead have none.
fn processes_of(port: u16) -> Vec<String> {
    let name = format!("RABBITMQ_NODENAME=busway-{port}@localhost");
    let mut environments = environments();
    environments.retain(|environment| environment.contains(&name));
    environments
}

#[cfg(target_os = "linux")]
fn environments() -> Vec<String> {
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| fs::read(entry.ok()?.path().join("environ")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn environments() -> Vec<String> {
    let ps = Command::new("ps").args(["-axEww", "-o", "command"]).output();
    String::from_utf8_lossy(&ps.expect("ps").stdout).lines().map(str::to_owned).collect()
}

fn folder_of(port: u16) -> String {
    processes_of(port)
        .iter()
        .flat_map(|environment| environment.split(['\0', ' ']))
        .find_map(|entry| entry.strip_prefix("HOME="))
        .expect("the broker's home")
        .to_owned()
}
