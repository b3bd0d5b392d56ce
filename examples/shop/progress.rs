//! How far the day is, on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use crate::books::Tally;

/// Orders between two lines.
const STEP: usize = 500;

pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines { told: usize },
}

impl Progress {
    pub(crate) fn new() -> Self {
        if !stderr().is_terminal() {
            return Self::Lines { told: 0 };
        }
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len} orders {elapsed}");
        let bar = ProgressBar::new(0);
        Self::Bar(style.map_or(bar.clone(), |style| bar.with_style(style)))
    }

    pub(crate) fn show(&mut self, tally: Tally) {
        let Tally { placed, complete, .. } = tally;
        match self {
            Self::Bar(bar) => {
                bar.set_length(placed as u64);
                bar.set_position(complete as u64);
            }
            Self::Lines { told } if complete >= *told + STEP => {
                *told = complete - complete % STEP;
                eprintln!("sales: {told} orders are done, {placed} were placed");
            }
            Self::Lines { .. } => {}
        }
    }

    pub(crate) fn finish(self) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines { .. } => {}
        }
    }
}
