//! Many processes that come and go at random, and the ledger over all of them (laws 4, 13, 14).

mod ledger;
mod member;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

use crate::support::folder;

/// How many processes come, all in all.
const PROCESSES: usize = 30;
/// How many there are in the beginning.
const FIRST: usize = 10;
/// How long the whole may take before it counts as hanging.
const WATCHDOG: Duration = Duration::from_secs(240);
/// `BUSWAY_TEST_SEED` chooses another.
const SEED: u64 = 20_261_121;

/// A small generator: what matters is that a seed gives the same run of deeds.
struct Dice(u64);

impl Dice {
    /// A number below `sides` (SplitMix64).
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn pick(&mut self, from: &BTreeSet<String>) -> String {
        from.iter().nth(self.below(from.len())).unwrap().clone()
    }
}

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It lived until it closed in order.
    Closed,
    /// `kill -9`.
    Killed,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    /// The other processes that it sees.
    sees: watch::Receiver<BTreeSet<String>>,
    quiet: watch::Receiver<bool>,
}

impl Process {
    fn start(name: &str, dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "mob::member::stand_in", "--ignored", "--nocapture"])
            .env(member::DIR, dir)
            .env(member::NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell_sees, sees) = watch::channel(BTreeSet::new());
        let (tell_quiet, quiet) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let words = line.split_once('@').map_or("", |(_, told)| told);
                let mut words = words.split_whitespace();
                match words.next() {
                    Some("sees") => drop(tell_sees.send(words.map(str::to_owned).collect())),
                    Some("quiet") => drop(tell_quiet.send(true)),
                    _ => {}
                }
            }
        });
        Self { child, stdin, sees, quiet }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    async fn tell(&mut self, word: &str) {
        self.stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
    }

    /// Lets it leave in order.
    async fn close(mut self) -> bool {
        self.tell("close").await;
        // It ends when nobody can tell it anything more.
        drop(self.stdin);
        self.child.wait().await.unwrap().success()
    }

    async fn until_sees(&mut self, others: impl Fn(&BTreeSet<String>) -> bool) {
        self.sees.wait_for(others).await.expect("it ended by itself");
    }
}

/// The processes, and what was done to them.
struct Mob {
    dir: PathBuf,
    started: usize,
    alive: BTreeMap<String, Process>,
    fates: BTreeMap<String, Fate>,
    stopped: BTreeSet<String>,
    /// What a watchdog shows.
    deeds: Arc<Mutex<Vec<String>>>,
}

impl Mob {
    fn note(&self, deed: String) {
        self.deeds.lock().unwrap().push(deed);
    }

    fn start(&mut self) {
        let name = format!("p{}", self.started);
        self.started += 1;
        self.note(format!("start {name}"));
        let process = Process::start(&name, &self.dir);
        self.alive.insert(name, process);
    }

    async fn kill(&mut self, name: &str) {
        self.note(format!("kill {name}"));
        let mut process = self.alive.remove(name).unwrap();
        process.child.kill().await.unwrap();
        self.fates.insert(name.to_owned(), Fate::Killed);
    }

    async fn close(&mut self, name: &str) {
        self.note(format!("close {name}"));
        let process = self.alive.remove(name).unwrap();
        assert!(process.close().await, "{name} failed");
        self.fates.insert(name.to_owned(), Fate::Closed);
    }

    fn names(&self) -> BTreeSet<String> {
        self.alive.keys().cloned().collect()
    }

    /// Waits until everybody there sees everybody else there, and nobody else.
    async fn until_together(&mut self) {
        let names = self.names();
        for (name, process) in &mut self.alive {
            let mut others = names.clone();
            others.remove(name);
            self.deeds.lock().unwrap().push(format!("{name} is to see {others:?}"));
            process.until_sees(|sees| *sees == others).await;
        }
        self.note("together".into());
    }

    /// Stops some until all others have cut them off, and lets them go on.
    async fn stop_and_go_on(&mut self, names: &BTreeSet<String>) {
        for name in names {
            self.note(format!("stop {name}"));
            self.alive[name].signal(Signal::STOP);
        }
        for (other, process) in &mut self.alive {
            if !names.contains(other) {
                process.until_sees(|sees| sees.is_disjoint(names)).await;
            }
        }
        for name in names {
            self.note(format!("go on {name}"));
            self.alive[name].signal(Signal::CONT);
        }
        self.stopped.extend(names.iter().cloned());
    }

    /// The sockets that are there.
    fn sockets(&self) -> usize {
        let files = std::fs::read_dir(self.dir.join("mob")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some()).count()
    }

    /// A few things at once, and then everybody finds everybody again.
    async fn round(&mut self, dice: &mut Dice) {
        let mut free = self.names();
        let mut some = |most: usize, dice: &mut Dice| -> BTreeSet<String> {
            let count = 1 + dice.below(most);
            (0..count)
                .map(|_| {
                    let name = dice.pick(&free);
                    free.remove(&name);
                    name
                })
                .collect()
        };
        let (killed, stopped, closed) = (some(2, dice), some(2, dice), some(1, dice));
        let gone = killed.len() + closed.len();
        for name in killed {
            self.kill(&name).await;
        }
        for _ in 0..(gone + dice.below(2)).min(PROCESSES - self.started) {
            self.start();
        }
        self.stop_and_go_on(&stopped).await;
        for name in closed {
            self.close(&name).await;
        }
        self.until_together().await;
        // What the dead left is removed by whoever is there: nobody tells us when.
        while self.sockets() > self.alive.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everybody falls silent, and then everybody leaves: what was under way arrives.
    async fn end(&mut self) {
        for process in self.alive.values_mut() {
            process.tell("quiet").await;
        }
        for process in self.alive.values_mut() {
            process.quiet.wait_for(|quiet| *quiet).await.expect("it ended by itself");
        }
        self.note("all are quiet".into());
        let alive = std::mem::take(&mut self.alive);
        let closed = alive.into_iter().map(async |(name, process)| {
            assert!(process.close().await, "{name} failed");
            name
        });
        for name in join_all(closed).await {
            self.fates.insert(name, Fate::Closed);
        }
    }
}

#[tokio::test]
async fn thirty_processes_come_and_go_and_nothing_is_lost_in_silence() {
    let seed = std::env::var("BUSWAY_TEST_SEED").ok().map_or(SEED, |seed| seed.parse().unwrap());
    let dir = folder();
    let deeds = Arc::new(Mutex::new(vec![format!("seed {seed}")]));
    let mut mob = Mob {
        dir: dir.path().to_owned(),
        started: 0,
        alive: BTreeMap::new(),
        fates: BTreeMap::new(),
        stopped: BTreeSet::new(),
        deeds: deeds.clone(),
    };
    let run = async {
        let mut dice = Dice(seed);
        for _ in 0..FIRST {
            mob.start();
        }
        mob.until_together().await;
        while mob.started < PROCESSES {
            mob.round(&mut dice).await;
        }
        let last = mob.names();
        mob.end().await;
        last
    };
    let ended = tokio::time::timeout(WATCHDOG, run).await;
    let deeds = deeds.lock().unwrap().join("\n");
    let last = ended.unwrap_or_else(|_| panic!("it hangs:\n{deeds}"));

    let left = std::fs::read_dir(dir.path().join("mob")).unwrap();
    let left: Vec<_> = left.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"], "{deeds}");
    let books = ledger::read(dir.path(), mob.fates.keys());
    let findings = ledger::check(&books, &mob.fates, &mob.stopped, &last);
    assert!(findings.is_empty(), "{}\n\n{deeds}", findings.join("\n"));
}
