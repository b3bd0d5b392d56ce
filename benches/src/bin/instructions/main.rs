//! How many instructions a publish and a request take, against the figures in `instructions.txt`.
//!
//! ```sh
//! .ci/instructions                  # fails when a case takes over 5 % more than its figure
//! .ci/instructions local/publisher  # only these cases
//! .ci/instructions --write          # takes what is counted now as the figures
//! .ci/instructions --repeat 5       # counts that often, and shows how far the counts are apart
//! ```
//!
//! The script installs valgrind where it is missing, and builds this program, which runs itself
//! under callgrind. It needs none of the benches' peers. Where the instructions of a case go:
//!
//! ```sh
//! valgrind --tool=callgrind --callgrind-out-file=/tmp/out target/release/instructions --run request 42
//! callgrind_annotate /tmp/out
//! ```

mod cases;
mod count;
mod figures;

use std::process::ExitCode;
use std::time::Instant;

use cases::Case;
use count::Count;
use figures::{Figures, Verdict};

const USAGE: &str = "usage: instructions [--write] [--repeat TIMES] [CASE]…";

/// What stands on the command line.
#[derive(Default)]
struct Options {
    write: bool,
    repeat: usize,
    /// Beginnings of the names of cases; none for all.
    cases: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { repeat: 1, ..Self::default() };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--write" => options.write = true,
                "--repeat" => {
                    let times = arguments.next().and_then(|times| times.parse().ok());
                    options.repeat =
                        times.filter(|&times| times > 0).ok_or("--repeat: how often?")?;
                }
                option if option.starts_with('-') => return Err(format!("{option}: unknown")),
                case => options.cases.push(case.to_owned()),
            }
        }
        Ok(options)
    }

    fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|wanted| case.starts_with(wanted))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [run, case, bursts] if run == count::RUN => run_one(case, bursts),
        _ => Options::parse(arguments.into_iter()).and_then(|options| check(&options)),
    };
    outcome.unwrap_or_else(|wrong| {
        eprintln!("{wrong}\n{USAGE}");
        ExitCode::from(2)
    })
}

/// What runs under callgrind.
fn run_one(case: &str, bursts: &str) -> Result<ExitCode, String> {
    let bursts = bursts.parse().map_err(|error| format!("{bursts}: {error}"))?;
    let case = cases::all().into_iter().find(|each| each.name == case).ok_or("no such case")?;
    case.run(bursts);
    Ok(ExitCode::SUCCESS)
}

fn check(options: &Options) -> Result<ExitCode, String> {
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        println!("instructions: NOT CHECKED: the figures are those of Linux on x86_64");
        return Ok(ExitCode::SUCCESS);
    }
    if cfg!(debug_assertions) {
        return Err("counts are those of a release build".to_owned());
    }
    let all = cases::all();
    let wanted: Vec<&Case> = all.iter().filter(|case| options.wants(&case.name)).collect();
    if wanted.is_empty() {
        let names: Vec<_> = all.iter().map(|case| case.name.as_str()).collect();
        return Err(format!("no such case; there are {}", names.join(", ")));
    }
    let here = count::circumstances();
    let mut figures = Figures::read()?;
    println!("instructions per operation: {here}\n");
    let apart = if options.repeat > 1 { "    apart" } else { "" };
    println!("{:<24} {:>9} {:>9} {:>8}{apart}", "case", "figure", "now", "change");
    let (mut verdicts, began) = (Vec::new(), Instant::now());
    for case in wanted {
        let count = Count::of(&case.name, options.repeat)?;
        let figure = figures.of(&case.name);
        let verdict = Verdict::of(figure, count.median);
        println!("{}", line(&case.name, figure, &count, verdict));
        figures.set(&case.name, count.median);
        verdicts.push(verdict);
    }
    println!("\n{} cases in {:.0} s", verdicts.len(), began.elapsed().as_secs_f64());
    if options.write {
        figures.written(&here, all.iter().map(|case| case.name.as_str()))?;
        println!("written to {}", figures::FILE);
        return Ok(ExitCode::SUCCESS);
    }
    Ok(conclude(&verdicts, &figures.circumstances, &here))
}

fn line(case: &str, figure: Option<f64>, count: &Count, verdict: Verdict) -> String {
    let now = count.median;
    let change = figure.map(|figure| format!("{:+.1} %", (now / figure - 1.0) * 100.0));
    let figure = figure.map(|figure| format!("{figure:.1}"));
    let (figure, change) = (figure.unwrap_or_default(), change.unwrap_or_default());
    let apart = count.apart.map_or_else(String::new, |apart| format!("  {:.3} %", apart * 100.0));
    let says = match verdict {
        Verdict::Grew => "   TOO MANY",
        Verdict::New => "   NO FIGURE",
        Verdict::Fell => "   fell",
        Verdict::Same => "",
    };
    format!("{case:<24} {figure:>9} {now:>9.1} {change:>8}{apart}{says}")
}

fn conclude(verdicts: &[Verdict], then: &str, here: &str) -> ExitCode {
    let has = |verdict| verdicts.contains(&verdict);
    if has(Verdict::Fell) {
        println!(
            "A count fell by more than 5 %: lower its figure with `.ci/instructions --write`."
        );
    }
    if !has(Verdict::Grew) && !has(Verdict::New) {
        return ExitCode::SUCCESS;
    }
    if has(Verdict::New) {
        println!("A case has no figure in {} yet.", figures::FILE);
    }
    if has(Verdict::Grew) {
        println!("A count is more than 5 % above its figure in {}.", figures::FILE);
        if then != here {
            println!("The figures were written elsewhere, which may be why: {then}.");
        }
    }
    println!("When that is worth it: `.ci/instructions --write`, and the commit says why.");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_understood() {
        let parse = |words: &str| Options::parse(words.split_whitespace().map(str::to_owned));
        let options = parse("--write --repeat 3 local/").expect("right");
        assert!(options.write && options.repeat == 3);
        assert!(options.wants("local/publisher/0") && !options.wants("request"));
        assert!(parse("").expect("right").wants("request"));
        for wrong in ["--repeat", "--repeat 0", "--repeat x", "--fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_shows_what_changed() {
        let count = Count { median: 110.0, apart: Some(0.0001) };
        let text = line("local/x", Some(100.0), &count, Verdict::Grew);
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(words.join(" "), "local/x 100.0 110.0 +10.0 % 0.010 % TOO MANY");
    }
}
