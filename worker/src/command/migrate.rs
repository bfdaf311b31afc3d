#![expect(
    clippy::disallowed_types,
    reason = "edge: changes the schemas of the warehouse"
)]
//! `worker migrate`: creates or upgrades the schemas in every warehouse of the file.

use anyhow::Context as _;
use clap::Args;
use sqlx::PgConnection;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::stage_selection::StageSelection;
use crate::connect;

/// Table of the applied migrations.
const MIGRATIONS_TABLE: &str = "streamstage._sqlx_migrations";

/// Migrations whose comments were reworded after warehouses had applied them: version and former SHA-384 in hex.
/// Their statements are unchanged, so a warehouse with the former checksum is up to date.
const FORMER_CHECKSUMS: [(i64, &str); 5] = [
    (
        1,
        "3d26e16218b8dfe5475bd6d7e897165be93020fc1929a669e5bc98f8daff40c48bf237d29b3d77c63ef53983b5a73eed",
    ),
    (
        2,
        "a031c18905e69724f80246c8ca2c9644d351ffacb4666c070f0bfb5249224121cc0348bc9e5825b0f67bd045c9a9f679",
    ),
    (
        4,
        "76ff7bfb2b10d91453336b53d6cc857056914418ae3f135ef8a594e913fdcc17fe968e4354031036ff22ede9f9ed53f4",
    ),
    (
        5,
        "5c2c70e2e2bcaeaba714e6645e71a481b74d7edaa05c6bd20aa26b75f70a7d6c4c254beba40da1ec350697e5cfcfc733",
    ),
    (
        6,
        "868c26d03d7e9bcc39b3d97bd08f3375bb3ad1ff147ce0477aa566216b2b1fdd99150ad5be4d51a7ec99cd8426c6fb60",
    ),
];

/// Flags of `worker migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Stages whose warehouses are migrated.
    #[command(flatten)]
    pub selection: StageSelection,
}

/// Migrates each warehouse of the file once. An up-to-date warehouse is not changed.
///
/// # Errors
/// If a warehouse is unavailable, or rejects a migration.
pub async fn migrate(flags: Migrate) -> anyhow::Result<()> {
    let secrets = flags.selection.secrets();
    let mut migrated: Vec<(String, u16, String)> = Vec::new();
    for stage in flags.selection.read()? {
        let warehouse = &stage.spec.warehouse;
        let (host, port, database) = (&warehouse.host, warehouse.port, &warehouse.database);
        let address = (host.clone(), port, database.clone());
        if migrated.contains(&address) {
            continue;
        }
        let applied = apply_migrations(connect::postgres_options(&stage, &secrets)?)
            .await
            .with_context(|| format!("cannot migrate {host}:{port}/{database}"))?;
        tracing::info!(host, port, database, applied, "schemas are up to date");
        migrated.push(address);
    }
    Ok(())
}

/// Applies the missing migrations, and returns their number.
async fn apply_migrations(options: PgConnectOptions) -> Result<i64, MigrateError> {
    let mut connection = options.connect().await.map_err(MigrateError::Execute)?;
    let before = count_applied(&mut connection).await?;
    let mut migrator: Migrator = sqlx::migrate!("../migrations");
    migrator.create_schema("streamstage");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    if before > 0 {
        replace_former_checksums(&mut connection, &migrator).await?;
    }
    migrator.run(&mut connection).await?;
    let after = count_applied(&mut connection).await?;
    connection.close().await.map_err(MigrateError::Execute)?;
    Ok(after - before)
}

/// Returns the number of applied migrations; 0 if the table does not exist yet.
async fn count_applied(connection: &mut PgConnection) -> Result<i64, MigrateError> {
    let table: Option<String> = sqlx::query_scalar("SELECT to_regclass($1)::text")
        .bind(MIGRATIONS_TABLE)
        .fetch_one(&mut *connection)
        .await?;
    if table.is_none() {
        return Ok(0);
    }
    Ok(
        sqlx::query_scalar("SELECT count(*) FROM streamstage._sqlx_migrations")
            .fetch_one(connection)
            .await?,
    )
}

/// Replaces the checksums in [`FORMER_CHECKSUMS`] by those of the reworded migrations.
async fn replace_former_checksums(
    connection: &mut PgConnection,
    migrator: &Migrator,
) -> Result<(), MigrateError> {
    for (version, former) in FORMER_CHECKSUMS {
        let Some(migration) = migrator.iter().find(|migration| migration.version == version) else {
            continue;
        };
        sqlx::query(
            "UPDATE streamstage._sqlx_migrations SET checksum = $3 \
             WHERE version = $1 AND checksum = decode($2, 'hex')",
        )
        .bind(version)
        .bind(former)
        .bind(&*migration.checksum)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
