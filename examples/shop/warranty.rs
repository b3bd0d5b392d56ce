//! Warranty: registers the serial number of each product sold, and answers for it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use busway::{Bus, Endpoint, HandlerError};

use crate::app::{App, Closing, Done, locked, work};
use crate::error::ShopError;
use crate::events::{
    CheckWarranty, OrderId, OrderPlaced, Warranty, WarrantyError, WarrantyRegistered,
};
use crate::journal::Journal;

struct Desk {
    desk: Endpoint,
    /// The product of each serial number.
    register: Mutex<HashMap<String, String>>,
    journal: Option<Journal>,
    done: Arc<Done<OrderId>>,
}

pub(crate) async fn open(bus: &Bus, state: Option<&Path>) -> Result<Closing, ShopError> {
    let (journal, register) = match state {
        Some(dir) => {
            let (journal, known) = Journal::open::<(String, String)>(dir, "warranty")?;
            (Some(journal), HashMap::from_iter(known))
        }
        None => (None, HashMap::new()),
    };
    let desk = bus.endpoint(App::Warranty.name())?;
    let done = Done::new();
    let closing = Closing::open(&desk, done.clone()).await?;
    let app = Arc::new(Desk { desk, register: Mutex::new(register), journal, done });
    app.desk
        .respond::<CheckWarranty>()
        .with({
            let app = app.clone();
            move |ask| std::future::ready(app.check(&ask.serial))
        })
        .await?;
    work::<OrderPlaced>(bus, &app.desk, "register")
        .try_for_each({
            let app = app.clone();
            move |order| {
                let app = app.clone();
                async move { app.register(&order).await }
            }
        })
        .await?;
    Ok(closing)
}

impl Desk {
    async fn register(&self, order: &OrderPlaced) -> Result<(), HandlerError> {
        if self.done.is_first(order.id) {
            if let Some(journal) = &self.journal {
                journal.write(&(&order.serial, &order.product))?;
            }
            locked(&self.register).insert(order.serial.clone(), order.product.clone());
        }
        // Only now: whoever hears this may ask at once.
        let (serial, email) = (order.serial.clone(), order.email.clone());
        self.desk.publish(WarrantyRegistered { order: order.id, serial, email }).await?;
        Ok(())
    }

    fn check(&self, serial: &str) -> Result<Warranty, WarrantyError> {
        let register = locked(&self.register);
        let product = register
            .get(serial)
            .ok_or_else(|| WarrantyError::UnknownSerial { serial: serial.to_owned() })?;
        cover(product).ok_or_else(|| WarrantyError::SoldWithout { product: product.clone() })
    }
}

fn cover(product: &str) -> Option<Warranty> {
    match product {
        refurbished if refurbished.ends_with("(refurbished)") => None,
        with_motor if with_motor.starts_with("AC-") || with_motor.starts_with("PW-") => {
            Some(Warranty { months: 36 })
        }
        _ => Some(Warranty { months: 24 }),
    }
}
