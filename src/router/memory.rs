//! What topics and subscriptions cost in memory. (In the crate, because a program has no way to
//! publish on ten thousand topics but to have as many types.)

use busway_transport::Topic;

use crate::publish::outlet::Outlet;
use crate::{Bus, Codec, CodecError, Event, Schema};

struct Small(#[expect(dead_code, reason = "only its size matters")] [u64; 4]);

impl Event for Small {
    const SCHEMA: Schema = Schema::new("test.small").local();

    fn encode(&self, _: Codec, _: &mut Vec<u8>) -> Result<(), CodecError> {
        unreachable!("it is local")
    }

    fn decode(_: Codec, _: &[u8]) -> Result<Self, CodecError> {
        unreachable!("it is local")
    }
}

/// What the process has of the machine's memory, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

/// Set in the process that measures: other tests of this one take memory as well.
const ALONE: &str = "BUSWAY_TEST_ALONE";

#[test]
fn ten_thousand_topics_stay_under_64_mib() {
    let here = std::env::current_exe().expect("a test program");
    let test = ["--exact", "router::memory::measured_alone", "--ignored", "--nocapture"];
    let child = std::process::Command::new(here).args(test).env(ALONE, "1").output();
    let child = child.expect("a process");
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("10,000 topics"), "{said}");
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn measured_alone() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    const TOPICS: usize = 10_000;
    const MOST: usize = 64 << 20;
    let bus = Bus::private().await.expect("a bus");
    let endpoint = bus.endpoint("a").expect("a name");
    let before = resident();
    let mut streams = Vec::new();
    for number in 0..TOPICS {
        let stream = endpoint.stream_any(&format!("memory.n{number}")).await;
        streams.push(stream.expect("subscribed"));
    }
    let subscribed = resident() - before;
    for number in 0..TOPICS {
        let topic: Topic = format!("memory.n{number}").parse().expect("a topic");
        let outlet = Outlet::on(&bus.core, bus.core.router.node(&topic), endpoint.name(), 1);
        let mut event = Some(Small([number as u64; 4]));
        assert_eq!(outlet.publish(&bus.core, &mut event), Some(1));
    }
    let published = resident() - before;
    eprintln!("10,000 topics: {subscribed} bytes, and {published} after an event each");
    assert!(subscribed < MOST && published < MOST, "{subscribed} {published}");
    for stream in &mut streams {
        stream.next().await.expect("open").expect("no gap");
    }
}
