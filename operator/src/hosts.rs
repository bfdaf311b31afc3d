//! Hosts that a stage connects to, and patterns of hosts that are allowed. Pure: resolves no name.

use std::fmt;
use std::str::FromStr;

use crds::StreamStage;

use crate::connection::is_short_name;

/// Default port of Redis.
const REDIS_PORT: u16 = 6379;

/// Hosts that are allowed: `kafka.example.com`, `*.example.com` for every host below it, each with an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// Host name, or the suffix of host names that begins with `.`.
    name: String,
    /// `None` for every port.
    port: Option<u16>,
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = split_port(text.trim());
        let name = host.strip_prefix('*').unwrap_or(host);
        let is_pattern = !name.is_empty() && !name.contains(['*', '/', ' ', '@']);
        let is_suffix_of_labels = !host.starts_with('*') || name.starts_with('.');
        let port = port
            .map(str::parse)
            .transpose()
            .ok()
            .filter(|_| is_pattern && is_suffix_of_labels);
        match port {
            Some(port) => Ok(Self {
                name: normalize(name),
                port,
            }),
            None => Err(format!(
                "`{text}` is not a host: write host, host:port or *.domain, such as kafka.example.com:9093"
            )),
        }
    }
}

impl HostPattern {
    /// Returns true if the pattern allows the host, which is a Service of the stage's namespace if its name is short.
    fn allows(&self, host: &StageHost) -> bool {
        let is_named = |name: &str| {
            if self.name.starts_with('.') {
                name.ends_with(&self.name)
            } else {
                name == self.name
            }
        };
        (is_named(&host.name) || is_named(&host.full_name)) && self.port.is_none_or(|port| port == host.port)
    }
}

/// Host that a stage connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageHost {
    /// Group of fields that the host belongs to: `spec.source`, `spec.referenceData` or `spec.warehouse`.
    pub section: &'static str,
    /// Host name or IP address, as the stage has it.
    name: String,
    /// The same, with the namespace of the stage if it is the name of a Service.
    full_name: String,
    port: u16,
}

impl StageHost {
    fn new(section: &'static str, host: &str, port: u16, stage: &StreamStage) -> Self {
        let name = normalize(host);
        let full_name = if is_short_name(&name) {
            format!("{name}.{}.svc", stage.namespace())
        } else {
            name.clone()
        };
        Self {
            section,
            name,
            full_name,
            port,
        }
    }

    /// Returns true if one of the patterns allows the host.
    #[must_use]
    pub fn is_allowed_by(&self, patterns: &[HostPattern]) -> bool {
        patterns.iter().any(|pattern| pattern.allows(self))
    }
}

impl fmt::Display for StageHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// Returns every host of a stage, in the order of the fields. Malformed ones are missing: validation reports them.
#[must_use]
pub fn stage_hosts(stage: &StreamStage) -> Vec<StageHost> {
    let spec = &stage.spec;
    let servers = spec.source.bootstrap_servers.iter();
    let kafka = servers.filter_map(|server| {
        let (host, port) = split_port(server);
        Some(StageHost::new("spec.source", host, port?.parse().ok()?, stage))
    });
    let redis = spec.reference_data.iter().filter_map(|reference_data| {
        let (_, rest) = reference_data.url.split_once("://")?;
        let (host, port) = split_port(rest.split('/').next().unwrap_or_default());
        let port = port.map_or(Some(REDIS_PORT), |port| port.parse().ok())?;
        Some(StageHost::new("spec.referenceData", host, port, stage))
    });
    let postgres = spec.warehouse.hosts().flatten();
    let postgres = postgres.map(|(host, port)| StageHost::new("spec.warehouse", host, port, stage));
    kafka.chain(redis).chain(postgres).collect()
}

/// Splits `host:port`; an IPv6 address has a port only after brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

/// Lower-case form without brackets and without the dot at the end of a fully qualified name.
fn normalize(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> StreamStage {
        serde_saphyr::from_str(
            "{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {name: stg, namespace: orders}, \
             spec: {layer: stg, source: {topic: facts, bootstrapServers: ['Kafka.Example.com.:9093', 'kafka:9092']}, \
             referenceData: {url: 'redis://redis/0'}, output: {topic: out}, \
             warehouse: {host: 'db-a,[2001:db8::1]:5433', database: orders}}}",
        )
        .expect("a stage")
    }

    #[test]
    fn every_host_of_a_stage_is_listed_with_its_port() {
        let hosts: Vec<String> = stage_hosts(&stage())
            .iter()
            .map(|host| format!("{} {host}", host.section))
            .collect();
        assert_eq!(
            hosts,
            [
                "spec.source kafka.example.com:9093",
                "spec.source kafka:9092",
                "spec.referenceData redis:6379",
                "spec.warehouse db-a:5432",
                "spec.warehouse 2001:db8::1:5433",
            ]
        );
    }

    #[test]
    fn a_pattern_allows_exactly_its_hosts() {
        let hosts = stage_hosts(&stage());
        for (pattern, expected) in [
            ("kafka.example.com", [true, false, false, false, false]),
            ("KAFKA.example.com:9093", [true, false, false, false, false]),
            ("kafka.example.com:9092", [false; 5]),
            ("*.example.com", [true, false, false, false, false]),
            ("example.com", [false; 5]),
            ("*.ample.com", [false; 5]),
            ("*.orders.svc", [false, true, true, true, false]),
            ("kafka", [false, true, false, false, false]),
            ("redis.orders.svc:6379", [false, false, true, false, false]),
            ("[2001:db8::1]:5433", [false, false, false, false, true]),
        ] {
            let pattern = [pattern.parse().expect(pattern)];
            let allowed: Vec<bool> = hosts.iter().map(|host| host.is_allowed_by(&pattern)).collect();
            assert_eq!(allowed, expected, "{pattern:?}");
        }
        for text in [
            "",
            "*",
            "*example.com",
            "a.*.com",
            "kafka:port",
            "redis://a",
            "a b",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
