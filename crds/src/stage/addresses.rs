//! Addresses and topic names of a stage: the patterns of the schema, and the checks that accept exactly the same texts.

/// A port from 1 to 65535, without leading zeros.
macro_rules! port {
    () => {
        "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
    };
}

/// A host, with or without a port; an IPv6 address has a port after brackets only.
macro_rules! host {
    () => {
        concat!(
            r"(\[[^,\s\[\]]+\](:",
            port!(),
            r")?|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*|[^,:\s\[\]]+(:",
            port!(),
            ")?)"
        )
    };
}

/// Pattern of a topic name. `.` and `..` are no names, as Kafka stores a topic in a folder of its name.
pub(super) const TOPIC_PATTERN: &str = r"^([a-zA-Z0-9_-]|\.[a-zA-Z0-9_-]|\.\.[a-zA-Z0-9._-])[a-zA-Z0-9._-]*$";
/// Pattern of a bootstrap server.
pub(super) const BROKER_PATTERN: &str = concat!(r"^[^,\s]+:", port!(), "$");
/// Pattern of a Redis URL without credentials.
pub(super) const REDIS_URL_PATTERN: &str = concat!(
    r"^rediss?://(\[[0-9A-Fa-f:.]+\]|[^@/:\s\[\]]+)(:",
    port!(),
    ")?(/[0-9]{1,5})?$"
);
/// Pattern of the hosts of a warehouse.
pub(super) const HOSTS_PATTERN: &str = concat!("^", host!(), "(,", host!(), "){0,15}$");

/// Pattern of an IANA time zone, as tight as a schema can be without the names of the places: they change with the
/// database, and the check in Rust has them.
pub(super) const TIME_ZONE_PATTERN: &str = concat!(
    "^((Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Brazil|Canada|Chile|Europe|Indian|Mexico|Pacific|US)",
    "(/[A-Z][A-Za-z]+([_-][A-Za-z]+)*){1,2}",
    "|(Etc/)?(GMT|GMT[+-]?0|Greenwich|UCT|UTC|Universal|Zulu)|Etc/GMT([+-][1-9]|[+-]1[0-2]|-1[34])",
    "|CET|CST6CDT|Cuba|EET|EST|EST5EDT|Egypt|Eire|Factory|GB|GB-Eire|HST|Hongkong|Iceland|Iran|Israel|Jamaica|Japan",
    "|Kwajalein|Libya|MET|MST|MST7MDT|NZ|NZ-CHAT|Navajo|PRC|PST8PDT|Poland|Portugal|ROC|ROK|Singapore|Turkey|W-SU|WET)$"
);

/// Maximum length of a bootstrap server.
const MAX_BROKER_LENGTH: usize = 261;
/// Maximum length of a Redis URL.
const MAX_URL_LENGTH: usize = 512;

/// Returns true for a name of a topic of any length.
pub(super) fn is_topic_name(topic: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !topic.is_empty() && topic.bytes().all(is_allowed) && !matches!(topic, "." | "..")
}

/// Returns true for `host:port`.
pub(super) fn is_broker_address(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else {
        return false;
    };
    let is_host = !host.is_empty() && !host.contains(|c: char| is_space(c) || c == ',');
    is_host && server.len() <= MAX_BROKER_LENGTH && is_port(port)
}

/// Returns true for a Redis URL without credentials.
pub(super) fn is_redis_url(url: &str) -> bool {
    let rest = url
        .strip_prefix("redis://")
        .or_else(|| url.strip_prefix("rediss://"));
    let Some(rest) = rest.filter(|_| url.len() <= MAX_URL_LENGTH) else {
        return false;
    };
    let (server, database) = rest.split_once('/').unwrap_or((rest, "0"));
    let is_number = (1..=5).contains(&database.len()) && database.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !server.ends_with(']') => (host, Some(port)),
        _ => (server, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => {
            let is_allowed = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
            !address.is_empty() && address.bytes().all(is_allowed)
        }
        None => !host.is_empty() && !host.contains(|c: char| is_space(c) || "@:[]".contains(c)),
    };
    is_host && port.is_none_or(is_port) && is_number
}

/// Returns true for a port from 1 to 65535, without leading zeros.
pub(super) fn is_port(text: &str) -> bool {
    let port = text.parse::<u16>();
    port.is_ok_and(|port| port > 0 && port.to_string() == text)
}

/// Returns true for the white space of the patterns.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::stage::warehouse::parse_host;

    fn matches(pattern: &str, text: &str) -> bool {
        let schema = json!({"type": "string", "pattern": pattern});
        jsonschema::is_valid(&schema, &json!(text))
    }

    fn are_hosts(hosts: &str) -> bool {
        hosts.split(',').all(|host| parse_host(host, 1).is_some())
    }

    #[test]
    fn ports_topics_and_hosts_that_no_server_can_have_are_rejected() {
        for port in ["0", "65536", "99999", "09092", "+1", "", " 1", "1a"] {
            assert!(!is_port(port), "{port}");
            assert!(!is_broker_address(&format!("kafka:{port}")), "{port}");
            assert!(!is_redis_url(&format!("redis://redis:{port}/0")), "{port}");
        }
        assert!(["1", "9092", "59999", "65535"].into_iter().all(is_port));
        assert!(!is_topic_name("..") && !is_topic_name(".") && is_topic_name("..."));
        assert!(is_redis_url("redis://[2001:db8::1]:6379/0") && !is_redis_url("redis://a b/0"));
    }

    proptest! {
        #[test]
        fn the_patterns_accept_exactly_the_same_texts(
            topic in "[a.]{0,4}",
            server in "[a,:. ]{0,4}(:[069]{0,6})?",
            url in "rediss?://[a:\\[\\]@ /]{0,5}(:[069]{0,6})?(/[0-9]{0,2})?",
            host in "[a0:,\\[\\]. ]{0,6}(:[069]{0,6})?",
        ) {
            prop_assert_eq!(matches(TOPIC_PATTERN, &topic), is_topic_name(&topic), "{}", topic);
            prop_assert_eq!(matches(BROKER_PATTERN, &server), is_broker_address(&server), "{}", server);
            prop_assert_eq!(matches(REDIS_URL_PATTERN, &url), is_redis_url(&url), "{}", url);
            prop_assert_eq!(matches(HOSTS_PATTERN, &host), are_hosts(&host), "{}", host);
        }
    }
}
