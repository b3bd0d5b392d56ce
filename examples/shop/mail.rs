//! Mail: writes to each customer twice, about the order and about the warranty.

use std::sync::Arc;

use busway::{Bus, Endpoint, HandlerError};

use crate::app::{App, Closing, Done, work};
use crate::error::ShopError;
use crate::events::{Letter, MailSent, OrderId, OrderPlaced, WarrantyRegistered};

struct Mail {
    desk: Endpoint,
    done: Arc<Done<(OrderId, Letter)>>,
}

pub(crate) async fn open(bus: &Bus) -> Result<Closing, ShopError> {
    let desk = bus.endpoint(App::Mail.name())?;
    let done = Done::new();
    let closing = Closing::open(&desk, done.clone()).await?;
    let app = Arc::new(Mail { desk, done });
    work::<OrderPlaced>(bus, &app.desk, "letters")
        .try_for_each({
            let app = app.clone();
            move |order| {
                let app = app.clone();
                async move {
                    let text =
                        format!("Dear {}, your {} is coming.", order.customer, order.product);
                    app.send(order.id, Letter::Confirmation, &order.email, &text).await
                }
            }
        })
        .await?;
    work::<WarrantyRegistered>(bus, &app.desk, "letters")
        .try_for_each({
            let app = app.clone();
            move |registered| {
                let app = app.clone();
                async move {
                    let text = format!("Keep this: your serial number is {}.", registered.serial);
                    app.send(registered.order, Letter::Warranty, &registered.email, &text).await
                }
            }
        })
        .await?;
    Ok(closing)
}

impl Mail {
    async fn send(
        &self,
        order: OrderId,
        letter: Letter,
        to: &str,
        text: &str,
    ) -> Result<(), HandlerError> {
        if self.done.is_first((order, letter)) {
            // This is where a mail server would be talked to.
            std::hint::black_box(format!("To: {to}\r\nSubject: {order}\r\n\r\n{text}\r\n"));
        }
        self.desk.publish(MailSent { order, letter }).await?;
        Ok(())
    }
}
