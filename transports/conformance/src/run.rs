//! Runs cases: each under a watchdog, in a world of its own.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use busway::Capabilities;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::Harness;
use crate::cases::cases;
use crate::report::{CaseReport, Report};
use crate::verdict::{Done, Verdict};
use crate::world::World;

/// How long one case may take before it counts as hung. No case needs a hundredth of it.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// One case of the kit.
#[derive(Clone, Copy)]
pub struct Case {
    /// The group it belongs to: `law_01` to `law_16`, or `api`.
    pub group: &'static str,
    /// Its name, unique in its group.
    pub name: &'static str,
    /// What it shows, as a sentence.
    pub shows: &'static str,
    /// The capability without which the case asserts the refusal, or the declared difference.
    pub needs: Option<busway::Capability>,
    pub(crate) run: fn(World) -> BoxFuture<'static, Done>,
}

impl Case {
    /// The case of that group and name.
    pub fn find(group: &str, name: &str) -> Option<&'static Self> {
        cases().iter().find(|case| case.group == group && case.name == name)
    }

    /// The law it is about: 1 to 16; `None` for the API's other promises.
    pub fn law(&self) -> Option<u8> {
        self.group.strip_prefix("law_")?.parse().ok()
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}::{}", self.group, self.name)
    }
}

/// Runs one case, in a world of its own, under the [`WATCHDOG`]. Panics are caught.
///
/// Needs a multi-threaded tokio runtime: a case that blocks a thread must not stop its watchdog.
pub async fn run_case(harness: Arc<dyn Harness>, case: &'static Case) -> CaseReport {
    run_case_within(harness, case, WATCHDOG).await.0
}

/// As [`run_case`], with a watchdog of one's own: for testing the kit itself.
pub async fn run_case_within(
    harness: Arc<dyn Harness>,
    case: &'static Case,
    watchdog: Duration,
) -> (CaseReport, Option<Capabilities>) {
    let world = World::new(harness, case.name);
    let capabilities = world.clone();
    let mut running = tokio::spawn(act(case, world));
    let outcome = match tokio::time::timeout(watchdog, &mut running).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Err(format!("the case's task ended: {error}")),
        Err(_) => {
            running.abort();
            Err(format!("hung: not over after {watchdog:?}"))
        }
    };
    (CaseReport { case, outcome }, capabilities.capabilities().cloned())
}

async fn act(case: &'static Case, world: World) -> Result<Verdict, String> {
    let outcome = AssertUnwindSafe((case.run)(world.clone())).catch_unwind().await;
    let verdict = match outcome {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(failed)) => return Err(failed.to_string()),
        Err(panic) => return Err(panic_text(&*panic)),
    };
    // A capability is neither ignored where it is claimed nor used where it is not.
    let claimed = case.needs.map(|capability| (capability, world.can(capability)));
    match (&verdict, claimed) {
        (Verdict::Passed, None | Some((_, true))) => {}
        (Verdict::Refused { capability, .. }, Some((needs, false))) if *capability == needs => {}
        (verdict, claimed) => {
            return Err(format!("the case's verdict {verdict:?} does not fit {claimed:?}"));
        }
    }
    let violations = world.end().await;
    if violations.is_empty() { Ok(verdict) } else { Err(violations.join("; ")) }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".into())
}

/// Runs every case, one after the other.
///
/// Needs a multi-threaded tokio runtime.
pub async fn run(harness: impl Harness) -> Report {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    let mut capabilities = None;
    let mut all = Vec::with_capacity(cases().len());
    for case in cases() {
        let (report, seen) = run_case_within(harness.clone(), case, WATCHDOG).await;
        capabilities = capabilities.or(seen);
        all.push(report);
    }
    Report { capabilities, cases: all }
}

/// Runs one case on a runtime of its own, as a test: what [`tests!`](crate::tests) calls.
///
/// # Panics
/// When the case failed, with the reason.
pub fn check(harness: impl Harness, group: &str, name: &str) {
    let case = Case::find(group, name)
        .unwrap_or_else(|| panic!("there is no case {group}::{name} in the kit"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("no runtime for the case: {error}"));
    let report = runtime.block_on(run_case(Arc::new(harness), case));
    // What a hung case left behind must not hang the test.
    runtime.shutdown_background();
    match report.outcome {
        Ok(Verdict::Passed) => println!("passed: {}", case.shows),
        Ok(Verdict::Refused { capability, seen }) => {
            println!("refused as declared, no {capability}: {seen}");
        }
        Err(reason) => panic!("{}: {reason}", case.shows),
    }
}
