//! Events that go on with each other, and how they are read: one by one, and as runs.

use super::*;
use crate::wire::frame::Interests;
use crate::wire::run::Alike;

proptest! {
    #[test]
    fn frames_that_are_put_together_once_are_those_of_envelopes(
        mut envelope in envelope(),
        ids in proptest::collection::vec(any::<u64>(), 0..5),
        sequence in any::<u64>(),
        time in (0..1u64 << 38, 0..1_000_000_000u32),
    ) {
        envelope.sequence = Some(sequence);
        envelope.time = Some(UNIX_EPOCH + Duration::new(time.0, time.1));
        envelope.to = None;
        envelope.headers = Headers::new();
        let mut frame = Vec::new();
        put(&head(&envelope, &ids), &mut frame, &mut Last::default(), &envelope);
        let mut expected = join(&Out::event(&ids, &Encoded::new(&envelope).unwrap()));
        // But for the kind.
        expected[4] = frame[4];
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_series_is_what_its_frames_are(
        envelopes in proptest::collection::vec(envelope(), 1..20),
        interests in proptest::collection::vec(
            prop_oneof![4 => Just(vec![7]), 1 => Just(vec![8]), 1 => Just(vec![]), 1 => Just(vec![7, 8])],
            20,
        ),
        // Which of them comes next, in which way, and how many numbers are left out before it.
        order in proptest::collection::vec((any::<prop::sample::Index>(), 0..12u8, 0..3u64), 1..60),
        // Which frames are read as runs, and how many of them at once.
        as_runs in proptest::collection::vec((any::<bool>(), 1..9usize), 120),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut bytes, mut last, mut expected) = (Vec::new(), Last::default(), Vec::new());
        let heads: Vec<_> =
            envelopes.iter().zip(&interests).map(|(one, interests)| head(one, interests)).collect();
        let mut numbers = vec![1; envelopes.len()];
        let mut which = 0;
        for (other, way, left_out) in order {
            let other = other.index(envelopes.len());
            if way == 11 {
                which = other;
            }
            // Some go the long way, of whatever kind and between those of a series.
            let is_long = (8..=9).contains(&way);
            let at = if is_long { other } else { which };
            let (mut envelope, interests) = (envelopes[at].clone(), &interests[at]);
            if way == 10 {
                numbers[at] += left_out;
            }
            envelope.id = MessageId::new();
            envelope.sequence = Some(numbers[at]);
            numbers[at] += 1;
            if way != 9 {
                (envelope.to, envelope.headers) = (None, Headers::new());
                envelope.time = Some(UNIX_EPOCH + Duration::new(numbers[at], 7));
            }
            if is_long {
                let out = Out::event(interests, &Encoded::new(&envelope).unwrap());
                bytes.extend_from_slice(&join(&out));
            } else {
                put(&heads[at], &mut bytes, &mut last, &envelope);
            }
            expected.push((interests, envelope));
        }
        let whole = bytes.len();
        bytes.truncate(cut.index(whole + 1));
        let is_whole = bytes.len() == whole;
        let mut decoder = Decoder::new();
        decoder.trust(MAX_PAYLOAD);
        decoder.buffer = bytes[..].into();
        let mut expected = expected.into_iter();
        let mut origins = Origins::default();
        for (as_run, most) in as_runs {
            let mut taken = 0;
            let frames = decoder.whole().unwrap().clone();
            if as_run && let Some(kind) = decoder.kinds.find(&frames) {
                let mut run = decoder.kinds.run(kind, &frames, None);
                run.most = most;
                let Alike { interest, common, .. } = run.alike;
                let mut number = expected.as_slice().first().unwrap().1.sequence.unwrap();
                assert!(run.next_if(number + 7).is_none());
                while let Some(event) = run.next_if(number) {
                    let (to, envelope) = expected.next().unwrap();
                    assert_eq!((event.id, Some(event.time)), (envelope.id, envelope.time));
                    assert_eq!((&[*interest][..], &common.topic), (&to[..], &envelope.topic));
                    assert_eq!((&common.source, common.version), (&envelope.source, envelope.version));
                    assert!(envelope.to.is_none() && envelope.headers.is_empty());
                    let Payload::Encoded { content_type, bytes } = envelope.payload else { panic!() };
                    assert_eq!((&common.content_type, event.payload), (&content_type, &bytes[..]));
                    number += 1;
                }
                let (next, left) = (run.next, run.left());
                taken = run.taken;
                assert!(taken <= most);
                decoder.kinds.went(kind, next);
                decoder.pass(left);
            }
            if taken > 0 {
                continue;
            }
            match decoder.next().unwrap() {
                Some(Frame::Event { interests, envelope }) => {
                    let (to, expected) = expected.next().unwrap();
                    assert_eq!(interests[..], to[..]);
                    assert_eq!(envelope.len(), Encoded::new(&expected).unwrap().len());
                    same(&envelope.read(&mut origins).unwrap(), &expected);
                }
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
        assert!(expected.len() == 0 || !is_whole);
    }
}

/// A series of two events, as frames.
fn two(of: Envelope, interests: &[u64], numbers: [u64; 2]) -> [Vec<u8>; 2] {
    let (head, mut last, mut envelope) = (head(&of, interests), Last::default(), of);
    numbers.map(|number| {
        let mut frame = Vec::new();
        envelope.sequence = Some(number);
        put(&head, &mut frame, &mut last, &envelope);
        frame
    })
}

#[test]
fn what_goes_on_needs_something_before_it() {
    let [first, next] = two(plain(1), &[7], [u64::MAX - 1, u64::MAX]);
    assert!(next.len() < first.len());
    let strange = WireError::Unexpected("an event that goes on where nothing went before");
    assert_eq!(decode(Bytes::copy_from_slice(&next[4..])).unwrap_err(), strange);

    let mut decoder = Decoder::new();
    [&first, &next, &next].iter().for_each(|frame| decoder.buffer.put_slice(frame));
    for number in [u64::MAX - 1, u64::MAX] {
        let Some(Frame::Event { interests, envelope }) = decoder.next().unwrap() else { panic!() };
        assert_eq!(interests, Interests::One([7]));
        assert_eq!(envelope.read(&mut Origins::default()).unwrap().sequence, Some(number));
    }
    assert_eq!(decoder.next().unwrap_err(), WireError::Bad("sequence"));
}

#[test]
fn what_is_shared_by_many_or_is_long_is_said_each_time() {
    let mut long = plain(1);
    long.payload = Payload::encoded(ContentType::new("x".repeat(FREE)), "1");
    for (of, interests) in [(long, vec![7]), (plain(1), vec![7, 8]), (plain(1), vec![])] {
        let [first, mut second] = two(of, &interests, [1, 2]);
        assert_eq!(first.len(), second.len());
        decode(Bytes::copy_from_slice(&first[4..])).unwrap();
        // Nobody may make others keep it.
        second[4] = frame::FIRST;
        assert!(matches!(decode(Bytes::from(second).split_off(4)), Err(WireError::Bad(_))));
    }
}

#[test]
fn what_takes_of_the_window_is_no_part_of_a_run() {
    let of = plain(1);
    let Payload::Encoded { content_type, .. } = of.payload.clone() else { panic!() };
    let common = Common::new(of.topic.clone(), 1, of.source.clone(), content_type.clone());
    let frames = EventFrames::of(&common);
    for length in FREE - 200..FREE + 10 {
        let mut of = of.clone();
        of.payload = Payload::encoded(content_type.clone(), vec![b'1'; length]);
        for before in [plain(1), of.clone()] {
            let (mut kinds, mut read) = (Kinds::default(), 0);
            let [_, next] = two(of.clone(), &[7], [1, 2]);
            let bytes = [&two(before, &[7], [1, 2])[0][..], &next].concat();
            if let Some(kind) = kinds.find(&bytes) {
                let mut run = kinds.run(kind, &bytes, None);
                read = (1..=2).map_while(|number| run.next_if(number).map(|_| ())).count();
            }
            assert!(read < 2 || charge(frames.envelope(length)) == 0, "{length}");
            assert!(read == 2 || length > FREE - 150, "{length}");
        }
    }
}
