//! Permissions of the worker role on the Data Vault, tested with a login that is a member of the role.
#![expect(
    clippy::disallowed_types,
    reason = "edge: connects to PostgreSQL as another user"
)]

use anyhow::{Context as _, Result};
use e2e::pipeline::{Pipeline, start_services};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

use crate::privileges::{ensure_denied, execute};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_can_only_select_from_and_insert_into_the_vault() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "roles", 1).await?;
    let login = pipeline.name();
    for statement in [
        format!("CREATE ROLE {login} LOGIN PASSWORD 'open-sesame-9'"),
        format!("GRANT streamstage_worker TO {login}"),
    ] {
        execute(&mut *pipeline.pool().acquire().await?, &statement).await?;
    }
    let options: PgConnectOptions = services.postgres_url(login).parse()?;
    let options = options.username(login).password("open-sesame-9");
    let mut worker = PgConnection::connect_with(&options).await?;

    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables
         WHERE table_schema = 'dds' AND table_type = 'BASE TABLE' ORDER BY 1",
    )
    .fetch_all(pipeline.pool())
    .await?;
    // Five hubs, five links, six satellites and four effectivity satellites.
    assert_eq!(tables.len(), 20, "{tables:?}");
    for table in tables {
        for allowed in [
            format!("SELECT * FROM dds.{table}"),
            format!("INSERT INTO dds.{table} SELECT * FROM dds.{table} WHERE false"),
        ] {
            execute(&mut worker, &allowed)
                .await
                .with_context(|| allowed.clone())?;
        }
        for forbidden in [
            format!("UPDATE dds.{table} SET load_src = 'another'"),
            format!("DELETE FROM dds.{table}"),
            format!("TRUNCATE dds.{table}"),
            format!("DROP TABLE dds.{table}"),
            format!("ALTER TABLE dds.{table} ADD COLUMN another text"),
        ] {
            ensure_denied(&mut worker, &forbidden).await?;
        }
    }
    let views: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.views WHERE table_schema = 'dds' ORDER BY 1",
    )
    .fetch_all(pipeline.pool())
    .await?;
    // Two for each satellite.
    assert_eq!(views.len(), 20, "{views:?}");
    for view in views {
        let select = format!("SELECT * FROM dds.{view}");
        execute(&mut worker, &select)
            .await
            .with_context(|| select.clone())?;
    }
    let insert =
        "INSERT INTO dds.h_user (h_user_pk, user_id, load_src) VALUES (gen_random_uuid(), 'u', 'kafka:t')";
    execute(&mut worker, insert).await?;
    worker.close().await?;
    let mut superuser = pipeline.pool().acquire().await?;
    execute(&mut superuser, &format!("DROP ROLE {login}")).await?;
    Ok(())
}
