//! Sales: places the orders, keeps the books, and ends the day.

use std::collections::HashMap;
use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use busway::{Bus, Endpoint};
use futures::FutureExt;

use crate::app::{App, work};
use crate::books::{Books, Entry, Known, Outcome};
use crate::error::ShopError;
use crate::events::{
    Day, DayReport, EndDay, MailSent, OrderPlaced, PartsReserved, WarrantyChecked,
    WarrantyRegistered,
};
use crate::journal::Journal;
use crate::orders::{BadLine, Line, OrderFile};
use crate::progress::Progress;
use crate::table::Table;

/// How long nothing may move before sales looks after what is left.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it does so in a row.
const ROUNDS: u32 = 6;
/// How often, and how many times, an application is asked for its report.
const ASKING: (Duration, u32) = (Duration::from_millis(500), 60);

pub(crate) struct Sales {
    bus: Bus,
    desk: Endpoint,
    day: Day,
    file: OrderFile,
    books: Arc<Books>,
    /// What was known of each order when sales was started again.
    known: HashMap<u32, Vec<Known>>,
    progress: Progress,
}

impl Sales {
    pub(crate) async fn open(
        bus: &Bus,
        orders: &Path,
        state: Option<&Path>,
    ) -> Result<Self, ShopError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut day = Day(u64::try_from(now.as_micros()).unwrap_or_default());
        let mut known: HashMap<u32, Vec<Known>> = HashMap::new();
        let mut journal = None;
        if let Some(dir) = state {
            let (file, entries) = Journal::open::<Entry>(dir, "sales")?;
            if entries.is_empty() {
                file.write(&Entry::<Known>::Day(day))?;
            }
            journal = Some(file);
            for entry in entries {
                match entry {
                    // It is still the day on which sales was killed.
                    Entry::Day(begun) => day = begun,
                    Entry::Outcome(outcome) => {
                        known.entry(outcome.order().number).or_default().push(outcome);
                    }
                }
            }
        }
        let file = OrderFile::open(orders, day)?;
        let desk = bus.endpoint(App::Sales.name())?;
        let books = Arc::new(Books::new(day, journal));
        keep::<PartsReserved>(bus, &desk, &books).await?;
        keep::<WarrantyRegistered>(bus, &desk, &books).await?;
        keep::<WarrantyChecked>(bus, &desk, &books).await?;
        keep::<MailSent>(bus, &desk, &books).await?;
        Ok(Self { bus: bus.clone(), desk, day, file, books, known, progress: Progress::new() })
    }

    /// The whole day.
    pub(crate) async fn run(mut self) -> Result<(), ShopError> {
        let bad_lines = self.place_orders().await?;
        self.wait_for_outcomes().await?;
        self.send_home().await?;
        self.progress.finish();
        for remark in self.books.remarks() {
            eprintln!("sales: {remark}");
        }
        print!("{}", Table::new(&self.books, bad_lines));
        self.books.close()?;
        Ok(())
    }

    async fn place_orders(&mut self) -> Result<Vec<(u64, BadLine)>, ShopError> {
        let orders = self.desk.publisher::<OrderPlaced>();
        let tally = self.books.tally();
        let mut bad_lines = Vec::new();
        for line in &mut self.file {
            let Line { number, order } = line?;
            match order {
                Ok(order) => {
                    let known = self.known.remove(&order.id.number).unwrap_or_default();
                    let awaits = self.books.place(order.clone(), &known);
                    // Waits while a group has too much to do already.
                    if known.is_empty() {
                        orders.publish(order).await?;
                    } else {
                        // Who told his part of it has heard; the others perhaps not.
                        for app in awaits {
                            self.desk.publish(order.clone()).to(app.name()).await?;
                        }
                    }
                    self.progress.show(*tally.borrow());
                }
                Err(reason) => bad_lines.push((number, reason)),
            }
        }
        orders.flush().await?;
        Ok(bad_lines)
    }

    /// Waits until everything that must become of each order has become of it.
    async fn wait_for_outcomes(&mut self) -> Result<(), ShopError> {
        let mut tally = self.books.tally();
        let mut fruitless = 0;
        loop {
            let now = *tally.borrow_and_update();
            self.progress.show(now);
            if now.complete == now.placed {
                return Ok(());
            }
            if let Ok(moved) = tokio::time::timeout(PATIENCE, tally.changed()).await {
                moved.expect("the books are open");
                fruitless = 0;
                continue;
            }
            match self.bus.ready(App::NAMES).now_or_never() {
                // Somebody is away. What he has not done is waiting for him.
                None => self.bus.ready(App::NAMES).await?,
                Some(all) => {
                    all?;
                    fruitless += 1;
                    if fruitless > ROUNDS {
                        return Err(ShopError::Stuck { orders: now.placed - now.complete });
                    }
                    self.place_again().await?;
                }
            }
        }
    }

    /// Tells of the open orders again. Without a broker, what a process had told goes with it
    /// when it is killed before the others took it; everybody can hear of an order twice.
    async fn place_again(&self) -> Result<(), ShopError> {
        let open = self.books.open_orders();
        eprintln!("sales: nothing moves; placing {} orders again", open.len());
        for (order, apps) in open {
            for app in apps {
                self.desk.publish(order.clone()).to(app.name()).await?;
            }
        }
        Ok(())
    }

    /// Asks each application for its report, which ends its day.
    async fn send_home(&self) -> Result<(), ShopError> {
        for app in App::STAFF {
            let DayReport { repeats } = self.report_of(app.name()).await?;
            if repeats > 0 {
                eprintln!("{}: {repeats} pieces of work came again", app.name());
            }
        }
        Ok(())
    }

    async fn report_of(&self, app: &'static str) -> Result<DayReport, ShopError> {
        let (pause, times) = ASKING;
        let mut pace = tokio::time::interval(pause);
        let mut asked = 0;
        loop {
            pace.tick().await;
            let ask = self.desk.request(EndDay { day: self.day }).to(app);
            match ask.timeout(Duration::from_secs(5)).await {
                Ok(report) => return Ok(report),
                Err(error) if asked == times => {
                    return Err(ShopError::NoReport { app, error: Box::new(error) });
                }
                // It is just being started again.
                Err(_) => asked += 1,
            }
        }
    }
}

/// Enters all events of one kind into the books.
async fn keep<E: Outcome>(bus: &Bus, desk: &Endpoint, books: &Arc<Books>) -> Result<(), ShopError> {
    let books = books.clone();
    work::<E>(bus, desk, "books")
        .try_for_each(move |outcome| ready(books.enter(&*outcome).map_err(Into::into)))
        .await?;
    Ok(())
}
