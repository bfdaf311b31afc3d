#![expect(
    clippy::disallowed_methods,
    reason = "edge: fuzzes until a deadline, and reads its memory"
)]
//! Fuzzing of the parsers of foreign bytes: messages, headers, entries of the reference data, and stage files.
//!
//! Each target starts from its seeds in `tests/fuzz`, which it changes at random. No input may panic, or need much more
//! memory than it has bytes. `make test` fuzzes each target for a moment, `make fuzz` for a minute; the environment
//! variable `STREAMSTAGE_FUZZ_SECONDS` changes the time. A failure prints the shortest input that fails. The crate `kafka`
//! fuzzes the answers of brokers, and `consume/fetch` the record batches, in their unit tests.

use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use worker::decode::DecodeSettings;
use worker::layer::stg::entry::{Restaurant, User};
use worker::layer::{cdm, dds, stg};
use worker::record::{Header, Record};
use worker::version::Version;

/// Inputs between two looks at the clock.
const CASES: u32 = 500;
/// Size of the largest input, in bytes.
const MAX_INPUT_BYTES: usize = 64 << 10;
/// Memory that a target may need, in KiB: the runner of the test needs some of it.
const MAX_MEMORY_KIB: u64 = 64 << 10;
const VARIABLE: &str = "STREAMSTAGE_FUZZ_SECONDS";
const DEFAULT_SECONDS: u64 = 1;

/// Texts that parsers tend to stumble over.
const TOKENS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"-0",
    b"1e999",
    b"1e-999",
    b"0.000001",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\"9999-12-31 23:59:59\"",
    b"\"2024-03-31 02:30:00\"",
    b"\"object_id\":1,",
    b"[[[[[[[[",
    b"{\"a\":{\"a\":",
    b"&a",
    b"*a",
    b"<<: *a",
    b"!!binary",
    b"---\n",
    b"\t",
    b"? ",
    b"|2\n",
];

/// A parser of foreign bytes, and its seeds.
struct Target {
    name: &'static str,
    seeds: &'static [&'static [u8]],
    parse: fn(&[u8]),
}

const TARGETS: [Target; 8] = [
    Target {
        name: "order of the source",
        seeds: &[include_bytes!("fuzz/order_event.json")],
        parse: |bytes| drop(stg::decode::decode_order(&settings(), &record(bytes), i64::MAX)),
    },
    Target {
        name: "enriched order",
        seeds: &[include_bytes!("fuzz/enriched_order.json")],
        parse: |bytes| drop(dds::decode::decode_order(&settings(), &record(bytes), i64::MAX)),
    },
    Target {
        name: "order fact",
        seeds: &[include_bytes!("fuzz/order_fact.json")],
        parse: |bytes| drop(cdm::decode::decode_fact(&settings(), &record(bytes), i64::MAX)),
    },
    Target {
        name: "headers",
        seeds: &[
            b"018d00000000000000018d000000000000000000000000000000000000000000",
            b"2147483647",
        ],
        parse: |bytes| {
            let _ = (Version::from_header(bytes), Version::from_bytes(bytes));
            let mut record = record(include_bytes!("fuzz/enriched_order.json"));
            let names = [
                "streamstage-version",
                "streamstage-digest",
                "streamstage-error-attempts",
            ];
            record.headers = names
                .map(|name| Header {
                    name: name.to_owned(),
                    value: Some(bytes.to_vec()),
                })
                .to_vec();
            drop(dds::decode::decode_order(&settings(), &record, i64::MAX));
        },
    },
    Target {
        name: "entry of a user",
        seeds: &[include_bytes!("fuzz/user_entry.json")],
        parse: |bytes| drop(User::parse(bytes)),
    },
    Target {
        name: "entry of a restaurant",
        seeds: &[include_bytes!("fuzz/restaurant_entry.json")],
        parse: |bytes| drop(Restaurant::parse(bytes)),
    },
    Target {
        name: "stage file",
        seeds: &[include_bytes!("fuzz/stages.yaml")],
        parse: |bytes| drop(crds::document::parse(&String::from_utf8_lossy(bytes))),
    },
    Target {
        name: "model",
        seeds: &[include_bytes!("../../models/orders.yaml")],
        parse: |bytes| drop(crds::document::parse_model(&String::from_utf8_lossy(bytes))),
    },
];

fn settings() -> DecodeSettings {
    DecodeSettings {
        timezone: TimeZone::get("Europe/Berlin").expect("a time zone"),
        max_record_bytes: MAX_INPUT_BYTES,
        max_clock_skew_micros: i64::MAX,
    }
}

fn record(value: &[u8]) -> Record {
    Record {
        value: Some(value.to_vec()),
        ..Record::default()
    }
}

/// Mutation of an input.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Insert(Index, Index),
    Remove(Index, usize),
    /// Copies a part to another place, often enough to nest or to repeat it.
    Repeat(Index, Index, usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (index(), index()).prop_map(|(at, token)| Mutation::Insert(at, token)),
        (index(), 1..40_usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        (index(), index(), 1..80_usize, 1..200_usize)
            .prop_map(|(from, to, length, times)| Mutation::Repeat(from, to, length, times)),
    ]
}

fn apply(input: &mut Vec<u8>, mutation: &Mutation) {
    let place = |index: &Index| index.index(input.len() + 1);
    match mutation {
        Mutation::Set(at, byte) if !input.is_empty() => *at.get_mut(input) = *byte,
        Mutation::Set(..) => {}
        Mutation::Insert(at, token) => {
            let at = place(at);
            input.splice(at..at, token.get(TOKENS).iter().copied());
        }
        Mutation::Remove(at, length) => {
            let at = place(at);
            let end = (at + length).min(input.len());
            input.drain(at..end);
        }
        Mutation::Repeat(from, to, length, times) => {
            let (from, to) = (place(from), place(to));
            let part = input[from..(from + length).min(input.len())].repeat(*times);
            input.splice(to..to, part);
        }
    }
    input.truncate(MAX_INPUT_BYTES);
}

/// Resets the peak of the resident memory of this process.
fn reset_peak_memory() {
    std::fs::write("/proc/self/clear_refs", "5").expect("reset the peak");
}

/// Peak of the resident memory since the reset, in KiB.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    peak.expect("a peak").trim().parse().expect("a number")
}

fn fuzz(target: &Target, time: Duration) -> u32 {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = (any::<Index>(), proptest::collection::vec(mutation(), 0..8));
    let deadline = Instant::now() + time;
    let mut inputs = 0;
    while inputs == 0 || Instant::now() < deadline {
        let mut runner = TestRunner::new(config.clone());
        let result = runner.run(&strategy, |(seed, mutations)| {
            let mut input = seed.get(target.seeds).to_vec();
            for mutation in &mutations {
                apply(&mut input, mutation);
            }
            (target.parse)(&input);
            Ok(())
        });
        result.expect(target.name);
        inputs += CASES;
    }
    inputs
}

#[test]
fn no_foreign_bytes_panic_or_exhaust_the_memory() {
    let seconds = std::env::var(VARIABLE).map_or(DEFAULT_SECONDS, |text| text.parse().expect(VARIABLE));
    for target in TARGETS {
        // What a target keeps, such as a time zone, is not what an input costs.
        for seed in target.seeds {
            (target.parse)(seed);
        }
        reset_peak_memory();
        let before = peak_memory_kib();
        let inputs = fuzz(&target, Duration::from_secs(seconds));
        let kib = peak_memory_kib() - before;
        eprintln!("fuzz: {}: {inputs} inputs, {kib} KiB", target.name);
        assert!(kib < MAX_MEMORY_KIB, "{}: {kib} KiB", target.name);
    }
}
