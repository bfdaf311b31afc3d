#![expect(
    clippy::disallowed_types,
    reason = "edge: changes the schemas of the warehouse"
)]
//! `worker migrate`: the schemas in every warehouse that the file names.

use anyhow::Context as _;
use clap::Args;
use sqlx::PgConnection;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::Documents;
use crate::connect::{self, Secrets};

/// Where the migrations that were applied are noted.
const TABLE: &str = "streamstage._sqlx_migrations";

/// Flags of `worker migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The stages.
    #[command(flatten)]
    pub documents: Documents,
}

/// Brings every warehouse of the file to the newest schema; does nothing where it is there already.
///
/// The login has to own the database, or may create schemas in it and roles: PGUSER, or the stage's secret.
///
/// # Errors
/// When a warehouse cannot be reached, or refuses a migration.
pub async fn migrate(flags: Migrate) -> anyhow::Result<()> {
    let secrets = Secrets::in_folder(&flags.documents.secrets_dir);
    let mut done: Vec<(String, u16, String)> = Vec::new();
    for stage in flags.documents.read()? {
        let warehouse = &stage.spec.warehouse;
        let place = (warehouse.host.clone(), warehouse.port, warehouse.database.clone());
        if done.contains(&place) {
            continue;
        }
        let applied = apply(connect::postgres(&stage, &secrets)?).await;
        let applied =
            applied.with_context(|| format!("cannot migrate {}:{}/{}", place.0, place.1, place.2))?;
        tracing::info!(
            host = place.0,
            port = place.1,
            database = place.2,
            applied,
            "schemas are up to date"
        );
        done.push(place);
    }
    Ok(())
}

/// Applies what is missing; returns how many migrations that were.
async fn apply(options: PgConnectOptions) -> Result<i64, MigrateError> {
    let mut connection = options.connect().await.map_err(MigrateError::Execute)?;
    let before = count(&mut connection).await?;
    let mut migrator: Migrator = sqlx::migrate!("../migrations");
    migrator.create_schema("streamstage");
    migrator.dangerous_set_table_name(TABLE);
    migrator.run(&mut connection).await?;
    let after = count(&mut connection).await?;
    connection.close().await.map_err(MigrateError::Execute)?;
    Ok(after - before)
}

async fn count(connection: &mut PgConnection) -> Result<i64, MigrateError> {
    let noted: Option<String> = sqlx::query_scalar("SELECT to_regclass($1)::text")
        .bind(TABLE)
        .fetch_one(&mut *connection)
        .await?;
    if noted.is_none() {
        return Ok(0);
    }
    Ok(
        sqlx::query_scalar("SELECT count(*) FROM streamstage._sqlx_migrations")
            .fetch_one(connection)
            .await?,
    )
}
