//! Support: rings each customer, lets him read out the serial number, and asks warranty about it.

use std::sync::Arc;

use busway::{Bus, Endpoint, HandlerError, RequestError};

use crate::app::{App, Closing, Done, work};
use crate::error::ShopError;
use crate::events::{CheckWarranty, OrderId, WarrantyChecked, WarrantyRegistered};

struct Support {
    desk: Endpoint,
    done: Arc<Done<OrderId>>,
}

pub(crate) async fn open(bus: &Bus) -> Result<Closing, ShopError> {
    let desk = bus.endpoint(App::Support.name())?;
    let done = Done::new();
    let closing = Closing::open(&desk, done.clone()).await?;
    let app = Arc::new(Support { desk, done });
    work::<WarrantyRegistered>(bus, &app.desk, "calls")
        .try_for_each({
            let app = app.clone();
            move |registered| {
                let app = app.clone();
                async move { app.check(&registered).await }
            }
        })
        .await?;
    Ok(closing)
}

impl Support {
    async fn check(&self, registered: &WarrantyRegistered) -> Result<(), HandlerError> {
        self.done.is_first(registered.order);
        let serial = read_out(registered);
        let answer = match self.desk.request(CheckWarranty { serial }).await {
            Ok(warranty) => Ok(warranty),
            // "No" is an answer too, and the same the next time …
            Err(RequestError::Refused(reason)) => Err(reason),
            // … but nobody there, or too late, is worth another attempt.
            Err(error) => return Err(error.into()),
        };
        self.desk.publish(WarrantyChecked { order: registered.order, answer }).await?;
        Ok(())
    }
}

/// The serial number as the customer reads it out: one in forty takes a zero for the letter O.
fn read_out(registered: &WarrantyRegistered) -> String {
    let serial = &registered.serial;
    if registered.order.number.is_multiple_of(40) {
        serial.replacen('0', "O", 1)
    } else {
        serial.clone()
    }
}
