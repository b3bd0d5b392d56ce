//! What an application must still know when it was killed and started again: one line of JSON for
//! each thing, written before anybody is told. A real shop would have a database here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::locked;

/// A file that only grows.
pub(crate) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// Opens it in a folder, which is made if it is not there, and reads what it has.
    pub(crate) fn open<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<(Self, Vec<T>)> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{name}.jsonl"));
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let text = fs::read(&path)?;
        // Who was killed in the middle of a line had told nobody of it.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let entries = lines.map(serde_json::from_slice).collect::<Result<_, _>>()?;
        Ok((Self { path, file: Mutex::new(file) }, entries))
    }

    /// Adds an entry. It survives this process when this returns.
    pub(crate) fn write(&self, entry: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        locked(&self.file).write_all(&line)
    }

    /// Nobody needs it any more.
    pub(crate) fn close(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}
