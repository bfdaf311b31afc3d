//! Integration tests of the operator, in one binary.
//!
//! They need no cluster: [`scale`] and [`traces`] test the scaling algorithm, [`scenarios`] runs the controller against
//! an API server in this process, [`real_api_server`] against that of Kubernetes if it was built, [`lag`] reads a mock of
//! Kafka, [`commands`] starts the binary of the operator, [`chart`] renders the chart with Helm. All tests share this
//! process, so a test must not change its environment, its current directory or its global log subscriber.

mod chart;
mod commands;
mod lag;
mod real_api_server;
mod scale;
mod scenarios;
mod traces;
