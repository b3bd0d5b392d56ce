//! The one place where a transport becomes a `dyn` handle: implementers write plain `async fn`s.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures_core::future::BoxFuture;

use crate::{
    Address, Asks, Capabilities, Changes, Commit, Common, ConnectOptions, Connector, DeadLetter,
    Deliveries, Envelope, Express, GroupDeliveries, GroupKey, GroupSpec, Interest, Letters, Name,
    OutgoingRequest, Peer, Permit, PlainInterest, Reply, ResponderSpec, Route, Status,
    SubscriptionId, Transport, TransportError,
};

type Wait<'a, T> = BoxFuture<'a, Result<T, TransportError>>;

/// A connector of any kind.
pub(crate) trait DynConnector: Send + Sync {
    fn schemes(&self) -> &'static [&'static str];
    fn connect<'a>(
        &'a self,
        address: &'a Address,
        options: ConnectOptions,
    ) -> Wait<'a, TransportHandle>;
}

impl<C: Connector> DynConnector for C {
    fn schemes(&self) -> &'static [&'static str] {
        Connector::schemes(self)
    }

    fn connect<'a>(
        &'a self,
        address: &'a Address,
        options: ConnectOptions,
    ) -> Wait<'a, TransportHandle> {
        Box::pin(async move {
            Ok(TransportHandle::new(Connector::connect(self, address, options).await?))
        })
    }
}

trait DynPermit: Send {
    fn commit(self: Box<Self>, envelope: Envelope) -> Commit;
}

impl<P: Permit> DynPermit for P {
    fn commit(self: Box<Self>, envelope: Envelope) -> Commit {
        Permit::commit(*self, envelope)
    }
}

/// A [`Permit`] of any transport.
pub struct PermitHandle(Box<dyn DynPermit>);

impl PermitHandle {
    /// See [`Permit::commit`].
    pub fn commit(self, envelope: Envelope) -> Commit {
        self.0.commit(envelope)
    }
}

impl fmt::Debug for PermitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PermitHandle")
    }
}

/// Writes the `dyn` trait, its blanket implementation and the handle's methods from one list, so
/// that a verb cannot be forgotten in one of the three.
macro_rules! erase {
    (
        sync { $( $(#[$sync_doc:meta])* fn $sync:ident(&self $(, $sa:ident: $st:ty)*) $(-> $sr:ty)?; )* }
        wait { $( $(#[$wait_doc:meta])* fn $wait:ident(&self $(, $wa:ident: $wt:ty)*) -> $wr:ty; )* }
        group { $( $(#[$group_doc:meta])* fn $group:ident(&self, group $(, $ga:ident: $gt:ty)*) -> $gr:ty; )* }
    ) => {
        trait DynTransport: Send + Sync {
            $( fn $sync(&self $(, $sa: $st)*) $(-> $sr)?; )*
            fn try_reserve(&self, route: &Route) -> Result<PermitHandle, TransportError>;
            fn reserve<'a>(&'a self, route: &'a Route) -> Wait<'a, PermitHandle>;
            $( fn $wait(&self $(, $wa: $wt)*) -> Wait<'_, $wr>; )*
            $( fn $group<'a>(&'a self, group: &'a GroupKey $(, $ga: $gt)*) -> Wait<'a, $gr>; )*
        }

        impl<T: Transport> DynTransport for T {
            $( fn $sync(&self $(, $sa: $st)*) $(-> $sr)? { Transport::$sync(self $(, $sa)*) } )*
            fn try_reserve(&self, route: &Route) -> Result<PermitHandle, TransportError> {
                Transport::try_reserve(self, route).map(|permit| PermitHandle(Box::new(permit)))
            }
            fn reserve<'a>(&'a self, route: &'a Route) -> Wait<'a, PermitHandle> {
                Box::pin(async move {
                    let permit = Transport::reserve(self, route).await?;
                    Ok(PermitHandle(Box::new(permit)))
                })
            }
            $( fn $wait(&self $(, $wa: $wt)*) -> Wait<'_, $wr> {
                Box::pin(Transport::$wait(self $(, $wa)*))
            } )*
            $( fn $group<'a>(&'a self, group: &'a GroupKey $(, $ga: $gt)*) -> Wait<'a, $gr> {
                Box::pin(Transport::$group(self, group $(, $ga)*))
            } )*
        }

        impl TransportHandle {
            $( $(#[$sync_doc])* pub fn $sync(&self $(, $sa: $st)*) $(-> $sr)? { self.0.$sync($($sa),*) } )*
            $( $(#[$wait_doc])* pub fn $wait(&self $(, $wa: $wt)*) -> Wait<'_, $wr> { self.0.$wait($($wa),*) } )*
            $( $(#[$group_doc])* pub fn $group<'a>(&'a self, group: &'a GroupKey $(, $ga: $gt)*) -> Wait<'a, $gr> { self.0.$group(group $(, $ga)*) } )*
        }
    };
}

/// A [`Transport`] of any kind. Clones share it.
#[derive(Clone)]
pub struct TransportHandle(Arc<dyn DynTransport>);

erase! {
    sync {
        /// See [`Transport::capabilities`].
        fn capabilities(&self) -> Capabilities;
        /// See [`Transport::status`].
        fn status(&self) -> Status;
        /// See [`Transport::peers`].
        fn peers(&self) -> Vec<Peer>;
        /// See [`Transport::announce`].
        fn announce(&self, endpoint: Name);
        /// See [`Transport::set_ready`].
        fn set_ready(&self);
        /// See [`Transport::interest`].
        fn interest(&self, route: &Route) -> Interest;
        /// See [`Transport::interest_changes`].
        fn interest_changes(&self) -> Changes;
        /// See [`Transport::responders`].
        fn responders(&self, route: &Route) -> Interest;
        /// See [`Transport::express`].
        fn express(&self, common: Common) -> Option<Arc<dyn Express>>;
    }
    wait {
        /// See [`Transport::subscribe`].
        fn subscribe(&self, interest: PlainInterest) -> Deliveries;
        /// See [`Transport::update`].
        fn update(&self, id: SubscriptionId, endpoints: BTreeSet<Name>) -> ();
        /// See [`Transport::join`].
        fn join(&self, spec: GroupSpec) -> GroupDeliveries;
        /// See [`Transport::respond`].
        fn respond(&self, spec: ResponderSpec) -> Asks;
        /// See [`Transport::request`].
        fn request(&self, request: OutgoingRequest) -> Reply;
        /// See [`Transport::flush`].
        fn flush(&self, deadline: Instant) -> ();
        /// See [`Transport::leave`].
        fn leave(&self) -> ();
        /// See [`Transport::close`].
        fn close(&self, deadline: Instant) -> ();
    }
    group {
        /// See [`Transport::dead_letters`].
        fn dead_letters(&self, group) -> Vec<DeadLetter>;
        /// See [`Transport::replay`].
        fn replay(&self, group, which: Letters) -> usize;
        /// See [`Transport::purge`].
        fn purge(&self, group, which: Letters) -> usize;
        /// See [`Transport::remove_group`].
        fn remove_group(&self, group, force: bool) -> ();
    }
}

impl TransportHandle {
    /// Erases a transport.
    pub fn new(transport: impl Transport) -> Self {
        Self(Arc::new(transport))
    }

    /// See [`Transport::try_reserve`].
    ///
    /// # Errors
    /// As there.
    pub fn try_reserve(&self, route: &Route) -> Result<PermitHandle, TransportError> {
        self.0.try_reserve(route)
    }

    /// See [`Transport::reserve`].
    pub fn reserve<'a>(&'a self, route: &'a Route) -> Wait<'a, PermitHandle> {
        self.0.reserve(route)
    }
}

impl fmt::Debug for TransportHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransportHandle").field(&self.0.capabilities().transport).finish()
    }
}
