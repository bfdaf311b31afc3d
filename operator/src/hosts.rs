//! Hosts that a stage connects to, and the rules for them. Pure: resolves no name.
//!
//! An allow-list of the operator names the hosts of all stages. Without one, or with the pattern `*` in it, stages may use
//! all other hosts too, except for those of `spec.source` that the operator itself would connect to in places that the
//! author of a stage cannot reach: its own loopback and link-local addresses, such as the metadata service of a cloud, and
//! Services of other namespaces.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crds::StreamStage;
use kafka::AddressPolicy;

use crate::connection::is_short_name;

/// Default port of Redis.
const REDIS_PORT: u16 = 6379;

/// Pattern of the hosts that are not denied by default.
const ANY: &str = "*";

/// Hosts that are allowed: `kafka.example.com`, `*.example.com` for every host below it, each with an optional port; or `*`
/// for every host that is not denied by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// Host name, the suffix of host names that begins with `.`, or [`ANY`].
    name: String,
    /// `None` for every port.
    port: Option<u16>,
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == ANY {
            let (name, port) = (ANY.to_owned(), None);
            return Ok(Self { name, port });
        }
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
                "`{text}` is not a host: write host, host:port, *.domain or *, such as kafka.example.com:9093"
            )),
        }
    }
}

impl HostPattern {
    /// Returns true for the pattern of all hosts that are not denied by default. It names no host.
    pub(crate) fn is_any(&self) -> bool {
        self.name == ANY
    }

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

/// Returns true if the patterns allow all hosts that are not denied by default.
#[must_use]
pub fn allow_others(patterns: &[HostPattern]) -> bool {
    patterns.is_empty() || patterns.iter().any(HostPattern::is_any)
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
    fn new(section: &'static str, host: &str, port: u16, namespace: &str) -> Self {
        let name = normalize(host);
        let full_name = if is_short_name(&name) {
            format!("{name}.{namespace}.svc")
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

    /// Returns true if one of the patterns names the host.
    #[must_use]
    pub fn is_allowed_by(&self, patterns: &[HostPattern]) -> bool {
        patterns.iter().any(|pattern| pattern.allows(self))
    }

    /// Why the operator does not connect to the host unless an allow-list contains it, for a stage in `namespace`.
    #[must_use]
    pub fn denied_by_default(&self, namespace: &str) -> Option<&'static str> {
        let is_local = self.name == "localhost"
            || self.name.ends_with(".localhost")
            || self.name.parse().is_ok_and(is_local);
        let service_namespace = service_namespace(&self.full_name);
        if is_local {
            Some("is an address of the operator's own host or link")
        } else if service_namespace.is_some_and(|of_service| of_service != namespace) {
            Some("is a Service of another namespace")
        } else {
            None
        }
    }
}

/// Namespace of a Service in `SERVICE.NAMESPACE.svc`, with or without a pod before and a cluster domain after it.
fn service_namespace(name: &str) -> Option<&str> {
    let labels: Vec<&str> = name.split('.').collect();
    let marker = labels.iter().skip(2).position(|label| *label == "svc")? + 2;
    Some(labels[marker - 1])
}

/// Returns true for addresses that mean something else in every host or network link, and those that name no host.
fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.octets()[0] == 0
                || address == Ipv4Addr::BROADCAST
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.is_multicast()
        }
    }
}

/// Addresses of the brokers that the operator connects to for the stages of a namespace, also those that a broker names.
pub struct SourceHosts {
    namespace: String,
    allowed: Vec<HostPattern>,
}

impl SourceHosts {
    /// Rule for a namespace, with the allow-list of the operator.
    #[must_use]
    pub fn new(namespace: &str, allowed: Vec<HostPattern>) -> Self {
        let namespace = namespace.to_owned();
        Self { namespace, allowed }
    }

    fn host(&self, host: &str, port: u16) -> StageHost {
        StageHost::new("spec.source", host, port, &self.namespace)
    }
}

impl AddressPolicy for SourceHosts {
    /// A name is absolute, unless it is one of a Service: `kafka.other` must not become `kafka.other.svc.cluster.local`
    /// by the search domains of the operator's pod.
    fn lookup_name(&self, host: &str, port: u16) -> Option<String> {
        let host = self.host(host, port);
        if !host.is_allowed_by(&self.allowed) && host.denied_by_default(&self.namespace).is_some() {
            return None;
        }
        let name = host.full_name;
        let is_relative =
            name == "localhost" || name.rsplit('.').next() == Some("svc") || name.parse::<IpAddr>().is_ok();
        Some(if is_relative { name } else { format!("{name}.") })
    }

    fn allows(&self, host: &str, port: u16, address: IpAddr) -> bool {
        !is_local(address) || self.host(host, port).is_allowed_by(&self.allowed)
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
    let namespace = stage.namespace();
    let servers = spec.source.bootstrap_servers.iter();
    let kafka = servers.filter_map(|server| {
        let (host, port) = split_port(server);
        Some(StageHost::new(
            "spec.source",
            host,
            port?.parse().ok()?,
            namespace,
        ))
    });
    let redis = spec.reference_data.iter().filter_map(|reference_data| {
        let (_, rest) = reference_data.url.split_once("://")?;
        let (host, port) = split_port(rest.split('/').next().unwrap_or_default());
        let port = port.map_or(Some(REDIS_PORT), |port| port.parse().ok())?;
        Some(StageHost::new("spec.referenceData", host, port, namespace))
    });
    let postgres = spec.warehouse.hosts().flatten();
    let postgres = postgres.map(|(host, port)| StageHost::new("spec.warehouse", host, port, namespace));
    kafka.chain(redis).chain(postgres).collect()
}

/// Server and database of the warehouse of a stage: equal texts mean one warehouse. The order of the hosts does not matter.
#[must_use]
pub fn warehouse_key(stage: &StreamStage) -> String {
    let hosts = stage_hosts(stage).into_iter();
    let mut servers: Vec<String> = hosts
        .filter(|host| host.section == "spec.warehouse")
        .map(|host| format!("{}:{}", host.full_name, host.port))
        .collect();
    servers.sort_unstable();
    servers.dedup();
    format!("{}/{}", servers.join(","), stage.spec.warehouse.database)
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
            "**",
            "*:9092",
            "*example.com",
            "a.*.com",
            "kafka:port",
            "redis://a",
            "a b",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn local_addresses_and_services_of_other_namespaces_are_denied_by_default() {
        let denied = |host: &str| {
            let host = StageHost::new("spec.source", host, 9092, "orders");
            host.denied_by_default("orders").is_some()
        };
        for host in [
            "localhost",
            "LocalHost.",
            "a.localhost",
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[ff02::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:169.254.169.254]",
            "kafka.other.svc",
            "kafka.other.svc.",
            "kafka.other.svc.cluster.local",
            "kafka-0.kafka.other.svc",
            "KAFKA.OTHER.SVC",
        ] {
            assert!(denied(host), "{host}");
        }
        for host in [
            "kafka",
            "kafka.orders.svc",
            "kafka.orders.svc.cluster.local",
            "kafka-0.kafka.orders.svc",
            "kafka.example.com",
            "svc.example.com",
            "10.0.0.1",
            "[2001:db8::1]",
        ] {
            assert!(!denied(host), "{host}");
        }
    }

    #[test]
    fn the_operator_connects_to_what_the_namespace_may_use_or_the_allow_list_has() {
        let hosts = SourceHosts::new("orders", vec!["127.0.0.1:9092".parse().expect("a pattern")]);
        let lookup = |host: &str, port| hosts.lookup_name(host, port);
        for (host, port, expected) in [
            ("kafka", 9092, Some("kafka.orders.svc")),
            ("kafka.orders.svc", 9092, Some("kafka.orders.svc")),
            ("kafka.example.com", 9092, Some("kafka.example.com.")),
            // With the search domains of a pod, this would be a Service of the namespace `other`.
            ("kafka.other", 9092, Some("kafka.other.")),
            ("10.0.0.1", 9092, Some("10.0.0.1")),
            ("2001:db8::1", 9092, Some("2001:db8::1")),
            ("kafka.other.svc", 9092, None),
            ("127.0.0.1", 9092, Some("127.0.0.1")),
            ("127.0.0.1", 22, None),
        ] {
            assert_eq!(lookup(host, port).as_deref(), expected, "{host}:{port}");
        }
        let any = SourceHosts::new("orders", vec!["*".parse().expect("a pattern")]);
        assert!(any.lookup_name("kafka.example.com", 9092).is_some());
        assert_eq!(
            any.lookup_name("127.0.0.1", 9092),
            None,
            "it is denied by default"
        );
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(hosts.allows("127.0.0.1", 9092, loopback));
        assert!(!hosts.allows("rebound.example.com", 9092, loopback));
        assert!(hosts.allows("kafka.example.com", 9092, IpAddr::from([10, 0, 0, 1])));
    }
}
