use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use busway_transport::{
    Common, ContentType, DeadLetter, DeadReason, Envelope, Failure, FailureKind, GroupKey,
    GroupSpec, Headers, MessageId, Name, Outcome, Payload, PeerId, PlainInterest, Reply, Retry,
    Source, SubscriptionId, Topic, TopicFilter,
};
use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::control::{Introduction, Welcome, WireGroup};
use super::envelope::Encoded;
use super::event::{Event, EventFrames};
use super::frame::decode;
use super::origins::Origins;
use super::*;

fn join(out: &Out) -> BytesMut {
    let mut bytes = BytesMut::new();
    for part in [&out.head, &out.shared, &out.payload] {
        bytes.put_slice(part);
    }
    bytes
}

/// Through the decoder, in pieces as a socket may cut them.
fn through(out: &Out, cut: usize) -> Frame {
    let bytes = join(out);
    let mut decoder = Decoder::new();
    decoder.trust();
    let cut = cut % bytes.len();
    decoder.buffer.put_slice(&bytes[..cut]);
    assert!(decoder.next().unwrap().is_none());
    decoder.buffer.put_slice(&bytes[cut..]);
    let frame = decoder.next().unwrap().unwrap();
    assert!(decoder.buffer.is_empty());
    frame
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9_-]{1,64}".prop_map(|text| Name::new(&text).unwrap())
}

fn topic() -> impl Strategy<Value = Topic> {
    "[a-z0-9_-]{1,20}(\\.[a-z0-9_-]{1,20}){0,4}".prop_map(|text| Topic::new(&text).unwrap())
}

fn payload() -> impl Strategy<Value = Payload> {
    let content_type = prop_oneof![
        Just(ContentType::MESSAGE_PACK),
        Just(ContentType::JSON),
        Just(ContentType::BINCODE),
        "[ -~]{0,300}".prop_map(ContentType::new),
    ];
    (content_type, proptest::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(content_type, bytes)| Payload::encoded(content_type, bytes))
}

prop_compose! {
    fn envelope()(
        id in any::<[u8; 16]>(),
        topic in topic(),
        endpoint in name(),
        peer in any::<u64>(),
        version in prop_oneof![Just(1), any::<u32>()],
        sequence in any::<Option<u64>>(),
        to in proptest::option::of(name()),
        time in proptest::option::of((0..1u64 << 40, 0..1_000_000_000u32)),
        headers in proptest::collection::btree_map(".{0,40}", ".{0,300}", 0..4),
        payload in payload(),
    ) -> Envelope {
        let source = Source { endpoint, peer: PeerId::from_u64(peer) };
        let mut envelope = Envelope::new(MessageId::from_bytes(id), topic, source, payload);
        envelope.version = version;
        envelope.sequence = sequence;
        envelope.to = to;
        envelope.time = time.map(|(seconds, nanos)| UNIX_EPOCH + Duration::new(seconds, nanos));
        envelope.headers = headers.into_iter().collect::<Headers>();
        envelope
    }
}

/// Envelopes have no `PartialEq`; their `Debug` shows everything.
fn same(one: &impl std::fmt::Debug, other: &impl std::fmt::Debug) {
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

proptest! {
    #[test]
    fn events_come_back_as_they_went(
        envelope in envelope(),
        ids in proptest::collection::vec(any::<u64>(), 0..5),
        cut in any::<usize>(),
    ) {
        let out = Out::event(&ids, &Encoded::new(&envelope).unwrap());
        let Frame::Event { interests, envelope: back } = through(&out, cut) else { panic!() };
        assert_eq!(&interests[..], ids);
        same(&back, &envelope);
    }

    #[test]
    fn frames_that_are_put_together_once_are_those_of_envelopes(
        mut envelope in envelope(),
        ids in proptest::collection::vec(any::<u64>(), 0..5),
        sequence in any::<u64>(),
        time in (0..1u64 << 40, 0..1_000_000_000u32),
    ) {
        envelope.sequence = Some(sequence);
        let time = UNIX_EPOCH + Duration::new(time.0, time.1);
        envelope.time = Some(time);
        envelope.to = None;
        envelope.headers = Headers::new();
        let Payload::Encoded { content_type, bytes } = envelope.payload.clone() else { panic!() };
        let source = envelope.source.clone();
        let common = Common::new(envelope.topic.clone(), envelope.version, source, content_type);
        let mut frame = BytesMut::new();
        let event = Event { id: envelope.id, sequence, time, length: bytes.len() };
        EventFrames::of(&common).put(&mut frame, &ids, event);
        frame.put_slice(&bytes);
        assert_eq!(frame, join(&Out::event(&ids, &Encoded::new(&envelope).unwrap())));
    }

    #[test]
    fn what_came_before_changes_nothing(
        envelopes in proptest::collection::vec(envelope(), 1..40),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut decoder = Decoder::new();
        decoder.trust();
        for envelope in again.iter().map(|again| again.get(&envelopes)) {
            let out = Out::event(&[1], &Encoded::new(envelope).unwrap());
            decoder.buffer.put_slice(&join(&out));
            let Some(Frame::Event { envelope: back, .. }) = decoder.next().unwrap() else { panic!() };
            same(&back, envelope);
        }
    }

    #[test]
    fn work_requests_and_answers_come_back_as_they_went(
        envelope in envelope(),
        (one, two, three) in any::<(u64, u64, u32)>(),
        value in payload(),
        cut in any::<usize>(),
    ) {
        let encoded = Encoded::new(&envelope).unwrap();
        for key in [None, Some(0), Some(two)] {
            let sent = Work { member: one, tag: two, attempt: three, key };
            let Frame::Deliver { work, envelope: back } =
                through(&Out::deliver(&sent, &encoded), cut) else { panic!() };
            assert_eq!(work, sent);
            same(&back, &envelope);
        }

        let Frame::Ask { request, responder, remaining_ms, envelope: back } =
            through(&Out::ask(one, two, 77, &encoded), cut) else { panic!() };
        assert_eq!((request, responder, remaining_ms), (one, two, 77));
        same(&back, &envelope);

        for answer in [
            Answer::Reply(Reply::Response(value.clone())),
            Answer::Reply(Reply::Refused(value.clone())),
            Answer::Reply(Reply::Failed { kind: FailureKind::Panicked, text: "oh".into() }),
            Answer::Gone,
        ] {
            let out = Out::reply(one, &answer).unwrap();
            let Frame::Reply { request, answer: back } = through(&out, cut) else { panic!() };
            assert_eq!(request, one);
            same(&back, &answer);
        }

        let group = GroupKey {
            endpoint: envelope.source.endpoint.clone(),
            group: envelope.source.endpoint.clone(),
            topic: envelope.topic.clone(),
        };
        let mut letter =
            DeadLetter::new(group, envelope, three, Failure::new(DeadReason::Lost, "gone"));
        letter.last_attempt = Some(std::time::UNIX_EPOCH + Duration::from_millis(one % (1 << 40)));
        let out = Out::dead_letter(&letter).unwrap();
        let Frame::DeadLetter(back) = through(&out, cut) else { panic!() };
        same(&back, &letter);
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(Bytes::from(bytes.clone()), &mut Origins::default());
        let mut decoder = Decoder::new();
        decoder.buffer.put_slice(&bytes);
        while let Ok(Some(_)) = decoder.next() {}
        assert!(decoder.buffer.capacity() <= MAX_HELLO + 4 + 2 * bytes.len());
    }

    #[test]
    fn broken_frames_are_an_error_and_never_a_panic(
        envelope in envelope(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let out = Out::event(&[1, 2], &Encoded::new(&envelope).unwrap());
        let mut bytes = join(&out).split_off(4);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let cut = cut.index(bytes.len());
        let _ = decode(bytes.clone().freeze(), &mut Origins::default());
        let _ = decode(bytes.split_to(cut).freeze(), &mut Origins::default());
    }
}

#[test]
fn control_frames_come_back_as_they_went() {
    let interest = PlainInterest::new(
        SubscriptionId(7),
        TopicFilter::new("a.#").unwrap(),
        BTreeSet::from([Name::new("mail").unwrap()]),
        12,
    );
    let mut spec = GroupSpec::new(GroupKey {
        endpoint: Name::new("billing").unwrap(),
        group: Name::new("invoicing").unwrap(),
        topic: Topic::new("a.b").unwrap(),
    });
    spec.concurrency = 3;
    for control in [
        Control::Table {
            serial: 1,
            table: Table {
                changes: vec![
                    Change::Endpoint("mail".into()),
                    Change::interest(&interest),
                    Change::Join { member: 4, spec: (&spec).into() },
                ],
            },
        },
        Control::Change { serial: 2, change: Change::Withdraw { id: 7 } },
        Control::Ack { serial: 2 },
        Control::Credit { interest: 7, events: 3 },
        Control::Settle {
            member: 4,
            tag: 9,
            outcome: (&Outcome::Failed(Failure::new(DeadReason::Panic, "x"))).into(),
        },
        Control::Goodbye,
    ] {
        let Frame::Control(back) = through(&Out::control(&control), 3) else { panic!() };
        assert_eq!(back, control);
    }
}

#[test]
fn retries_do_on_the_other_side_what_they_did_here() {
    let second = Duration::from_secs(1);
    for retry in [
        Retry::default(),
        Retry::none(),
        Retry::fixed(second).attempts(9),
        Retry::exponential(second, 5 * second).attempts(u32::MAX),
        Retry::exponential(Duration::from_nanos(1), Duration::from_secs(1 << 30)).attempts(40),
        Retry::exponential(5 * second, second),
        Retry::exponential(Duration::ZERO, second),
    ] {
        let mut spec = GroupSpec::new(GroupKey {
            endpoint: Name::new("a").unwrap(),
            group: Name::new("b").unwrap(),
            topic: Topic::new("c").unwrap(),
        });
        spec.retry = retry;
        let back = GroupSpec::try_from(&WireGroup::from(&spec)).unwrap().retry;
        assert_eq!(back.max_attempts(), retry.max_attempts());
        for attempt in (1..60).chain([1000, u32::MAX - 1, u32::MAX]) {
            assert_eq!(back.after(attempt), retry.after(attempt), "{retry:?} after {attempt}");
        }
    }
}

#[test]
fn hellos_of_others_are_told_apart() {
    let me = Introduction { bus: "shop".into(), peer: 1, pid: 2 };
    let Frame::Hello(back) = through(&Out::hello(&me), 1) else { panic!() };
    assert_eq!(back, me);
    let Frame::Welcome(back) = through(&Out::welcome(&Welcome::Duplicate), 1) else { panic!() };
    assert_eq!(back, Welcome::Duplicate);

    let mut newer = join(&Out::hello(&me)).split_off(4);
    newer[5] = 2;
    assert_eq!(
        decode(newer.freeze(), &mut Origins::default()).unwrap_err(),
        WireError::Version { found: 2 }
    );
    let mut other = join(&Out::hello(&me)).split_off(4);
    other[1] = b'X';
    assert_eq!(decode(other.freeze(), &mut Origins::default()).unwrap_err(), WireError::Magic);
}

#[test]
fn long_frames_are_refused_before_they_are_read() {
    let mut decoder = Decoder::new();
    decoder.buffer.put_u32_le(MAX_HELLO as u32 + 1);
    assert!(matches!(decoder.next(), Err(WireError::TooLong { .. })));
    let mut decoder = Decoder::new();
    decoder.trust();
    decoder.buffer.put_u32_le(MAX_FRAME as u32 + 1);
    assert!(matches!(decoder.next(), Err(WireError::TooLong { .. })));
}
