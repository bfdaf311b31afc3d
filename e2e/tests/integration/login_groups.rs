//! Logins with the role of one layer and the rows of one consumer group: a worker with such a login does its work, and
//! the password reaches nothing else.
#![expect(
    clippy::disallowed_types,
    reason = "edge: connects to PostgreSQL as another user"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::{Pipeline, STAGES, start_services};
use e2e::services::Services;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

use crate::privileges::{ensure_denied, execute};

const DEADLINE: Duration = Duration::from_mins(2);
const PASSWORD: &str = "open-sesame-11";
/// Tables whose rows belong to a consumer group, with the layer whose role may use it, if only one may.
const KEYED: [(&str, Option<&str>); 5] = [
    ("streamstage.position", None),
    ("streamstage.dead_letter", None),
    ("streamstage.hold", None),
    ("stg.pending_enrichment", Some("stg")),
    ("cdm.category_thresholds", Some("cdm")),
];

async fn execute_as_superuser(pipeline: &Pipeline, statement: &str) -> Result<u64> {
    let mut superuser = pipeline.pool().acquire().await?;
    execute(&mut superuser, statement)
        .await
        .with_context(|| statement.to_owned())
}

async fn connect_as(services: &Services, database: &str, login: &str) -> Result<PgConnection> {
    let options: PgConnectOptions = services.postgres_url(database).parse()?;
    let options = options.username(login).password(PASSWORD);
    Ok(PgConnection::connect_with(&options).await?)
}

/// Folder of the Secrets of a stage, whose login is `<database>_<stage>`.
fn write_secret(pipeline: &Pipeline, stage: &str) -> Result<PathBuf> {
    let secrets = pipeline.folder().join(stage);
    std::fs::create_dir_all(secrets.join("warehouse"))?;
    let login = format!("{}_{stage}", pipeline.name());
    std::fs::write(secrets.join("warehouse/username"), login)?;
    std::fs::write(secrets.join("warehouse/password"), PASSWORD)?;
    Ok(secrets)
}

fn secrets_flags(secrets: &Path) -> Result<[&str; 2]> {
    Ok(["--secrets-dir", secrets.to_str().context("a path in UTF-8")?])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_the_role_of_its_layer_reaches_only_its_layer_and_its_group() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "login_groups", 2).await?;
    let name = pipeline.name().to_owned();
    pipeline.edit("  warehouse:\n", "  warehouse:\n    authSecretName: warehouse\n")?;
    let mut generator = Generator::new(&Settings {
        bad: 0.05,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 5).await?;
    let messages: Vec<_> = generator.history(200).collect();
    pipeline.produce(1, messages.into_iter()).await?;
    for stage in STAGES {
        let create =
            format!("CREATE ROLE {name}_{stage} LOGIN PASSWORD '{PASSWORD}' IN ROLE streamstage_{stage}");
        execute_as_superuser(&pipeline, &create).await?;
        let secrets = write_secret(&pipeline, stage)?;
        // A login of a layer has no group by default.
        let error = pipeline
            .run_command("check", &[stage], &secrets_flags(&secrets)?)
            .expect_err("no group");
        let finding =
            format!("INSERT INTO streamstage.login_group VALUES ('{name}_{stage}', '{name}.{stage}')");
        ensure!(error.to_string().contains(&finding), "{error:#}");
        execute_as_superuser(&pipeline, &finding).await?;
        pipeline.run_command("check", &[stage], &secrets_flags(&secrets)?)?;
    }

    // The workers with these logins, and the commands with the login of an operator, which is a superuser here.
    let mut workers = Vec::new();
    for stage in STAGES {
        let secrets = pipeline.folder().join(stage);
        workers.push(pipeline.start_worker_with_flags(&[stage], &secrets_flags(&secrets)?)?);
    }
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.wait_drained(DEADLINE).await?;
    for worker in workers {
        ensure!(worker.stop().await?.success(), "a worker failed");
    }
    let letters = "SELECT count(*) FROM streamstage.dead_letter";
    ensure!(
        pipeline.query_scalar::<i64>(letters).await? > 0,
        "the input has bad records"
    );
    pipeline.edit("    authSecretName: warehouse\n", "")?;
    for command in ["check", "verify", "dead-letters list"] {
        pipeline.run_command(command, &[], &[])?;
    }
    pipeline.run_command("reset-offsets", &["dds"], &["--to", "earliest", "--execute"])?;

    assert_foreign_rows_are_denied(&services, &pipeline).await?;
    assert_foreign_tables_are_denied(&services, &pipeline).await?;
    assert_reader_is_restricted(&services, &pipeline).await?;
    for login in STAGES.into_iter().chain(["both", "reader", "outsider"]) {
        execute_as_superuser(&pipeline, &format!("DROP ROLE {name}_{login}")).await?;
    }
    Ok(())
}

/// Another group has a row in each table that is keyed by group: no login sees it, changes it, or adds another one.
async fn assert_foreign_rows_are_denied(services: &Services, pipeline: &Pipeline) -> Result<()> {
    let name = pipeline.name();
    let rows = [
        (
            "streamstage.position",
            "consumer_group, topic, partition, next_offset",
            "'foreign', 't', 0, 7",
        ),
        (
            "streamstage.dead_letter",
            "consumer_group, topic, partition, \"offset\", stage, code, detail, header_names, header_values, attempts",
            "'foreign', 't', 0, 7, 'stg', 'ParseError', '', '{}', '{}', 1",
        ),
        (
            "streamstage.hold",
            "consumer_group, topic, cause",
            "'foreign', 't', 'cause'",
        ),
        (
            "stg.pending_enrichment",
            "consumer_group, topic, partition, \"offset\", object_id, version, missing_entries, next_attempt_at, \
             header_names, header_values",
            "'foreign', 't', 0, 7, 1, 'v', '{}', now(), '{}', '{}'",
        ),
        (
            "cdm.category_thresholds",
            "consumer_group, category, threshold",
            "'foreign', 'c', 1",
        ),
    ];
    for (table, columns, values) in rows {
        let insert = format!("INSERT INTO {table} ({columns}) VALUES ({values})");
        execute_as_superuser(pipeline, &insert).await?;
    }
    // A member of the role of all layers has every group, until rows name its own.
    let both = format!("{name}_both");
    let create = format!("CREATE ROLE {both} LOGIN PASSWORD '{PASSWORD}' IN ROLE streamstage_worker");
    execute_as_superuser(pipeline, &create).await?;
    let mut worker = connect_as(services, name, &both).await?;
    for (table, ..) in rows {
        let select = format!("SELECT FROM {table} WHERE consumer_group = 'foreign'");
        ensure!(execute(&mut worker, &select).await? == 1, "{table}");
    }
    let restrict = format!("INSERT INTO streamstage.login_group VALUES ('{both}', '{name}.stg')");
    execute_as_superuser(pipeline, &restrict).await?;

    for login in STAGES.into_iter().chain(["both"]) {
        let mut worker = connect_as(services, name, &format!("{name}_{login}")).await?;
        for role in [None, Some("streamstage_worker").filter(|_| login == "both")] {
            if let Some(role) = role {
                execute(&mut worker, &format!("SET ROLE {role}")).await?;
            }
            for ((table, columns, values), (_, layer)) in rows.into_iter().zip(KEYED) {
                if layer.is_some_and(|layer| layer != login && login != "both") {
                    ensure_denied(&mut worker, &format!("SELECT FROM {table}")).await?;
                    continue;
                }
                let select = format!("SELECT FROM {table} WHERE consumer_group = 'foreign'");
                ensure!(execute(&mut worker, &select).await? == 0, "{login}: {select}");
                let update = format!(
                    "UPDATE {table} SET consumer_group = consumer_group WHERE consumer_group = 'foreign'"
                );
                ensure!(execute(&mut worker, &update).await? == 0, "{login}: {update}");
                let insert =
                    format!("INSERT INTO {table} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING");
                ensure_denied(&mut worker, &insert).await?;
            }
            let own = if login == "both" { "stg" } else { login };
            let positions = "SELECT FROM streamstage.position";
            ensure!(
                execute(&mut worker, positions).await? == 2,
                "{login}: {positions}"
            );
            // A position of its own cannot be given away either.
            let give = format!(
                "UPDATE streamstage.position SET consumer_group = 'foreign' WHERE consumer_group = '{name}.{own}'"
            );
            ensure_denied(&mut worker, &give).await?;
            for widen in [
                format!("INSERT INTO streamstage.login_group VALUES ('{name}_{login}', 'foreign')"),
                "DELETE FROM streamstage.login_group".to_owned(),
                "UPDATE streamstage.login_group SET consumer_group = 'foreign'".to_owned(),
                "ALTER TABLE streamstage.position DISABLE ROW LEVEL SECURITY".to_owned(),
                "SET SESSION AUTHORIZATION postgres".to_owned(),
            ] {
                ensure_denied(&mut worker, &widen).await?;
            }
        }
    }
    Ok(())
}

/// The login of one layer cannot use the tables of another one, nor the rights of another role.
async fn assert_foreign_tables_are_denied(services: &Services, pipeline: &Pipeline) -> Result<()> {
    let name = pipeline.name();
    for (login, forbidden) in [
        (
            "stg",
            [
                "INSERT INTO dds.h_user SELECT * FROM dds.h_user",
                "SELECT FROM dds.s_order_status",
                "SELECT FROM cdm.order_contribution",
                "SET ROLE streamstage_dds",
            ],
        ),
        (
            "dds",
            [
                "SELECT payload FROM stg.order_events",
                "UPDATE stg.order_events SET version = version",
                "UPDATE dds.h_user SET load_src = load_src",
                "SET ROLE streamstage_worker",
            ],
        ),
        (
            "cdm",
            [
                "SELECT FROM stg.order_events",
                "SELECT FROM dds.h_user",
                "INSERT INTO dds.h_user SELECT * FROM dds.h_user",
                "SET ROLE streamstage_stg",
            ],
        ),
    ] {
        let mut worker = connect_as(services, name, &format!("{name}_{login}")).await?;
        for statement in forbidden {
            ensure_denied(&mut worker, statement).await?;
        }
        ensure_denied(&mut worker, "CREATE TEMPORARY TABLE t (i integer)").await?;
    }
    Ok(())
}

/// A reader cannot fill the disk with temporary tables, and connects by its role after PUBLIC has lost its permission.
async fn assert_reader_is_restricted(services: &Services, pipeline: &Pipeline) -> Result<()> {
    let name = pipeline.name();
    let logins = [("reader", "IN ROLE streamstage_reader"), ("outsider", "")];
    for (login, role) in logins {
        let create = format!("CREATE ROLE {name}_{login} LOGIN PASSWORD '{PASSWORD}' {role}");
        execute_as_superuser(pipeline, &create).await?;
    }
    execute_as_superuser(
        pipeline,
        &format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"),
    )
    .await?;
    let mut reader = connect_as(services, name, &format!("{name}_reader")).await?;
    execute(&mut reader, "SELECT FROM cdm_bi.dead_letters").await?;
    for forbidden in [
        "CREATE TEMPORARY TABLE t (i integer)",
        "SELECT FROM streamstage.position",
        "SELECT FROM streamstage.login_group",
        "CREATE TABLE cdm_bi.t (i integer)",
        "CREATE TABLE public.t (i integer)",
    ] {
        ensure_denied(&mut reader, forbidden).await?;
    }
    connect_as(services, name, &format!("{name}_stg")).await?;
    let denied = connect_as(services, name, &format!("{name}_outsider")).await;
    ensure!(denied.is_err(), "a login without a role connected");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_migrations_need_no_superuser() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "owner", 1).await?;
    let owner = format!("{}_owner", pipeline.name());
    let database = format!("{}_owned", pipeline.name());
    let create = format!("CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD '{PASSWORD}'");
    execute_as_superuser(&pipeline, &create).await?;
    execute_as_superuser(&pipeline, &format!("CREATE DATABASE {database} OWNER {owner}")).await?;
    let former = format!("database: {}\n", pipeline.name());
    pipeline.edit(former.trim_end(), &format!("database: {database}"))?;
    let migrate = || {
        let output = pipeline
            .worker_command("migrate", &[])?
            .env("PGUSER", &owner)
            .env("PGPASSWORD", PASSWORD)
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{errors}");
        anyhow::Ok(())
    };
    migrate()?;
    // The roles exist now, so an upgrade by the owner needs no permission to create roles.
    execute_as_superuser(&pipeline, &format!("ALTER ROLE {owner} NOCREATEROLE")).await?;
    let mut superuser: PgConnection = {
        let options: PgConnectOptions = services.postgres_url(&database).parse()?;
        PgConnection::connect_with(&options).await?
    };
    let before_login_groups = "DELETE FROM streamstage._sqlx_migrations WHERE version = 15;
        DROP TABLE streamstage.login_group CASCADE";
    execute(&mut superuser, before_login_groups).await?;
    migrate()
}
