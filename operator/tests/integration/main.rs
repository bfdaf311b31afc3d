//! Integration tests of the operator, in one binary.
//!
//! They need no cluster: [`scale`] and [`traces`] test the scaling algorithm, [`scenarios`] runs the controller against
//! an API server in this process, [`lag`] reads a mock of Kafka, [`commands`] starts the binary of the operator, [`chart`]
//! renders the chart with Helm. All tests share this process, so a test must not change its environment, its current
//! directory or its global log subscriber.

mod chart;
mod commands;
mod lag;
mod scale;
mod scenarios;
mod traces;
