//! `worker check` reports what `worker run` would meet: every fault, each with its cause and remedy.
#![expect(
    clippy::disallowed_types,
    reason = "edge: starts a Redis Cluster, and queries the warehouse"
)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pipeline::{Pipeline, start_services, wait_until};
use sqlx::AssertSqlSafe;

const DEADLINE: Duration = Duration::from_mins(1);

/// Lines of `worker check` that are not "ok", and the lines that are; fails if the exit code does not agree with them.
fn check(pipeline: &Pipeline) -> Result<(Vec<String>, Vec<String>)> {
    let (is_success, output) = match pipeline.run_command("check", &[], &[]) {
        Ok(output) => (true, output),
        Err(error) => (false, error.to_string()),
    };
    let lines = |prefixes: &[&str]| -> Vec<String> {
        let is_finding = |line: &&str| prefixes.iter().any(|prefix| line.starts_with(prefix));
        output.lines().filter(is_finding).map(str::to_owned).collect()
    };
    ensure!(
        is_success == lines(&["FAILED "]).is_empty(),
        "exit code: {output}"
    );
    Ok((lines(&["FAILED ", "WARNING "]), lines(&["ok "])))
}

/// Fails unless exactly one line has all these parts.
fn assert_line(lines: &[String], parts: &[&str]) -> Result<()> {
    let matching = lines
        .iter()
        .filter(|line| parts.iter().all(|part| line.contains(part)));
    ensure!(matching.count() == 1, "{parts:?}: {lines:#?}");
    Ok(())
}

async fn execute(pipeline: &Pipeline, statement: &str) -> Result<()> {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(pipeline.pool()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_every_fault_of_topics_and_stages_at_once() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "check_topics", 2).await?;
    pipeline
        .load_entries([("r", "{}".to_owned())].into_iter())
        .await?;
    let (faults, _) = check(&pipeline)?;
    ensure!(faults.is_empty(), "{faults:#?}");

    let dead_letters = format!("{}.dlq", pipeline.source_topic());
    pipeline
        .set_topic_configs(
            &dead_letters,
            &[("cleanup.policy", "compact"), ("max.message.bytes", "1000")],
        )
        .await?;
    pipeline
        .set_topic_config(pipeline.stg_topic(), "max.message.bytes", "2000000")
        .await?;
    pipeline
        .set_topic_config(pipeline.dds_topic(), "min.insync.replicas", "2")
        .await?;
    pipeline.edit(
        "layer: cdm\n",
        "layer: cdm\n  timezone: Europe/Moscow\n  limits: {maxClockSkew: 1h}\n",
    )?;
    let (faults, ok) = check(&pipeline)?;
    let cleanup = [
        "FAILED  stg dead letters",
        "cleanup.policy is compact",
        "set cleanup.policy=delete",
    ];
    for parts in [
        &cleanup[..],
        &["WARNING stg dead letter size", "1000"],
        &["WARNING dds dead letter size", "2000000"],
        &[
            "FAILED  stages stg and dds",
            "raise its spec.limits.maxRecordBytes",
        ],
        &["FAILED  dds output", "min.insync.replicas is 2"],
        &["WARNING stages dds and cdm", "time zone", "spec.timezone"],
        &["WARNING stages dds and cdm", "maxClockSkew"],
    ] {
        assert_line(&faults, parts)?;
    }
    // The topic is the source of cdm, too, which does not write it.
    ensure!(faults.len() == 7, "{faults:#?}");
    assert_line(&ok, &["cdm source "])
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_every_missing_privilege_and_another_schema_level() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "check_grants", 1).await?;
    let granted: Vec<String> = sqlx::query_scalar(
        "SELECT table_schema || '.' || table_name FROM information_schema.role_table_grants
         WHERE grantee = 'streamstage_worker' AND privilege_type = 'INSERT' ORDER BY 1",
    )
    .fetch_all(pipeline.pool())
    .await?;
    ensure!(granted.len() > 20, "{granted:?}");
    execute(
        &pipeline,
        "REVOKE INSERT ON ALL TABLES IN SCHEMA streamstage, stg, dds, cdm FROM streamstage_worker;
         REVOKE USAGE ON SCHEMA cdm FROM streamstage_worker;
         DELETE FROM streamstage._sqlx_migrations WHERE version = 2;
         INSERT INTO streamstage._sqlx_migrations SELECT 9999, description, now(), true, checksum, 0
         FROM streamstage._sqlx_migrations WHERE version = 1",
    )
    .await?;
    let (faults, ok) = check(&pipeline)?;
    for table in &granted {
        let lacks = |line: &&String| line.contains(&format!("ON {table} TO")) && line.contains("INSERT");
        let count = faults.iter().filter(lacks).count();
        ensure!(count > 0, "{table}: {faults:#?}");
    }
    assert_line(
        &faults,
        &["FAILED  cdm warehouse ", "GRANT USAGE ON SCHEMA cdm TO"],
    )?;
    let missing = faults
        .iter()
        .filter(|line| line.contains("the migrations 2 are not applied"));
    assert_eq!(missing.count(), 3, "{faults:#?}");
    ensure!(ok.iter().all(|line| !line.contains(" warehouse ")), "{ok:#?}");

    execute(
        &pipeline,
        "UPDATE streamstage._sqlx_migrations SET version = 2 WHERE version = 1;
         INSERT INTO streamstage._sqlx_migrations SELECT 1, description, now(), true, checksum, 0
         FROM streamstage._sqlx_migrations WHERE version = 2",
    )
    .await?;
    let (faults, _) = check(&pipeline)?;
    let newer = faults
        .iter()
        .filter(|line| line.contains("a newer worker has applied the migrations 9999"));
    assert_eq!(newer.count(), 3, "{faults:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_a_read_only_warehouse_and_a_login_that_is_not_a_member_of_the_role() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "check_role", 1).await?;
    let name = pipeline.name().to_owned();
    execute(
        &pipeline,
        &format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
    )
    .await?;
    let (faults, _) = check(&pipeline)?;
    let read_only = faults.iter().filter(|line| line.contains("accepts no writes"));
    assert_eq!(read_only.count(), 3, "{faults:#?}");

    let owner = format!(
        "SET default_transaction_read_only = off; ALTER DATABASE {name} RESET default_transaction_read_only; \
         CREATE ROLE {name} LOGIN PASSWORD 'open-sesame-5'"
    );
    execute(&pipeline, &owner).await?;
    let secrets = pipeline.folder().join("secrets");
    std::fs::create_dir_all(secrets.join("warehouse"))?;
    std::fs::write(secrets.join("warehouse/username"), &name)?;
    std::fs::write(secrets.join("warehouse/password"), "open-sesame-5")?;
    let mut pipeline = pipeline;
    pipeline.edit("  warehouse:\n", "  warehouse:\n    authSecretName: warehouse\n")?;
    let flags = ["--secrets-dir", secrets.to_str().context("a path in UTF-8")?];
    let error = pipeline
        .run_command("check", &["dds"], &flags)
        .expect_err("not a member");
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_line(
        &lines,
        &[
            "FAILED  dds warehouse ",
            "grant the role streamstage_worker to the login",
        ],
    )?;
    execute(&pipeline, &format!("DROP ROLE {name}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_is_rejected_by_check_and_at_the_start() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "check_cluster", 1).await?;
    let cluster = RedisCluster::start(&pipeline).await?;
    let text = std::fs::read_to_string(pipeline.stage_file())?;
    let url = text.lines().find_map(|line| line.trim().strip_prefix("url: "));
    let url = url.context("a URL")?.to_owned();
    pipeline.edit(&url, &cluster.url())?;
    let (faults, _) = check(&pipeline)?;
    let parts = [
        "FAILED  stg reference data ",
        "CROSSSLOT",
        "spec.referenceData.url",
    ];
    assert_line(&faults, &parts)?;
    ensure!(faults.len() == 1, "{faults:#?}");

    let worker = pipeline.start_worker(&["stg"])?;
    let (status, log) = worker.wait_exit().await?;
    ensure!(!status.success() && log.contains("CROSSSLOT"), "{status}: {log}");
    Ok(())
}

/// A Redis Cluster of one server that owns every slot.
struct RedisCluster {
    server: Child,
    port: u16,
}

impl RedisCluster {
    async fn start(pipeline: &Pipeline) -> Result<Self> {
        let mut candidates = std::iter::repeat_with(|| rand::random_range(20_000..32_000_u16)).take(100);
        // The port of the cluster bus is higher by 10,000.
        let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let port = candidates
            .find(|port| is_free(*port) && is_free(port + 10_000))
            .context("no free port")?;
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--cluster-enabled", "yes", "--save", ""])
            .current_dir(pipeline.folder())
            .stdout(Stdio::null())
            .spawn()?;
        let cluster = Self { server, port };
        let client = redis::Client::open(cluster.url())?;
        wait_until("the cluster has its slots", DEADLINE, || async {
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
                return Ok(false);
            };
            let mut add = redis::cmd("CLUSTER");
            add.arg("ADDSLOTSRANGE").arg(0).arg(16_383);
            // A repetition is rejected, because the slots are taken.
            let _added = add.query_async::<()>(&mut connection).await;
            let mut info = redis::cmd("CLUSTER");
            let info: String = info.arg("INFO").query_async(&mut connection).await?;
            Ok(info.contains("cluster_state:ok"))
        })
        .await?;
        Ok(cluster)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        let _killed = self.server.kill();
        let _reaped = self.server.wait();
    }
}
