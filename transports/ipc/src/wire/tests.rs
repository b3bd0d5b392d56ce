use std::time::{Duration, UNIX_EPOCH};

use busway_transport::{
    Common, ContentType, DeadLetter, DeadReason, Envelope, Failure, FailureKind, GroupKey,
    GroupSpec, Headers, MessageId, Name, Outcome, Payload, PeerId, PlainInterest, Reply, Retry,
    Run as _, Source, SubscriptionId, Topic, TopicFilter,
};
use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::control::{Introduction, Welcome, WireGroup};
use super::envelope::Encoded;
use super::event::{Event, EventFrames, Head, Last};
use super::origins::Origins;
use super::run::Kinds;
use super::*;

mod series;

fn decode(bytes: Bytes) -> Result<Frame, WireError> {
    frame::decode(bytes, &mut Origins::default(), &mut Kinds::default())
}

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
    decoder.trust(MAX_PAYLOAD);
    let cut = cut % bytes.len();
    decoder.buffer.put_slice(&bytes[..cut]);
    assert!(decoder.next().unwrap().is_none());
    decoder.buffer.put_slice(&bytes[cut..]);
    let frame = decoder.next().unwrap().unwrap();
    assert!(decoder.buffer.is_empty());
    frame
}

/// Whatever that is: it is read or refused, to its end.
fn read_all(bytes: Bytes) {
    let framed = [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat();
    // Behind the first event of a series, as it is read in either way.
    let (mut before, mut kinds, mut others) = (Vec::new(), Kinds::default(), Kinds::default());
    put(&head(&plain(1), &[1]), &mut before, &mut Last::default(), &plain(1));
    let kind = kinds.find(&before).unwrap();
    let mut run = kinds.run(kind, &before, None);
    assert!(run.next_if(1).is_some());
    let next = run.next;
    kinds.went(kind, next);
    let mut decode = |bytes| frame::decode(bytes, &mut Origins::default(), &mut others);
    decode(Bytes::from(before).split_off(4)).unwrap();

    let read = match decode(bytes) {
        Ok(Frame::Event { envelope, .. }) => envelope.read(&mut Origins::default()).ok(),
        _ => None,
    };
    let number = read.as_ref().and_then(|envelope| envelope.sequence).unwrap_or_default();
    if let Some(kind) = kinds.find(&framed)
        && let Some(event) = kinds.run(kind, &framed, None).next_if(number)
    {
        assert_eq!(event.id, read.unwrap().id);
    }
}

/// An event that has nothing special about it.
fn plain(number: u64) -> Envelope {
    let source = Source { endpoint: "a".parse().unwrap(), peer: PeerId::from_u64(1) };
    let payload = Payload::encoded(ContentType::JSON, "1");
    let mut envelope = Envelope::new(MessageId::new(), "t".parse().unwrap(), source, payload);
    (envelope.sequence, envelope.time) = (Some(number), Some(UNIX_EPOCH));
    envelope
}

/// How frames of events that are like this one begin.
fn head(envelope: &Envelope, interests: &[u64]) -> Head {
    let Payload::Encoded { content_type, .. } = envelope.payload.clone() else { panic!() };
    let (topic, source) = (envelope.topic.clone(), envelope.source.clone());
    EventFrames::of(&Common::new(topic, envelope.version, source, content_type)).head(interests)
}

/// Puts an event that has nothing special about it, as it goes the short way.
fn put(head: &Head, to: &mut Vec<u8>, last: &mut Last, envelope: &Envelope) {
    let Payload::Encoded { bytes, .. } = &envelope.payload else { panic!() };
    let since_1970 = envelope.time.unwrap().duration_since(UNIX_EPOCH).unwrap();
    let event = Event { id: envelope.id, sequence: envelope.sequence.unwrap(), since_1970 };
    head.put(to, last, event, bytes);
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
        time in proptest::option::of((0..1u64 << 38, 0..1_000_000_000u32)),
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

fn spec() -> impl Strategy<Value = GroupSpec> {
    (name(), name(), topic(), 1..100usize, 1..u32::MAX, any::<u16>()).prop_map(
        |(endpoint, group, topic, concurrency, attempts, delay)| {
            let mut spec = GroupSpec::new(GroupKey { endpoint, group, topic });
            spec.concurrency = concurrency;
            let delay = Duration::from_millis(delay.into());
            spec.retry = Retry::exponential(delay, 4 * delay).attempts(attempts);
            spec
        },
    )
}

/// What a peer may want.
fn change() -> impl Strategy<Value = Change> {
    let id = any::<u64>();
    let endpoints = || proptest::collection::btree_set(name(), 0..4);
    let interest = (id, endpoints(), any::<u32>(), prop_oneof![Just("#"), Just("a.*"), Just("a")]);
    prop_oneof![
        name().prop_map(|name| Change::Endpoint(name.to_string())),
        interest.prop_map(|(id, endpoints, capacity, filter)| {
            let filter = TopicFilter::new(filter).unwrap();
            let id = SubscriptionId(id);
            Change::interest(&PlainInterest::new(id, filter, endpoints, capacity as usize))
        }),
        (id, endpoints())
            .prop_map(|(id, names)| Change::Update { id, endpoints: control::texts(&names) }),
        id.prop_map(|id| Change::Withdraw { id }),
        (id, spec()).prop_map(|(member, spec)| Change::Join { member, spec: (&spec).into() }),
        id.prop_map(|member| Change::Leave { member }),
        (id, topic(), name()).prop_map(|(responder, topic, endpoint)| Change::Respond {
            responder,
            topic: topic.to_string(),
            endpoint: endpoint.to_string(),
        }),
        id.prop_map(|responder| Change::Unrespond { responder }),
        Just(Change::Ready),
    ]
}

fn control() -> impl Strategy<Value = Control> {
    let id = any::<u64>();
    let failure = ".{0,100}";
    let outcome = prop_oneof![
        Just(()).prop_map(|()| Outcome::Done),
        Just(()).prop_map(|()| Outcome::HandBack),
        failure.prop_map(|text| Outcome::Failed(Failure::new(DeadReason::Error, text))),
        failure.prop_map(|text| Outcome::Refused(Failure::new(DeadReason::Version, text))),
    ];
    prop_oneof![
        (id, proptest::collection::vec(change(), 0..5))
            .prop_map(|(serial, changes)| Control::Table { serial, table: Table { changes } }),
        (id, change()).prop_map(|(serial, change)| Control::Change { serial, change }),
        id.prop_map(|serial| Control::Ack { serial }),
        id.prop_map(|serial| Control::Ping { serial }),
        (id, id, id).prop_map(|(interest, events, bytes)| Control::Credit {
            interest,
            events,
            bytes
        }),
        (id, id, outcome).prop_map(|(member, tag, outcome)| Control::Settle {
            member,
            tag,
            outcome: (&outcome).into()
        }),
        id.prop_map(|request| Control::Cancel { request }),
        Just(Control::Goodbye),
    ]
}

/// A frame of each kind.
fn any_frame() -> impl Strategy<Value = Out> {
    let id = any::<u64>();
    let hello = (id, any::<u32>(), id).prop_map(|(peer, pid, payload)| Introduction {
        bus: "shop".into(),
        peer,
        pid,
        payload,
    });
    let answer = prop_oneof![
        payload().prop_map(|value| Answer::Reply(Reply::Response(value))),
        payload().prop_map(|value| Answer::Reply(Reply::Refused(value))),
        ".{0,60}".prop_map(|text| {
            Answer::Reply(Reply::Failed { kind: FailureKind::Panicked, text })
        }),
        Just(()).prop_map(|()| Answer::Gone),
    ];
    let encoded = || envelope().prop_map(|envelope| Encoded::new(&envelope).unwrap());
    prop_oneof![
        hello.clone().prop_map(|me| Out::hello(&me)),
        hello.prop_map(|me| Out::welcome(&Welcome::Come(me))),
        control().prop_map(|control| Out::control(&control)),
        (proptest::collection::vec(id, 0..5), encoded())
            .prop_map(|(ids, encoded)| Out::event(&ids, &encoded)),
        (proptest::collection::vec(id, 0..5), envelope(), any::<u64>()).prop_map(
            |(ids, mut envelope, sequence)| {
                envelope.sequence = Some(sequence);
                envelope.time.get_or_insert(UNIX_EPOCH);
                let mut frame = Vec::new();
                put(&head(&envelope, &ids), &mut frame, &mut Last::default(), &envelope);
                Out { head: frame.into(), shared: Bytes::new(), payload: Bytes::new() }
            }
        ),
        (id, id, any::<u32>(), any::<Option<u64>>(), encoded()).prop_map(
            |(member, tag, attempt, key, encoded)| {
                Out::deliver(&Work { member, tag, attempt, key }, &encoded)
            }
        ),
        (id, id, id, encoded()).prop_map(|(request, responder, left, encoded)| {
            Out::ask(request, responder, left, &encoded)
        }),
        (id, answer).prop_map(|(request, answer)| Out::reply(request, &answer).unwrap()),
        (spec(), envelope(), any::<u32>()).prop_map(|(spec, envelope, attempts)| {
            let failure = Failure::new(DeadReason::Lost, "gone");
            Out::dead_letter(&DeadLetter::new(spec.key, envelope, attempts, failure)).unwrap()
        }),
    ]
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
        assert_eq!(back.len(), Encoded::new(&envelope).unwrap().len());
        same(&back.read(&mut Origins::default()).unwrap(), &envelope);
    }

    #[test]
    fn what_came_before_changes_nothing(
        envelopes in proptest::collection::vec(envelope(), 1..40),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut decoder = Decoder::new();
        decoder.trust(MAX_PAYLOAD);
        let mut origins = Origins::default();
        for envelope in again.iter().map(|again| again.get(&envelopes)) {
            let out = Out::event(&[1], &Encoded::new(envelope).unwrap());
            decoder.buffer.put_slice(&join(&out));
            let Some(Frame::Event { envelope: back, .. }) = decoder.next().unwrap() else { panic!() };
            same(&back.read(&mut origins).unwrap(), envelope);
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
    fn announcements_and_hellos_come_back_as_they_went(
        control in control(),
        hello in ("[ -~]{0,80}", any::<u64>(), any::<u32>(), any::<u64>()),
        reason in ".{0,100}",
        cut in any::<usize>(),
    ) {
        let Frame::Control(back) = through(&Out::control(&control), cut) else { panic!() };
        assert_eq!(*back, control);
        let (bus, peer, pid, payload) = hello;
        let me = Introduction { bus, peer, pid, payload };
        let Frame::Hello(back) = through(&Out::hello(&me), cut) else { panic!() };
        assert_eq!(*back, me);
        for welcome in
            [Welcome::Come(me), Welcome::Duplicate, Welcome::Closing, Welcome::Refused(reason)]
        {
            let Frame::Welcome(back) = through(&Out::welcome(&welcome), cut) else { panic!() };
            assert_eq!(*back, welcome);
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read_all(Bytes::from(bytes.clone()));
        let mut decoder = Decoder::new();
        decoder.buffer.put_slice(&bytes);
        while let Ok(Some(_)) = decoder.next() {}
        assert!(decoder.buffer.capacity() <= MAX_HELLO + 4 + 2 * bytes.len());
        // As the body of each kind of frame.
        for kind in 0..=12 {
            let mut body = BytesMut::from(&[kind][..]);
            body.put_slice(&bytes);
            read_all(body.freeze());
        }
    }

    #[test]
    fn broken_frames_are_an_error_and_never_a_panic(
        frame in any_frame(),
        wounds in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = join(&frame).split_off(4);
        for (at, byte) in wounds {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let cut = cut.index(bytes.len());
        read_all(bytes.clone().freeze());
        read_all(bytes.split_to(cut).freeze());
    }

    /// What is right before the wound still comes out, whatever the pieces; and then it ends.
    #[test]
    fn a_stream_is_read_up_to_its_wound(
        frames in proptest::collection::vec(any_frame(), 1..6),
        garbage in proptest::collection::vec(any::<u8>(), 0..40),
        piece in 1..200usize,
    ) {
        let mut stream = BytesMut::new();
        for frame in &frames {
            stream.put_slice(&join(frame));
        }
        stream.put_u32_le(1 + garbage.len() as u32);
        stream.put_u8(99);
        stream.put_slice(&garbage);
        let mut decoder = Decoder::new();
        decoder.trust(MAX_PAYLOAD);
        let mut read = 0;
        let mut ended = None;
        for piece in stream.chunks(piece) {
            decoder.buffer.put_slice(piece);
            while ended.is_none() {
                match decoder.next() {
                    Ok(Some(_)) => read += 1,
                    Ok(None) => break,
                    Err(error) => ended = Some(error),
                }
            }
        }
        assert_eq!((read, ended), (frames.len(), Some(WireError::UnknownKind(99))));
    }
}

/// The same for as long as one likes:
/// `PROPTEST_CASES=10000000 cargo test --release -p busway-ipc --lib -- --ignored fuzz`.
#[test]
#[ignore = "runs as long as PROPTEST_CASES says, a million cases unless set"]
fn fuzz() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok());
    let config = ProptestConfig { cases: cases.unwrap_or(1_000_000), ..ProptestConfig::default() };
    let wounds = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9);
    let run = proptest::test_runner::TestRunner::new(config).run(
        &(any_frame(), wounds),
        |(frame, wounds)| {
            let mut bytes = join(&frame).split_off(4);
            for (at, byte) in wounds {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            read_all(bytes.freeze());
            Ok(())
        },
    );
    run.unwrap();
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
    let me = Introduction { bus: "shop".into(), peer: 1, pid: 2, payload: 3 };
    let Frame::Hello(back) = through(&Out::hello(&me), 1) else { panic!() };
    assert_eq!(*back, me);
    let Frame::Welcome(back) = through(&Out::welcome(&Welcome::Duplicate), 1) else { panic!() };
    assert_eq!(*back, Welcome::Duplicate);

    let mut newer = join(&Out::hello(&me)).split_off(4);
    newer[5] = 2;
    assert_eq!(decode(newer.freeze()).unwrap_err(), WireError::Version { found: 2 });
    let mut other = join(&Out::hello(&me)).split_off(4);
    other[1] = b'X';
    assert_eq!(decode(other.freeze()).unwrap_err(), WireError::Magic);
}

#[test]
fn long_frames_are_refused_before_they_are_read() {
    let mut decoder = Decoder::new();
    decoder.buffer.put_u32_le(MAX_HELLO as u32 + 1);
    assert!(matches!(decoder.next(), Err(WireError::TooLong { .. })));
    let mut decoder = Decoder::new();
    decoder.trust(MAX_PAYLOAD);
    decoder.buffer.put_u32_le(max_frame(MAX_PAYLOAD) as u32 + 1);
    assert!(matches!(decoder.next(), Err(WireError::TooLong { .. })));
}
