//! The table at the end of the day: the same, byte for byte, wherever the applications ran.

use std::collections::BTreeMap;
use std::fmt;

use crate::app::App;
use crate::books::{Books, Page};
use crate::events::WarrantyError;
use crate::orders::BadLine;

/// All that is in it, ordered by name or by line, never by time.
#[derive(Debug, Default)]
pub(crate) struct Table {
    placed: usize,
    reserved: usize,
    registered: usize,
    checked: usize,
    answered: usize,
    refused: BTreeMap<&'static str, usize>,
    confirmed: usize,
    warranty_sent: usize,
    pieces: BTreeMap<String, u32>,
    bad_lines: Vec<(u64, BadLine)>,
}

impl Table {
    pub(crate) fn new(books: &Books, bad_lines: Vec<(u64, BadLine)>) -> Self {
        let mut table = Self { bad_lines, ..Self::default() };
        books.read(|pages| pages.for_each(|page| table.add(page)));
        table
    }

    fn add(&mut self, page: &Page) {
        self.placed += 1;
        self.reserved += usize::from(page.reserved.is_some());
        self.registered += usize::from(page.registered);
        self.checked += usize::from(page.checked.is_some());
        self.confirmed += usize::from(page.confirmed);
        self.warranty_sent += usize::from(page.warranty_sent);
        match &page.checked {
            Some(Ok(_)) => self.answered += 1,
            Some(Err(error)) => *self.refused.entry(reason(error)).or_default() += 1,
            None => {}
        }
        for part in page.reserved.iter().flatten() {
            *self.pieces.entry(part.name.clone()).or_default() += part.quantity;
        }
    }

    /// Who published and handled which events. An event was handled when its outcome was told.
    fn events(&self) -> Vec<(App, &'static str, Option<usize>, Option<usize>)> {
        let published = |app, event, count| (app, event, Some(count), None);
        let handled = |app, event, count| (app, event, None, Some(count));
        vec![
            published(App::Sales, "OrderPlaced", self.placed),
            handled(App::Sales, "PartsReserved", self.reserved),
            handled(App::Sales, "WarrantyRegistered", self.registered),
            handled(App::Sales, "WarrantyChecked", self.checked),
            handled(App::Sales, "MailSent", self.confirmed + self.warranty_sent),
            handled(App::SpareParts, "OrderPlaced", self.reserved),
            published(App::SpareParts, "PartsReserved", self.reserved),
            handled(App::Support, "WarrantyRegistered", self.checked),
            published(App::Support, "WarrantyChecked", self.checked),
            handled(App::Warranty, "OrderPlaced", self.registered),
            published(App::Warranty, "WarrantyRegistered", self.registered),
            handled(App::Mail, "OrderPlaced", self.confirmed),
            handled(App::Mail, "WarrantyRegistered", self.warranty_sent),
            published(App::Mail, "MailSent", self.confirmed + self.warranty_sent),
        ]
    }
}

fn reason(error: &WarrantyError) -> &'static str {
    match error {
        WarrantyError::UnknownSerial { .. } => "unknown serial number",
        WarrantyError::SoldWithout { .. } => "sold without warranty",
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |count: Option<usize>| count.map_or_else(|| "-".to_owned(), |n| n.to_string());
        writeln!(f, "{:<13}{:<20}{:>9}{:>9}", "application", "event", "published", "handled")?;
        for (app, event, published, handled) in self.events() {
            let (app, published, handled) = (app.name(), cell(published), cell(handled));
            writeln!(f, "{app:<13}{event:<20}{published:>9}{handled:>9}")?;
        }

        let refused: usize = self.refused.values().sum();
        writeln!(f, "\n{:<33}{:>9}{:>9}", "request", "answered", "refused")?;
        writeln!(f, "{:<33}{:>9}{:>9}", "CheckWarranty", self.answered, refused)?;
        for (reason, count) in &self.refused {
            writeln!(f, "  {reason:<40}{count:>9}")?;
        }

        writeln!(f, "\n{:<33}{:>9}", "parts reserved", "pieces")?;
        for (part, pieces) in &self.pieces {
            writeln!(f, "{part:<33}{pieces:>9}")?;
        }

        writeln!(f, "\nbad lines: {}", self.bad_lines.len())?;
        for (line, reason) in &self.bad_lines {
            writeln!(f, "{line:>6}  {reason}")?;
        }
        Ok(())
    }
}
