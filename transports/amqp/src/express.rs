//! The short way of a publish: for the events of one publisher on one topic, which differ in nothing
//! but id, time, number and payload. No more of each is kept until it is confirmed.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use busway_transport::{
    Common, Confirms, Envelope, Express, MessageId, Payload, Plain, Receipt, Stamp, TransportError,
};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;

use crate::flight::Cargo;
use crate::properties::{self, Table};
use crate::publish::Publisher;
use crate::topology::Topology;

/// Payloads up to this are copied: cheaper than to give away the memory they were encoded in.
const SMALL: usize = 16 * 1024;

/// What the events of one publisher have in common.
#[derive(Debug)]
pub(crate) struct Form {
    common: Common,
    confirms: Arc<dyn Confirms>,
    exchange: ShortString,
    key: ShortString,
    properties: BasicProperties,
    /// Ours, that are the same in all.
    peer: String,
}

impl Form {
    fn new(topology: &Topology, common: Common) -> Option<Self> {
        let confirms = common.confirms.clone()?;
        let key = topology.key(&common.topic, None).ok()?;
        let (id, payload) = (
            MessageId::from_bytes([0; 16]),
            Payload::encoded(common.content_type.clone(), Bytes::new()),
        );
        let mut envelope = Envelope::new(id, common.topic.clone(), common.source.clone(), payload);
        envelope.version = common.version;
        let (properties, _, _) = properties::encode(envelope).ok()?;
        let peer = common.source.peer.to_string();
        Some(Self { confirms, exchange: topology.events.clone(), key, properties, peer, common })
    }

    /// What its events are called in errors.
    pub(crate) fn what(&self) -> &str {
        self.common.topic.as_str()
    }
}

/// One event that goes the short way.
pub(crate) struct Short {
    pub(crate) id: MessageId,
    time: SystemTime,
    sequence: u64,
    payload: Bytes,
    here: usize,
    pub(crate) form: Arc<Form>,
}

impl Short {
    /// It has ended.
    pub(crate) fn ended(&self, outcome: Result<Receipt, TransportError>) {
        self.form.confirms.ended(self.id, self.here, outcome);
    }

    /// As a message: the same that the long way makes.
    pub(crate) fn cargo(&self) -> Cargo {
        let form = &self.form;
        let mut table = Table::default();
        properties::ours(&mut table, &form.peer, form.common.version, Some(self.sequence));
        let properties = form.properties.clone().with_message_id(properties::message_id(self.id));
        Cargo {
            exchange: form.exchange.clone(),
            key: form.key.clone(),
            mandatory: false,
            properties: properties::timed(properties, &mut table, self.time)
                .with_headers(table.done()),
            payload: self.payload.clone(),
        }
    }
}

/// One publisher's short way on one topic.
pub(crate) struct AmqpExpress {
    publisher: Publisher,
    form: Arc<Form>,
}

impl AmqpExpress {
    /// Not without somebody who hears of failures.
    pub(crate) fn new(publisher: &Publisher, topology: &Topology, common: Common) -> Option<Self> {
        let form = Arc::new(Form::new(topology, common)?);
        Some(Self { publisher: publisher.clone(), form })
    }
}

impl Express for AmqpExpress {
    fn is_open(&self) -> bool {
        true
    }

    fn try_send(
        &self,
        event: Plain<'_>,
        stamp: &mut dyn FnMut() -> Option<Stamp>,
    ) -> Option<usize> {
        let Plain { id, since_1970, payload, receipt, .. } = event;
        // What is wrong is told by the long way.
        let slot = self.publisher.try_reserve().ok().flatten()?;
        let Stamp { sequence, here, .. } = stamp()?;
        let payload = match payload.len() <= SMALL {
            true => Bytes::copy_from_slice(payload),
            false => std::mem::take(payload).into(),
        };
        self.form.confirms.taken();
        let form = self.form.clone();
        let time = UNIX_EPOCH + since_1970;
        slot.commit_short(Short { id, time, sequence, payload, here, form });
        // The broker tells nothing of who takes it.
        if let Some(receipt) = receipt {
            *receipt = Some(Receipt::unknown());
        }
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use busway_transport::{ContentType, Name, PeerId, Source, Topic};

    use super::*;
    use crate::address::Settings;

    #[derive(Debug)]
    struct Nobody;

    impl Confirms for Nobody {
        fn taken(&self) {}
        fn ended(&self, _: MessageId, _: usize, _: Result<Receipt, TransportError>) {}
    }

    #[test]
    fn both_ways_make_the_same_message() {
        let topology =
            Topology::new(&Settings::parse(&"amqp://h?bus=b".parse().unwrap()).unwrap()).unwrap();
        let source = Source { endpoint: Name::new("sales").unwrap(), peer: PeerId::from_u64(7) };
        let topic = Topic::new("shop.order").unwrap();
        for version in [1, 3] {
            let common =
                Common::new(topic.clone(), version, source.clone(), ContentType::MESSAGE_PACK);
            let form = Form::new(&topology, common.with_confirms(Arc::new(Nobody))).unwrap();
            let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
            let (id, payload) = (MessageId::new(), Bytes::from_static(b"{}"));
            let short = Short {
                id,
                time,
                sequence: 41,
                payload: payload.clone(),
                here: 0,
                form: Arc::new(form),
            };
            let cargo = short.cargo();

            let encoded = Payload::encoded(ContentType::MESSAGE_PACK, payload.clone());
            let mut envelope = Envelope::new(id, topic.clone(), source.clone(), encoded);
            (envelope.version, envelope.sequence, envelope.time) = (version, Some(41), Some(time));
            let (properties, table, bytes) = properties::encode(envelope).unwrap();
            assert_eq!(cargo.properties, properties.with_headers(table.done()));
            assert_eq!((cargo.payload, cargo.key), (bytes, topology.key(&topic, None).unwrap()));
            assert_eq!((cargo.exchange, cargo.mandatory), (topology.events.clone(), false));
        }
    }
}
