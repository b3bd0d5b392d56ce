//! The other processes: this program again, told by its arguments which part it plays.
//!
//! They say when they are ready and what they got on their standard output, and end when their
//! standard input does, so that none outlives the one who started it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::{busway, idle, socket, zeromq};

/// The first argument of such a process.
const WORD: &str = "part";

/// What one of the other processes does.
#[derive(Debug)]
pub(crate) struct Part {
    /// One of [`PARTS`].
    name: String,
    /// The folder where they meet.
    pub(crate) folder: PathBuf,
    /// How many events it takes, if it takes a certain number.
    pub(crate) length: u64,
}

type Play = fn(Part);

/// Every part there is.
const PARTS: [(&str, Play); 9] = [
    (busway::STREAM, busway::stream::<busway::Item>),
    (busway::COPIES, busway::stream::<busway::Copied>),
    (busway::ECHO, busway::echo),
    (busway::ANSWER, busway::answer),
    (socket::STREAM, socket::stream),
    (socket::ECHO, socket::echo),
    (zeromq::STREAM, zeromq::stream),
    (zeromq::ECHO, zeromq::echo),
    (idle::MEMBER, idle::member),
];

impl Part {
    /// The part of this process, if it is not the one who measures.
    pub(crate) fn of_this_process() -> Option<Self> {
        let mut arguments = std::env::args().skip(1);
        if arguments.next()? != WORD {
            return None;
        }
        let name = arguments.next()?;
        let folder = arguments.next()?.into();
        let length = arguments.next()?.parse().ok()?;
        Some(Self { name, folder, length })
    }

    /// Says that all is set up.
    pub(crate) fn is_ready(&self) {
        say("ready");
    }

    /// Says what came of it.
    pub(crate) fn is_done(&self, sum: u64) {
        say(&sum.to_string());
    }
}

fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}").and_then(|()| out.flush()).expect("somebody listens");
}

/// Plays a part until the one who started this process has enough.
pub(crate) fn play(part: Part) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let (_, play) = PARTS.iter().find(|(name, _)| *name == part.name).expect("a part");
    play(part);
}

/// A folder for the sockets of one run.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("busway-bench-").tempdir().expect("a folder"))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }
}

/// The bus, or the socket, in that folder.
pub(crate) fn address(folder: &Path) -> String {
    format!("ipc:bench?dir={}", folder.display())
}

/// Another process, which ends when this is dropped.
pub(crate) struct Other {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Other {
    /// Starts one, and waits until it is ready.
    pub(crate) fn start(part: &str, place: &Place, length: u64) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args([WORD, part])
            .arg(place.folder())
            .arg(length.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process");
        let says = BufReader::new(child.stdout.take().expect("piped"));
        let mut other = Self { child, says };
        assert_eq!(other.line(), "ready");
        other
    }

    /// What it got.
    pub(crate) fn sum(&mut self) -> u64 {
        self.line().parse().expect("a sum")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("it talks");
        line.trim_end().to_owned()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
