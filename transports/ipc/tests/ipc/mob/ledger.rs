//! What each process wrote down, and what must hold between all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Fate;

/// What one process wrote down.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Whom each of its ticks reached.
    sent: BTreeMap<u64, BTreeSet<String>>,
    /// What it got, and where something was lost.
    got: Vec<Line>,
    closed: bool,
}

#[derive(Debug)]
enum Line {
    Tick { from: String, number: u64 },
    Gap,
}

pub(super) fn read<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, Book> {
    // Whoever was killed at once may have written nothing.
    let text = |name| std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
    names.map(|name| (name.clone(), parse(&text(name)))).collect()
}

fn parse(text: &str) -> Book {
    let mut book = Book::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("sent") => {
                let number = words.next().unwrap().parse().unwrap();
                book.sent.insert(number, words.map(str::to_owned).collect());
            }
            Some("got") => book.got.push(Line::Tick {
                from: words.next().unwrap().to_owned(),
                number: words.next().unwrap().parse().unwrap(),
            }),
            Some("gap") => book.got.push(Line::Gap),
            Some("closed") => book.closed = true,
            _ => {}
        }
    }
    book
}

/// Everything that is not as it should be.
pub(super) fn check(
    books: &BTreeMap<String, Book>,
    fates: &BTreeMap<String, Fate>,
    stopped: &BTreeSet<String>,
    last: &BTreeSet<String>,
) -> Vec<String> {
    let mut findings = Vec::new();
    let breaks = fates.values().filter(|fate| **fate == Fate::Killed).count() + stopped.len();
    for (name, book) in books {
        if book.closed != (fates[name] == Fate::Closed) {
            findings.push(format!("{name} did not end as it should have"));
        }
        // Every gap has a cause: a process that was killed or stopped.
        let gaps = book.got.iter().filter(|line| matches!(line, Line::Gap)).count();
        if !stopped.contains(name) && gaps > breaks {
            findings.push(format!("{name} was told of {gaps} gaps after {breaks} breaks"));
        }
        for (publisher, its) in books {
            if publisher != name {
                let broken = |it: &String| fates[it] == Fate::Killed || stopped.contains(it);
                let unbroken = !broken(name) && !broken(publisher);
                pair(&mut findings, (publisher, its), (name, book), fates[name], unbroken);
            }
        }
        if last.contains(name) {
            // Its own subscription is among them.
            let reached = book.sent.last_key_value().map(|(_, reached)| reached);
            if reached != Some(last) {
                findings.push(format!("the last tick of {name} reached {reached:?}"));
            }
        }
    }
    findings
}

/// What one process got of another.
fn pair(
    findings: &mut Vec<String>,
    (publisher, its): (&String, &Book),
    (name, book): (&String, &Book),
    fate: Fate,
    unbroken: bool,
) {
    let reached_us = |numbers: std::ops::Range<u64>| {
        its.sent.range(numbers).filter(|(_, reached)| reached.contains(name)).count()
    };
    let mut before = 0;
    // Where something was lost since then.
    let mut gap = false;
    for line in &book.got {
        match line {
            Line::Gap => gap = true,
            Line::Tick { from, number } if from == publisher => {
                if *number <= before {
                    findings.push(format!("{name} got {number} of {publisher} after {before}"));
                    continue;
                }
                let missing = reached_us(before + 1..*number);
                // Nobody knows what came before the first that arrived, if the link broke.
                let told = !unbroken && (gap || before == 0);
                if missing > 0 && !told {
                    findings.push(format!(
                        "{name} misses {missing} of {publisher} between {before} and {number}"
                    ));
                }
                (before, gap) = (*number, false);
            }
            Line::Tick { .. } => {}
        }
    }
    if fate == Fate::Closed {
        let missing = reached_us(before + 1..u64::MAX);
        let told = !unbroken && (gap || before == 0);
        if missing > 0 && !told {
            findings.push(format!("{name} misses {missing} of {publisher} after {before}"));
        }
    }
}

/// The ledger itself: what is wrong is found, and nothing else.
#[test]
fn the_ledger_finds_what_is_wrong() {
    const SENT: &str = "sent 1 b\nsent 2 b\nsent 3 b\nsent 4 a\nsent 5 b\nclosed";
    let found = |fate: Fate, got: &str| {
        let books = BTreeMap::from([("a".into(), parse(SENT)), ("b".into(), parse(got))]);
        let fates = BTreeMap::from([("a".to_owned(), fate), ("b".to_owned(), Fate::Closed)]);
        let found = check(&books, &fates, &BTreeSet::new(), &BTreeSet::new());
        let expected = "a did not end as it should have";
        found.into_iter().filter(|it| it != expected).collect::<Vec<_>>().join(", ")
    };
    let all = "got a 1\ngot a 2\ngot a 3\ngot a 5\nclosed";
    assert_eq!(found(Fate::Closed, all), "");
    assert_eq!(found(Fate::Killed, all), "");
    let lost = "got a 1\ngot a 3\ngot a 5\nclosed";
    assert_eq!(found(Fate::Killed, lost), "b misses 1 of a between 1 and 3");
    let told = "got a 1\ngap\ngot a 3\ngot a 5\nclosed";
    assert_eq!(found(Fate::Killed, told), "");
    // With the link unbroken a gap is no excuse, and has no cause.
    assert!(found(Fate::Closed, told).contains("between 1 and 3"));
    assert!(found(Fate::Closed, told).contains("1 gaps after 0 breaks"));
    let late = "got a 3\ngot a 5\nclosed";
    assert_eq!(found(Fate::Closed, late), "b misses 2 of a between 0 and 3");
    let early = "got a 1\ngot a 2\nclosed";
    assert_eq!(found(Fate::Closed, early), "b misses 2 of a after 2");
    assert_eq!(found(Fate::Killed, early), "b misses 2 of a after 2");
    let repeated = "got a 1\ngot a 2\ngot a 2\ngot a 3\ngot a 5\nclosed";
    assert_eq!(found(Fate::Closed, repeated), "b got 2 of a after 2");
    let reordered = "got a 2\ngot a 1\ngot a 3\ngot a 5\nclosed";
    assert!(found(Fate::Closed, reordered).contains("b got 1 of a after 2"));
}
