//! Runs the kit on every transport of this repository, and writes `docs/capabilities.md`.
//!
//! `cargo run -p busway-conformance --example report` compares the file with what was found;
//! `-- --write` writes it. RabbitMQ has to be installed: a private one is started.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use busway::Builder;
use busway_conformance::{Harness, Report, Verdict, capability_table, cases, run};
use busway_test_broker::Broker;

struct Memory;
struct Ipc(tempfile::TempDir);
struct Amqp(&'static Broker);

/// A name that no case had before.
fn fresh() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("report-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

impl Harness for Memory {
    fn address(&self, _: &str) -> String {
        format!("memory:{}", fresh())
    }

    fn connector(&self, builder: Builder) -> Builder {
        builder.connector(busway_memory::MemoryConnector::new())
    }
}

impl Harness for Ipc {
    fn address(&self, _: &str) -> String {
        format!("ipc:{}?dir={}", fresh(), self.0.path().display())
    }

    fn connector(&self, builder: Builder) -> Builder {
        builder.connector(busway_ipc::IpcConnector::new())
    }
}

impl Harness for Amqp {
    fn address(&self, _: &str) -> String {
        format!("{}?bus={}", self.0.url(), fresh())
    }

    fn connector(&self, builder: Builder) -> Builder {
        builder.connector(busway_amqp::AmqpConnector::new())
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    // Handlers panic on purpose in some cases; what was not on purpose stands in the report.
    std::panic::set_hook(Box::new(|_| {}));
    let broker = Broker::shared().map_err(ToString::to_string)?;
    let reports =
        [run(Memory).await, run(Ipc(tempfile::tempdir()?)).await, run(Amqp(broker)).await];
    for report in &reports {
        println!("{report}");
    }
    let mut ok = reports.iter().all(|report| report.failed().next().is_none());

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/capabilities.md");
    let found = page(&reports);
    if std::env::args().any(|argument| argument == "--write") {
        std::fs::write(&path, found)?;
    } else if std::fs::read_to_string(&path)? != found {
        println!("docs/capabilities.md is not what was found: run this with `-- --write`");
        ok = false;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The documentation's page.
fn page(reports: &[Report]) -> String {
    let mut page = format!(
        "# Capabilities\n\n\
         Written by `cargo run -p busway-conformance --example report -- --write`, from what the \
         conformance kit found.\n\n\
         What a transport cannot do is refused when it is asked for, or behaves as \
         [the guarantees](guarantees.md) say.\n\n{}\n\
         ## Every case of the kit\n\n\
         | law | case |",
        capability_table(reports)
    );
    for report in reports {
        let _ = write!(page, " {} |", report.transport());
    }
    page.push_str("\n| --- | --- |");
    page.push_str(&" --- |".repeat(reports.len()));
    for (at, case) in cases().iter().enumerate() {
        let law = case.law().map_or_else(|| "API".to_owned(), |law| law.to_string());
        let _ = write!(page, "\n| {law} | {} |", case.shows);
        for report in reports {
            page.push_str(match &report.cases[at].outcome {
                Ok(Verdict::Passed) => " passed |",
                Ok(Verdict::Refused { .. }) => " refused as declared |",
                Err(_) => " FAILED |",
            });
        }
    }
    page.push('\n');
    page
}
