//! Waking a task by way of the operating system.
//!
//! Two tasks that take turns should stay on one thread. But tokio takes a thread on which tasks wake
//! each other for one with much to do: from the fourth in a row on, and for each that gives way, it
//! wakes another thread, which takes one of the two to another processor. What the system wakes runs on
//! the thread that looks there first because it has nothing else to do, and that is this one.

use std::future::Future;
use std::pin::Pin;

#[cfg(not(unix))]
use none::Socket;
#[cfg(unix)]
use socket::Socket;

#[cfg(unix)]
mod socket;

/// A bell, for one who waits at a time.
#[derive(Default)]
pub(crate) struct Bell {
    /// Made when it is first needed (two file descriptors). Absent where the system has none, or no more:
    /// then it goes by the runtime alone.
    socket: Option<Option<Socket>>,
}

impl Bell {
    /// Waits for something that others bring about, on this thread as a rule.
    ///
    /// # Cancel safety
    /// Safe, as far as what it waits for is.
    pub(crate) async fn wait(&mut self, what: Pin<&mut (impl Future<Output = ()> + Send)>) {
        match self.socket() {
            Some(socket) => socket.wait(what).await,
            None => what.await,
        }
    }

    /// Lets the others on this thread go first.
    pub(crate) async fn give_way(&mut self) {
        match self.socket() {
            Some(socket) => socket.give_way().await,
            None => tokio::task::yield_now().await,
        }
    }

    fn socket(&mut self) -> Option<&mut Socket> {
        self.socket.get_or_insert_with(Socket::new).as_mut()
    }
}

#[cfg(not(unix))]
mod none {
    use super::{Future, Pin};

    pub(super) enum Socket {}

    impl Socket {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) async fn wait(&mut self, _: Pin<&mut (impl Future<Output = ()> + Send)>) {
            match *self {}
        }

        pub(super) async fn give_way(&mut self) {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_was_waited_for_is_heard_of() {
        let mut bell = Bell::default();
        for _ in 0..3 {
            let (tell, told) = oneshot::channel();
            tokio::spawn(async move { tell.send(()) });
            bell.wait(pin!(async { told.await.unwrap() })).await;
        }
        // It was there already.
        bell.wait(pin!(async {})).await;
    }

    #[tokio::test]
    async fn it_is_heard_again_after_a_wait_was_given_up() {
        let mut bell = Bell::default();
        let (tell, told) = oneshot::channel();
        let mut told = pin!(async { told.await.unwrap() });
        assert!(timeout(Duration::from_millis(1), bell.wait(told.as_mut())).await.is_err());
        tokio::spawn(async move { tell.send(()) });
        bell.wait(told).await;
        bell.give_way().await;
    }

    #[tokio::test]
    async fn others_go_first() {
        let said = Arc::new(Mutex::new(String::new()));
        let mut bell = Bell::default();
        for _ in 0..3 {
            let other = said.clone();
            tokio::spawn(async move { other.lock().unwrap().push('a') });
            bell.give_way().await;
            said.lock().unwrap().push('b');
        }
        assert_eq!(*said.lock().unwrap(), "ababab");
    }
}
