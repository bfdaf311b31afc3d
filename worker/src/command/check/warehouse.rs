#![expect(clippy::disallowed_types, reason = "edge: queries the catalogs of PostgreSQL")]
//! Checks the warehouse of a stage: login, encoding, schema level and permissions. Never writes.

use crds::StreamStage;
use crds::stage::Layer;
use sqlx::{PgConnection, Row as _};

use super::finding::Finding;
use crate::command::migrate::MIGRATOR;
use crate::connect::Secrets;
use crate::encoding;
use crate::plan::ORDERS;
use crate::session::{connect_sqlstate, with_deadline};
use crate::stage;
use crate::statement;
use crate::vault::tables;
use crate::warehouse::TRANSACTION_TIMEOUT;

const SERVER: &str = "\
SELECT current_setting('server_version') AS version, current_setting('server_encoding') AS encoding,
    current_user::text AS role, session_user::text AS login";

/// Whether the policies of migration 0015 give the login the rows of the consumer group `$1`.
const HAS_GROUP: &str = "\
SELECT EXISTS (SELECT FROM streamstage.login_group WHERE login = session_user AND consumer_group = $1)
    OR current_user = 'streamstage_worker'
        AND NOT EXISTS (SELECT FROM streamstage.login_group WHERE login = session_user)";

/// Migration that creates `streamstage.login_group`.
const LOGIN_GROUP_MIGRATION: i64 = 15;

const APPLIED_MIGRATIONS: &str = "SELECT version FROM streamstage._sqlx_migrations ORDER BY version";

/// Objects and the privileges that the current role lacks on them, of the wanted ones.
const MISSING_PRIVILEGES: &str = "\
WITH wanted AS (
    SELECT wanted.table_name, wanted.privilege, namespace.oid AS namespace, namespace.nspname, relation.oid AS relation
    FROM unnest($1::text[], $2::text[]) AS wanted (table_name, privilege)
    JOIN pg_namespace AS namespace ON namespace.nspname = split_part(wanted.table_name, '.', 1)
    JOIN pg_class AS relation
        ON relation.relnamespace = namespace.oid AND relation.relname = split_part(wanted.table_name, '.', 2)
)
SELECT DISTINCT 'SCHEMA ' || nspname, 'USAGE' FROM wanted WHERE NOT has_schema_privilege(namespace, 'USAGE')
UNION ALL
SELECT table_name, string_agg(privilege, ', ' ORDER BY privilege)
FROM wanted WHERE NOT has_table_privilege(relation, privilege)
GROUP BY table_name ORDER BY 1";

/// Checks the warehouse of a stage.
pub(super) async fn check_warehouse(stage: &StreamStage, secrets: &Secrets) -> Vec<Finding> {
    let warehouse = &stage.spec.warehouse;
    let thing = format!(
        "{} warehouse {}:{}/{}",
        stage.name(),
        warehouse.host,
        warehouse.port,
        warehouse.database
    );
    match inspect(stage, secrets).await {
        Ok(server) => server.findings(&thing),
        Err(cause) => vec![Finding::failed(thing, cause)],
    }
}

/// State of the database, as the role of the workers sees it.
#[derive(Debug, Default)]
struct Server {
    version: String,
    encoding: String,
    /// Role of the worker: `streamstage_worker`, or that of its layer.
    role: String,
    login: String,
    /// Consumer group of the stage, if the login may not use it.
    foreign_group: Option<String>,
    /// Versions of the applied migrations; `None` if the role cannot read them.
    applied: Option<Vec<i64>>,
    /// Objects, and the privileges that the role lacks on them.
    missing_privileges: Vec<(String, String)>,
}

impl Server {
    fn findings(&self, thing: &str) -> Vec<Finding> {
        let known: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
        let mut findings = Vec::new();
        if let Err(unsupported) = encoding::accept(&self.encoding) {
            findings.push(Finding::failed(thing, unsupported.to_string()));
        }
        findings
            .extend(schema_level(&known, self.applied.as_deref()).map(|cause| Finding::failed(thing, cause)));
        findings.extend(self.missing_privileges.iter().map(|(object, privileges)| {
            let cause = format!(
                "the role {role} lacks {privileges} on {object}; GRANT {privileges} ON {object} TO {role}",
                role = self.role
            );
            Finding::failed(thing, cause)
        }));
        findings.extend(self.foreign_group.as_ref().map(|group| {
            let cause = format!(
                "the login {login} may not use the consumer group {group}; \
                 INSERT INTO streamstage.login_group VALUES ('{login}', '{group}')",
                login = self.login
            );
            Finding::failed(thing, cause)
        }));
        if findings.is_empty() {
            findings.push(Finding::ok(thing, format!("PostgreSQL {}", self.version)));
        }
        findings
    }
}

/// Compares the applied migrations with those of this worker; returns cause and remedy if they differ.
fn schema_level(known: &[i64], applied: Option<&[i64]>) -> Option<String> {
    let Some(applied) = applied else {
        return Some("the applied migrations cannot be read; run `worker migrate`".to_owned());
    };
    let difference = |these: &[i64], those: &[i64]| {
        let only = these.iter().filter(|version| !those.contains(version));
        only.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (missing, newer) = (difference(known, applied), difference(applied, known));
    if !missing.is_empty() {
        return Some(format!(
            "the migrations {missing} are not applied; run `worker migrate`"
        ));
    }
    (!newer.is_empty())
        .then(|| format!("a newer worker has applied the migrations {newer}; upgrade this worker"))
}

/// Tables that a stage uses, each with the privileges that it needs.
fn wanted_privileges(layer: Layer) -> Vec<(String, &'static str)> {
    let common: &[(&str, &[&str])] = &[
        ("streamstage.position", &["SELECT", "INSERT", "UPDATE"]),
        ("streamstage.dead_letter", &["SELECT", "INSERT", "UPDATE"]),
        ("streamstage.hold", &["SELECT", "INSERT", "UPDATE"]),
    ];
    let own: &[(&str, &[&str])] = match layer {
        Layer::Stg => &[
            ("stg.order_events", &["SELECT", "INSERT", "UPDATE"]),
            ("stg.order_event_history", &["SELECT", "INSERT"]),
            (
                "stg.pending_enrichment",
                &["SELECT", "INSERT", "UPDATE", "DELETE"],
            ),
            // A new worker learns from the vault which reference data entries existed before.
            ("dds.h_user", &["SELECT"]),
            ("dds.h_restaurant", &["SELECT"]),
        ],
        Layer::Dds => &[],
        Layer::Cdm => &[
            ("cdm.order_contribution", &["SELECT", "INSERT", "UPDATE"]),
            (
                "cdm.product_order_count",
                &["SELECT", "INSERT", "UPDATE", "DELETE"],
            ),
            (
                "cdm.category_order_count",
                &["SELECT", "INSERT", "UPDATE", "DELETE"],
            ),
            ("cdm.entity_name", &["SELECT", "INSERT", "UPDATE"]),
            (
                "cdm.category_thresholds",
                &["SELECT", "INSERT", "UPDATE", "DELETE"],
            ),
        ],
    };
    let vault = if layer == Layer::Dds {
        tables(&ORDERS.vault)
    } else {
        Vec::new()
    };
    let vault = vault
        .into_iter()
        .flat_map(|table| ["SELECT", "INSERT"].map(|privilege| (format!("dds.{}", table.name), privilege)));
    let listed = common.iter().chain(own).flat_map(|(table, privileges)| {
        privileges
            .iter()
            .map(|privilege| ((*table).to_owned(), *privilege))
    });
    listed.chain(vault).collect()
}

/// Reads the state of the database. Returns cause and remedy if the stage cannot use it at all.
async fn inspect(stage: &StreamStage, secrets: &Secrets) -> Result<Server, String> {
    let warehouse = stage::warehouse(stage, secrets).map_err(|error| error.to_string())?;
    let read = with_deadline(TRANSACTION_TIMEOUT, async {
        // Dropped without a commit: a failed statement may have aborted it.
        let mut transaction = warehouse.begin_as_worker(TRANSACTION_TIMEOUT).await?;
        read_state(transaction.connection(), stage).await
    });
    read.await.map_err(|error| unusable(&error))
}

async fn read_state(connection: &mut PgConnection, stage: &StreamStage) -> Result<Server, sqlx::Error> {
    let row = statement::query(SERVER).fetch_one(&mut *connection).await?;
    let (tables, privileges): (Vec<String>, Vec<&str>) =
        wanted_privileges(stage.spec.layer).into_iter().unzip();
    let missing_privileges = statement::query_as(MISSING_PRIVILEGES)
        .bind(tables)
        .bind(privileges)
        .fetch_all(&mut *connection)
        .await?;
    // Last, because a failed statement aborts the transaction.
    let applied = statement::query_scalar(APPLIED_MIGRATIONS)
        .fetch_all(&mut *connection)
        .await;
    let applied: Option<Vec<i64>> = match applied {
        Ok(applied) => Some(applied),
        Err(sqlx::Error::Database(_)) => None,
        Err(error) => return Err(error),
    };
    let group = stage.consumer_group();
    let has_table = applied
        .iter()
        .flatten()
        .any(|version| *version >= LOGIN_GROUP_MIGRATION);
    let is_foreign = has_table
        && !statement::query_scalar::<bool>(HAS_GROUP)
            .bind(&group)
            .fetch_one(connection)
            .await?;
    Ok(Server {
        version: row.try_get("version")?,
        encoding: row.try_get("encoding")?,
        role: row.try_get("role")?,
        login: row.try_get("login")?,
        foreign_group: is_foreign.then_some(group),
        applied,
        missing_privileges,
    })
}

/// Cause and remedy of a failed connection.
fn unusable(error: &sqlx::Error) -> String {
    let remedy = match connect_sqlstate(error) {
        Some("28P01" | "28000") => "check the keys of spec.warehouse.authSecretName",
        Some("3D000") => "create the database, or check spec.warehouse.database",
        // The role of the workers does not exist, or the login is not a member.
        Some("22023" | "42704") => "run `worker migrate`",
        Some("42501") => "grant the role streamstage_worker to the login, or the role of the layer",
        Some("53300") => "raise max_connections of the server, or lower spec.scaling.maxReplicas",
        _ => "check spec.warehouse.host and spec.warehouse.port, and that the server is running",
    };
    format!("{error}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            version: "17.2".to_owned(),
            encoding: "UTF8".to_owned(),
            role: "streamstage_worker".to_owned(),
            applied: Some(MIGRATOR.iter().map(|migration| migration.version).collect()),
            ..Server::default()
        }
    }

    fn findings(server: &Server) -> Vec<String> {
        server.findings("t").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_database_as_it_should_be_has_one_line() {
        assert_eq!(findings(&server()), ["ok      t: PostgreSQL 17.2"]);
    }

    #[test]
    fn every_fault_has_a_line_of_its_own() {
        let server = Server {
            encoding: "LATIN1".to_owned(),
            applied: None,
            missing_privileges: vec![("stg.order_events".to_owned(), "INSERT, UPDATE".to_owned())],
            foreign_group: Some("orders.stg".to_owned()),
            ..server()
        };
        let findings = findings(&server);
        let parts = [
            "LATIN1",
            "worker migrate",
            "GRANT INSERT, UPDATE ON stg.order_events TO streamstage_worker",
            "may not use the consumer group orders.stg",
        ];
        assert_eq!(findings.len(), parts.len(), "{findings:#?}");
        for (finding, part) in findings.iter().zip(parts) {
            assert!(
                finding.starts_with("FAILED  t: ") && finding.contains(part),
                "{part}: {finding}"
            );
        }
    }

    #[test]
    fn a_schema_of_another_level_fails() {
        assert_eq!(schema_level(&[1, 2], Some(&[1, 2])), None);
        let older = schema_level(&[1, 2, 3], Some(&[1])).expect("older");
        assert!(older.contains("migrations 2, 3 are not applied"), "{older}");
        let newer = schema_level(&[1, 2], Some(&[1, 2, 4])).expect("newer");
        assert!(
            newer.contains("migrations 4") && newer.contains("upgrade this worker"),
            "{newer}"
        );
    }
}
