//! What sales knows of the day: for each order, what has become of it.
//!
//! Every number of the table is counted here, by distinct orders, from what the applications
//! published. Their own memory counts for nothing: so one that was killed and started again
//! changes no number. Sales itself, when it is started again, reads in its journal what it had
//! entered, and goes on from there.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use busway::Event;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::app::{App, locked};
use crate::events::{
    Day, Letter, MailSent, OrderId, OrderPlaced, Parts, PartsReserved, Warranty, WarrantyChecked,
    WarrantyError, WarrantyRegistered,
};
use crate::journal::Journal;

/// The books of one day.
pub(crate) struct Books {
    day: Day,
    pages: Mutex<Pages>,
    tally: watch::Sender<Tally>,
    journal: Option<Journal>,
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
pub(crate) enum Entry<O = Known> {
    /// The first one: which day this is.
    Day(Day),
    Outcome(O),
}

/// Any outcome, as it is read again.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Known {
    Reserved(PartsReserved),
    Checked(WarrantyChecked),
    Sent(MailSent),
    Registered(WarrantyRegistered),
}

/// How far the day is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) placed: usize,
    pub(crate) complete: usize,
    /// Outcomes entered: moves also while no order becomes complete.
    entries: usize,
}

#[derive(Default)]
struct Pages {
    orders: BTreeMap<u32, Page>,
    /// Outcomes that were there already, by their event.
    repeats: BTreeMap<&'static str, u64>,
    /// Outcomes of orders that are not of this day.
    strays: u64,
}

/// What has become of one order.
#[derive(Debug)]
pub(crate) struct Page {
    order: OrderPlaced,
    pub(crate) reserved: Option<Vec<Parts>>,
    pub(crate) registered: bool,
    pub(crate) checked: Option<Result<Warranty, WarrantyError>>,
    pub(crate) confirmed: bool,
    pub(crate) warranty_sent: bool,
}

/// An event that tells what has become of an order.
pub(crate) trait Outcome: Event + Serialize {
    fn order(&self) -> OrderId;
    /// Writes it down; `false` when it stood there already.
    fn write(&self, page: &mut Page) -> bool;
}

impl Books {
    pub(crate) fn new(day: Day, journal: Option<Journal>) -> Self {
        Self { day, pages: Mutex::default(), tally: watch::Sender::default(), journal }
    }

    /// Nobody asks for this day any more.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.journal.as_ref().map_or(Ok(()), Journal::close)
    }

    /// Opens a page, before the order is published: its first outcome may be faster than the
    /// publisher.
    ///
    /// Gives who has to hear of it: everybody, unless something was known of it already.
    pub(crate) fn place(&self, order: OrderPlaced, known: &[Known]) -> Vec<App> {
        let mut page = Page {
            reserved: None,
            registered: false,
            checked: None,
            confirmed: false,
            warranty_sent: false,
            order,
        };
        for outcome in known {
            match outcome {
                Known::Reserved(outcome) => outcome.write(&mut page),
                Known::Registered(outcome) => outcome.write(&mut page),
                Known::Checked(outcome) => outcome.write(&mut page),
                Known::Sent(outcome) => outcome.write(&mut page),
            };
        }
        let awaits = page.awaits();
        locked(&self.pages).orders.insert(page.order.id.number, page);
        self.tally.send_modify(|tally| {
            tally.placed += 1;
            tally.complete += usize::from(awaits.is_empty());
        });
        awaits
    }

    pub(crate) fn enter<E: Outcome>(&self, outcome: &E) -> io::Result<()> {
        let OrderId { day, number } = outcome.order();
        let mut pages = locked(&self.pages);
        let Pages { orders, repeats, strays } = &mut *pages;
        let Some(page) = orders.get_mut(&number).filter(|_| day == self.day) else {
            *strays += 1;
            return Ok(());
        };
        if !outcome.write(page) {
            *repeats.entry(E::SCHEMA.name).or_default() += 1;
            return Ok(());
        }
        // Before it counts as handled.
        if let Some(journal) = &self.journal {
            journal.write(&Entry::Outcome(outcome))?;
        }
        let complete = page.awaits().is_empty();
        self.tally.send_modify(|tally| {
            tally.entries += 1;
            tally.complete += usize::from(complete);
        });
        Ok(())
    }

    /// How far the day is, now and whenever it changes.
    pub(crate) fn tally(&self) -> watch::Receiver<Tally> {
        self.tally.subscribe()
    }

    /// Each order that still waits, and for whom.
    pub(crate) fn open_orders(&self) -> Vec<(OrderPlaced, Vec<App>)> {
        let pages = locked(&self.pages);
        let open = pages.orders.values().map(|page| (page, page.awaits()));
        open.filter(|(_, apps)| !apps.is_empty())
            .map(|(page, apps)| (page.order.clone(), apps))
            .collect()
    }

    /// Reads all pages.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&mut dyn Iterator<Item = &Page>) -> T) -> T {
        read(&mut locked(&self.pages).orders.values())
    }

    /// What arrived more than once, or too late: one sentence each.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let pages = locked(&self.pages);
        let repeats = pages.repeats.iter().map(|(event, count)| format!("{event} x {count} again"));
        let strays = (pages.strays > 0)
            .then(|| format!("{} events of orders that are not of this day", pages.strays));
        repeats.chain(strays).collect()
    }
}

impl Page {
    /// Who would have to hear of the order again for it to become complete.
    fn awaits(&self) -> Vec<App> {
        let mut apps = Vec::new();
        if self.reserved.is_none() {
            apps.push(App::SpareParts);
        }
        if !self.confirmed {
            apps.push(App::Mail);
        }
        // Support and the second letter follow from what warranty says.
        if !self.registered || self.checked.is_none() || !self.warranty_sent {
            apps.push(App::Warranty);
        }
        apps
    }
}

impl Known {
    pub(crate) fn order(&self) -> OrderId {
        match self {
            Self::Reserved(outcome) => outcome.order(),
            Self::Registered(outcome) => outcome.order(),
            Self::Checked(outcome) => outcome.order(),
            Self::Sent(outcome) => outcome.order(),
        }
    }
}

impl Outcome for PartsReserved {
    fn order(&self) -> OrderId {
        self.order
    }

    fn write(&self, page: &mut Page) -> bool {
        page.reserved.replace(self.parts.clone()).is_none()
    }
}

impl Outcome for WarrantyRegistered {
    fn order(&self) -> OrderId {
        self.order
    }

    fn write(&self, page: &mut Page) -> bool {
        !std::mem::replace(&mut page.registered, true)
    }
}

impl Outcome for WarrantyChecked {
    fn order(&self) -> OrderId {
        self.order
    }

    fn write(&self, page: &mut Page) -> bool {
        page.checked.replace(self.answer.clone()).is_none()
    }
}

impl Outcome for MailSent {
    fn order(&self) -> OrderId {
        self.order
    }

    fn write(&self, page: &mut Page) -> bool {
        let sent = match self.letter {
            Letter::Confirmation => &mut page.confirmed,
            Letter::Warranty => &mut page.warranty_sent,
        };
        !std::mem::replace(sent, true)
    }
}
