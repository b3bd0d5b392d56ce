//! Spare parts: reserves the parts of each order, once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use busway::{Bus, Endpoint, HandlerError};

use crate::app::{App, Closing, Done, locked, work};
use crate::error::ShopError;
use crate::events::{OrderId, OrderPlaced, PartsReserved};

struct SpareParts {
    desk: Endpoint,
    /// How many pieces of each part were taken from the shelves.
    taken: Mutex<BTreeMap<String, u32>>,
    done: Arc<Done<OrderId>>,
}

pub(crate) async fn open(bus: &Bus) -> Result<Closing, ShopError> {
    let desk = bus.endpoint(App::SpareParts.name())?;
    let done = Done::new();
    let closing = Closing::open(&desk, done.clone()).await?;
    let app = Arc::new(SpareParts { desk, taken: Mutex::default(), done });
    work::<OrderPlaced>(bus, &app.desk, "stock")
        .try_for_each({
            let app = app.clone();
            move |order| {
                let app = app.clone();
                async move { app.reserve(&order).await }
            }
        })
        .await?;
    Ok(closing)
}

impl SpareParts {
    async fn reserve(&self, order: &OrderPlaced) -> Result<(), HandlerError> {
        // The parts are taken once; but that they were is said each time, because an order that
        // arrives again may be one whose outcome got lost.
        if self.done.is_first(order.id) {
            let mut taken = locked(&self.taken);
            for part in &order.parts {
                *taken.entry(part.name.clone()).or_default() += part.quantity;
            }
        }
        self.desk.publish(PartsReserved { order: order.id, parts: order.parts.clone() }).await?;
        Ok(())
    }
}
