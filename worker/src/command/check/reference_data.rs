//! Checks the reference data of a stage: sends the requests that `worker run` sends. Never changes a key.

use crds::StreamStage;
use crds::stage::ReferenceData;

use super::finding::Finding;
use crate::connect::{self, Secrets};
use crate::layer::interface::LookupError;
use crate::layer::stg::{fetch_sizes, fetch_values};
use crate::redis_connection::RedisConnection;

/// Checks the reference data of a stage; a stage without reference data has no finding.
pub(super) async fn check_reference_data(stage: &StreamStage, secrets: &Secrets) -> Vec<Finding> {
    let Some(reference_data) = &stage.spec.reference_data else {
        return Vec::new();
    };
    let thing = format!(
        "{} reference data {}",
        stage.name(),
        without_password(&reference_data.url)
    );
    match inspect(reference_data, secrets).await {
        Ok(server) => server.findings(&thing),
        Err(cause) => vec![Finding::failed(thing, cause)],
    }
}

/// Properties of a Redis server.
#[derive(Debug, Default)]
struct Server {
    /// Number of keys; `None` if the login may not run `DBSIZE`.
    keys: Option<u64>,
    is_cluster: bool,
    /// Policy by which the server evicts keys, if it has a memory limit.
    eviction_policy: Option<String>,
}

impl Server {
    /// Parses the response to `INFO`: lines of name and value.
    fn parse(info: &str, keys: Option<u64>) -> Self {
        let value = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let has_limit = value("maxmemory").is_some_and(|bytes| bytes != "0");
        Self {
            keys,
            is_cluster: value("cluster_enabled") == Some("1"),
            eviction_policy: value("maxmemory_policy")
                .filter(|policy| has_limit && *policy != "noeviction")
                .map(str::to_owned),
        }
    }

    fn findings(&self, thing: &str) -> Vec<Finding> {
        if self.is_cluster {
            return vec![Finding::failed(
                thing,
                crate::layer::stg::REDIS_CLUSTER_UNSUPPORTED,
            )];
        }
        let details = self.keys.map_or_else(
            || "the login may not count the entries".to_owned(),
            |keys| format!("{keys} entries"),
        );
        let mut findings = vec![Finding::ok(thing, details)];
        if self.keys == Some(0) {
            findings.push(Finding::warning(
                thing,
                "the database is empty, so every order waits for its entries; load the reference data, or check the \
                 number of the database in spec.referenceData.url",
            ));
        }
        if let Some(policy) = &self.eviction_policy {
            let cause = format!(
                "the server evicts keys (maxmemory-policy {policy}), so orders wait for entries that were loaded; set \
                 maxmemory-policy noeviction"
            );
            findings.push(Finding::warning(thing, cause));
        }
        findings
    }
}

/// Sends the requests. Returns cause and remedy if the stage cannot look up entries.
async fn inspect(reference_data: &ReferenceData, secrets: &Secrets) -> Result<Server, String> {
    let mut redis = connect::redis_connection(reference_data, secrets).map_err(|error| error.to_string())?;
    let info: Option<String> = optional(redis::cmd("INFO").query_async(&mut redis).await)?;
    let keys: Option<u64> = optional(redis::cmd("DBSIZE").query_async(&mut redis).await)?;
    let server = Server::parse(&info.unwrap_or_default(), keys);
    if !server.is_cluster {
        let entries = look_up(&mut redis, keys).await;
        entries.map_err(|error| LookupError::from(error).to_string())?;
    }
    Ok(server)
}

/// Looks up two entries as a batch does.
async fn look_up(redis: &mut RedisConnection, keys: Option<u64>) -> redis::RedisResult<()> {
    let present: Option<String> = match keys {
        // A login that may read the entries may lack the permission to pick one.
        Some(1..) => redis::cmd("RANDOMKEY")
            .query_async(redis)
            .await
            .unwrap_or_default(),
        _ => None,
    };
    let key = present.unwrap_or_default();
    fetch_sizes(redis, &[&key, &key]).await?;
    // One byte of each: an entry may be of any size. Another type is a malformed entry, and not a failure.
    let keys = [(&key, 1), (&key, 1)];
    match fetch_values(redis, keys.into_iter()).await {
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(()),
        result => result.map(drop),
    }
}

/// `None` if the login lacks the permission for a request that `worker run` does not need.
fn optional<T>(result: redis::RedisResult<T>) -> Result<Option<T>, String> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code() == Some("NOPERM") => Ok(None),
        Err(error) => Err(LookupError::from(error).to_string()),
    }
}

/// Returns the URL without the password that it may contain.
fn without_password(url: &str) -> String {
    url::Url::parse(url).map_or_else(
        |_| "(invalid URL)".to_owned(),
        |mut url| {
            // It fails only for a URL that cannot have a password.
            url.set_password(None).unwrap_or_default();
            url.to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(info: &str, keys: Option<u64>) -> Vec<String> {
        let findings = Server::parse(info, keys).findings("t");
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_single_server_with_entries_is_ok() {
        let info =
            "# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n# Cluster\r\ncluster_enabled:0\r\n";
        assert_eq!(findings(info, Some(7)), ["ok      t: 7 entries"]);
        assert_eq!(
            findings("", None),
            ["ok      t: the login may not count the entries"]
        );
    }

    #[test]
    fn a_cluster_fails() {
        let findings = findings("# Cluster\r\ncluster_enabled:1\r\n", Some(7));
        assert!(
            findings.len() == 1 && findings[0].starts_with("FAILED  t: a Redis Cluster"),
            "{findings:?}"
        );
    }

    #[test]
    fn an_empty_database_and_an_eviction_policy_are_warnings() {
        let empty = findings("", Some(0));
        assert!(
            empty.len() == 2 && empty[1].contains("the database is empty"),
            "{empty:?}"
        );
        let evicting = findings("maxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n", Some(7));
        assert!(
            evicting.len() == 2 && evicting[1].contains("allkeys-lru"),
            "{evicting:?}"
        );
        assert_eq!(
            findings("maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n", Some(7)).len(),
            1
        );
    }
}
