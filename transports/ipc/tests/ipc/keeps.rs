//! Events whose payloads stay in the memory that they arrived in.

use busway::{Bus, Bytes, Event};
use busway_ipc::IpcConnector;
use serde::{Deserialize, Serialize};

use crate::support::{folder, within};

#[derive(Event, Serialize, Deserialize)]
#[event("frame")]
struct Frame {
    number: usize,
    #[serde(with = "busway::zero_copy")]
    pixels: Bytes,
}

/// What no other frame has.
fn pixels(number: usize) -> Bytes {
    // Copied, shared, too large to be decoded where it arrives, and too large for one buffer.
    let length = [16, 1000, 3000, 10_000, 70_000, 300_000][number % 6];
    (0..length).map(|at| (number * 31 + at) as u8).collect()
}

async fn open(at: &str) -> Bus {
    let builder = Bus::builder().without_configuration().transport(at);
    builder.connector(IpcConnector::new()).open().await.unwrap()
}

#[tokio::test]
async fn what_is_kept_stays_as_it_was() {
    const ALL: usize = 1200;
    within(async {
        let dir = folder();
        let at = format!("ipc:shop?dir={}", dir.path().display());
        let (one, two) = (open(&at).await, open(&at).await);
        let mut frames = two.endpoint("two").unwrap().stream::<Frame>().await.unwrap();
        let camera = one.endpoint("one").unwrap().publisher::<Frame>();
        let publish = async {
            for number in 0..ALL {
                camera.publish(Frame { number, pixels: pixels(number) }).await.unwrap();
            }
        };
        let keep = async {
            let mut kept = Vec::new();
            for number in 0..ALL {
                let frame = frames.next().await.unwrap().unwrap();
                assert_eq!((frame.number, &frame.pixels), (number, &pixels(number)));
                if number % 7 == 0 {
                    kept.push((number, frame.pixels.clone()));
                }
            }
            kept
        };
        let ((), kept) = tokio::join!(publish, keep);
        // Everything else that came was read into the memory between.
        for (number, kept) in kept {
            assert_eq!(kept, pixels(number), "{number}");
        }
    })
    .await;
}
