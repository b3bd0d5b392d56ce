//! One process of the mob: publishes ticks, and writes down what it published and what it got.
//! Each line is one `write`, so that a `kill -9` leaves whole lines.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use busway::{Bus, Endpoint};
use busway_ipc::IpcConnector;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::watch;

pub(super) const DIR: &str = "BUSWAY_TEST_MOB_DIR";
pub(super) const NAME: &str = "BUSWAY_TEST_MOB_NAME";
/// How often each publishes.
const PACE: Duration = Duration::from_millis(40);

#[derive(Debug, busway::Event, Serialize, Deserialize)]
#[event("mob.tick")]
struct Tick {
    from: String,
    number: u64,
}

#[derive(Clone)]
struct Log(Rc<RefCell<File>>);

impl Log {
    fn line(&self, line: String) {
        self.0.borrow_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Tells the parent something.
fn tell(words: &str) {
    println!("\n@{words}");
}

/// Not a test of its own: what each process runs.
#[tokio::test]
#[ignore = "run by the test of the mob, in a process of its own"]
async fn stand_in() {
    let (Some(dir), Ok(name)) = (std::env::var_os(DIR), std::env::var(NAME)) else { return };
    let dir = PathBuf::from(dir);
    let log = Log(Rc::new(RefCell::new(File::create(dir.join(format!("{name}.log"))).unwrap())));
    let address = format!("ipc:mob?dir={}", dir.display());
    let builder = Bus::builder().without_configuration().transport(&address);
    let bus = builder.connector(IpcConnector::new()).open().await.unwrap();
    let mut notices = bus.notices();
    let me = bus.endpoint(&name).unwrap();
    let mut ticks = me.stream::<Tick>().not_own().await.unwrap();
    log.line("live".into());

    let (say, mut said) = watch::channel(String::new());
    let order = async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        // Whoever loses its parent closes as well.
        while let Ok(Some(line)) = lines.next_line().await {
            say.send_replace(line);
        }
        say.send_replace("close".into());
        std::future::pending::<()>().await;
    };
    let read = async {
        while let Some(tick) = ticks.next().await {
            match tick {
                Ok(tick) => log.line(format!("got {} {}", tick.from, tick.number)),
                Err(gap) => log.line(format!("gap {gap}")),
            }
        }
    };
    let look = async {
        loop {
            let peers = bus.peers();
            let names: BTreeSet<_> = peers.iter().flat_map(|peer| &peer.endpoints).collect();
            let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
            tell(&format!("sees {}", names.join(" ")));
            if notices.next().await.is_none() {
                return;
            }
        }
    };
    let work = async {
        publish(&me, &name, &log, said.clone()).await;
        tell("quiet");
        said.wait_for(|said| said == "close").await.unwrap();
        bus.close().await.unwrap();
    };
    tokio::select! {
        () = order => {}
        ((), ()) = async { tokio::join!(work, read) } => log.line("closed".into()),
        () = async { look.await; std::future::pending().await } => {}
    }
}

/// Publishes until told to be quiet, and then once more.
async fn publish(me: &Endpoint, name: &str, log: &Log, mut said: watch::Receiver<String>) {
    let mut pace = tokio::time::interval(PACE);
    let mut number = 0;
    loop {
        let last = tokio::select! {
            _ = pace.tick() => false,
            said = said.wait_for(|said| !said.is_empty()) => said.is_ok(),
        };
        number += 1;
        let receipt = me.publish(Tick { from: name.to_owned(), number }).await.unwrap();
        let parties: Vec<_> =
            receipt.parties().iter().map(|party| party.endpoint.to_string()).collect();
        log.line(format!("sent {number} {}", parties.join(" ")));
        if last {
            return;
        }
    }
}
