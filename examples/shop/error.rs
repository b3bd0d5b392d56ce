//! What ends a day early.

use std::path::PathBuf;

/// Why the shop, or this process's part of it, had to stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShopError {
    #[error(transparent)]
    Open(#[from] busway::OpenError),
    #[error(transparent)]
    Name(#[from] busway::NameError),
    #[error(transparent)]
    Subscribe(#[from] busway::SubscribeError),
    #[error(transparent)]
    Ready(#[from] busway::ReadyError),
    #[error(transparent)]
    Publish(#[from] busway::PublishError),
    #[error(transparent)]
    Flush(#[from] busway::FlushError),
    #[error(transparent)]
    Close(#[from] busway::CloseError),
    #[error("the journal: {0}")]
    Journal(#[from] std::io::Error),
    #[error("{}: {error}", path.display())]
    Orders { path: PathBuf, error: csv::Error },
    #[error("{}: not an order file: its first line should be {columns}", path.display())]
    NotOrders { path: PathBuf, columns: String },
    #[error("all applications are there, but nothing moves: {orders} orders are not done")]
    Stuck { orders: usize },
    #[error("{app} did not report the end of the day: {error}")]
    NoReport { app: &'static str, error: Box<busway::RequestError<busway::Refused>> },
    #[error("sales left before the day was over, and did not come back: {0}")]
    SalesLeft(busway::ReadyError),
}
