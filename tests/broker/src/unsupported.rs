//! Stands in for the private broker where there are no Unix process groups.

use std::path::PathBuf;

use crate::BrokerError;

/// There is none.
#[derive(Debug)]
pub(crate) enum Private {}

impl Private {
    pub(crate) fn start() -> Result<Self, BrokerError> {
        Err(BrokerError::Unsupported)
    }

    pub(crate) fn installed() -> Result<PathBuf, BrokerError> {
        Err(BrokerError::Unsupported)
    }

    pub(crate) fn port(&self) -> u16 {
        match *self {}
    }

    pub(crate) fn log(&self) -> String {
        match *self {}
    }

    pub(crate) fn stop(&self) -> Result<(), BrokerError> {
        match *self {}
    }

    pub(crate) fn start_again(&self) -> Result<(), BrokerError> {
        match *self {}
    }

    pub(crate) fn kill(&self) -> Result<(), BrokerError> {
        match *self {}
    }

    pub(crate) fn pause(&self) -> Result<(), BrokerError> {
        match *self {}
    }

    pub(crate) fn resume(&self) -> Result<(), BrokerError> {
        match *self {}
    }

    pub(crate) fn ctl(&self, _: &[&str]) -> Result<String, BrokerError> {
        match *self {}
    }
}
