#![expect(
    clippy::disallowed_types,
    reason = "edge: changes the schemas of the warehouse"
)]
//! `worker migrate`: creates or upgrades the schemas in every warehouse of the file.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::Args;
use sqlx::PgConnection;
use sqlx::migrate::{Migration, Migrator};

use super::stage_selection::StageSelection;
use crate::connect;
use crate::encoding::check_encoding;
use crate::session::Sessions;
use crate::statement;

/// First statements of the transaction of a migration. The lock, whose key can be any constant, serializes workers that
/// migrate at the same time; it ends with the transaction. The table has the columns that sqlx gives it.
const PREPARE: &str = "\
SELECT pg_advisory_xact_lock(7598805554571539831);
CREATE SCHEMA IF NOT EXISTS streamstage;
CREATE TABLE IF NOT EXISTS streamstage._sqlx_migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL)";

/// Migrations that this worker needs.
pub(super) static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

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
/// If a warehouse is unavailable, has another encoding than UTF-8, or rejects a migration.
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
        let sessions = Sessions::new(connect::postgres_hosts(&stage, &secrets)?, stage.spec.layer, 1);
        let applied = apply_migrations(&sessions)
            .await
            .with_context(|| format!("cannot migrate {host}:{port}/{database}"))?;
        tracing::info!(host, port, database, applied, "schemas are up to date");
        migrated.push(address);
    }
    Ok(())
}

/// Applies the missing migrations, and returns their number. Each is a transaction of its own, so that this works through
/// a pooler too, and can be repeated after a failure.
async fn apply_migrations(sessions: &Sessions) -> anyhow::Result<usize> {
    let mut applied = 0;
    loop {
        let mut transaction = sessions.begin_as_login().await?;
        check_encoding(transaction.connection()).await??;
        let next = apply_next(transaction.connection(), &MIGRATOR).await?;
        transaction.commit().await?;
        if !next {
            return Ok(applied);
        }
        applied += 1;
    }
}

/// Applies the first missing migration. Returns false if all are applied.
async fn apply_next(connection: &mut PgConnection, migrator: &Migrator) -> anyhow::Result<bool> {
    sqlx::raw_sql(PREPARE).execute(&mut *connection).await?;
    replace_former_checksums(connection, migrator).await?;
    let applied: Vec<(i64, Vec<u8>)> =
        statement::query_as("SELECT version, checksum FROM streamstage._sqlx_migrations")
            .fetch_all(&mut *connection)
            .await?;
    let applied: BTreeMap<i64, Vec<u8>> = applied.into_iter().collect();
    if let Some(unknown) = applied.keys().find(|&&version| !migrator.version_exists(version)) {
        anyhow::bail!("migration {unknown} was applied by a newer version of the worker; use that version");
    }
    for migration in migrator.iter() {
        let version = migration.version;
        match applied.get(&version) {
            Some(checksum) if checksum[..] == *migration.checksum => {}
            Some(_) => anyhow::bail!(
                "migration {version} was changed after it was applied; use the worker that applied it"
            ),
            None => {
                let statements = sqlx::raw_sql(migration.sql.clone()).execute(&mut *connection);
                statements
                    .await
                    .with_context(|| format!("migration {version} failed"))?;
                record_migration(connection, migration).await?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

async fn record_migration(connection: &mut PgConnection, migration: &Migration) -> Result<(), sqlx::Error> {
    statement::query(
        "INSERT INTO streamstage._sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES ($1, $2, true, $3, -1)",
    )
    .bind(migration.version)
    .bind(&*migration.description)
    .bind(&*migration.checksum)
    .execute(connection)
    .await
    .map(drop)
}

/// Replaces the checksums in [`FORMER_CHECKSUMS`] by those of the reworded migrations.
async fn replace_former_checksums(
    connection: &mut PgConnection,
    migrator: &Migrator,
) -> Result<(), sqlx::Error> {
    for (version, former) in FORMER_CHECKSUMS {
        let Some(migration) = migrator.iter().find(|migration| migration.version == version) else {
            continue;
        };
        statement::query(
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
