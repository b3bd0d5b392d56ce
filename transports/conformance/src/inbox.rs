//! What cases receive with: a stream that keeps the books, a tray for handlers, a gate to hold
//! handlers up, and polls that are dropped.

use std::future::Future;
use std::sync::Arc;

use busway::{Event, EventStream, Gap, Message};
use futures::FutureExt;
use tokio::sync::{Mutex, mpsc, watch};

use crate::books::Books;
use crate::verdict::Failed;

/// An event stream that keeps the books.
pub(crate) struct Inbox<E: Event> {
    stream: EventStream<E>,
    books: Books,
}

impl<E: Event> Inbox<E> {
    pub(crate) fn new(stream: EventStream<E>, books: Books) -> Self {
        Self { stream, books }
    }

    /// The next step of the stream.
    pub(crate) async fn item(&mut self) -> Option<Result<Message<E>, Gap>> {
        let item = self.stream.next().await;
        match &item {
            Some(Ok(message)) => self.books.seen(message.id()),
            Some(Err(gap)) => self.books.gap(gap),
            None => {}
        }
        item
    }

    /// The next event, which must stand there.
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Result<Message<E>, Failed>> {
        let wrong = Failed::new("");
        self.item().map(move |item| match item {
            Some(Ok(message)) => Ok(message),
            Some(Err(gap)) => {
                Err(wrong.because(format!("an event was expected, not a gap: {gap}")))
            }
            None => Err(wrong.because("an event was expected, not the stream's end")),
        })
    }

    /// The next gap, which must stand there.
    #[track_caller]
    pub(crate) fn gap(&mut self) -> impl Future<Output = Result<Gap, Failed>> {
        let wrong = Failed::new("");
        self.item().map(move |item| match item {
            Some(Err(gap)) => Ok(gap),
            Some(Ok(message)) => {
                Err(wrong.because(format!("a gap was expected, not {}", message.topic())))
            }
            None => Err(wrong.because("a gap was expected, not the stream's end")),
        })
    }

    /// The stream's account so far.
    pub(crate) fn ledger(&self) -> busway::Ledger {
        self.stream.ledger()
    }
}

impl<E: Event> Drop for Inbox<E> {
    fn drop(&mut self) {
        // What was not read is taken out, so that the account can be looked at in rest; what
        // arrives meanwhile is taken out in the next round. One look: what arrives behind it
        // is not this account's.
        let mut ledger = self.ledger();
        for _ in 0..1000 {
            while let Some(Some(_)) = tokio::task::unconstrained(self.item()).now_or_never() {}
            ledger = self.ledger();
            if ledger.in_flight == 0 {
                break;
            }
        }
        self.books.at_rest(&format!("the stream of {}", E::SCHEMA.topic), ledger);
    }
}

/// Where handlers put what they got, and cases take it from. Clones are the same tray.
pub(crate) struct Tray<T> {
    put: mpsc::UnboundedSender<T>,
    take: Arc<Mutex<mpsc::UnboundedReceiver<T>>>,
}

impl<T> Clone for Tray<T> {
    fn clone(&self) -> Self {
        Self { put: self.put.clone(), take: self.take.clone() }
    }
}

impl<T: Send + 'static> Tray<T> {
    pub(crate) fn new() -> Self {
        let (put, take) = mpsc::unbounded_channel();
        Self { put, take: Arc::new(Mutex::new(take)) }
    }

    pub(crate) fn put(&self, value: T) {
        // The tray itself holds the other end.
        let _ = self.put.send(value);
    }

    /// Waits for the next one; the watchdog sees to it that this ends.
    pub(crate) async fn take(&self) -> T {
        match self.take.lock().await.recv().await {
            Some(value) => value,
            None => unreachable!("the tray holds a sender"),
        }
    }

    /// Waits for so many.
    pub(crate) async fn take_many(&self, count: usize) -> Vec<T> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.push(self.take().await);
        }
        all
    }

    /// What is there now.
    pub(crate) async fn rest(&self) -> Vec<T> {
        let mut rest = Vec::new();
        let mut take = self.take.lock().await;
        while let Ok(value) = take.try_recv() {
            rest.push(value);
        }
        rest
    }
}

impl<E: Event> Tray<Message<E>> {
    /// A handler that puts each message here, and keeps the books.
    pub(crate) fn handler(
        &self,
        books: &Books,
    ) -> impl Fn(Message<E>) -> std::future::Ready<()> + Send + Sync + 'static {
        let (tray, books) = (self.clone(), books.clone());
        move |message| {
            books.seen(message.id());
            tray.put(message);
            std::future::ready(())
        }
    }
}

/// What handlers wait for. A gate that is dropped is open. Clones are the same gate.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open; holds no clone of it.
    pub(crate) fn pass(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut open = self.0.subscribe();
        async move {
            // An error says that the gate is gone.
            let _ = open.wait_for(|open| *open).await;
        }
    }
}

/// Polls a future once, which must not be ready then.
#[track_caller]
pub(crate) fn start<F: Future + Unpin>(future: &mut F) -> Result<(), Failed> {
    match future.now_or_never() {
        None => Ok(()),
        Some(_) => Err(Failed::new("a future was ready at once that had to wait")),
    }
}

/// Drives a future that must not be ready yet until something else is: one poll alone need not
/// have sent what it sends.
pub(crate) async fn meanwhile<T>(
    waiting: &mut (impl Future + Unpin),
    other: impl Future<Output = T>,
) -> Result<T, Failed> {
    tokio::select! {
        biased;
        value = other => Ok(value),
        _ = waiting => Err(Failed::new("a future was ready that had to wait")),
    }
}

/// Waits for what nothing tells of, such as a counter; the watchdog sees to it that this ends.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}
