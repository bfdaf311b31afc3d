//! Failover of PostgreSQL: the server of the open sessions becomes read-only, and another host accepts writes.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::{Pipeline, wait_until};
use e2e::services::{Options, Pooler, Services};

const DEADLINE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_uses_the_host_that_accepts_writes() -> Result<()> {
    // Own services, because the server becomes read-only.
    let services = Services::start(&Options::default()).await?;
    let mut pipeline = Pipeline::create(&services, "failover", 1).await?;
    // Sessions of this host accept writes even after the failover below.
    let standby = Pooler::start(&services, "SET default_transaction_read_only TO off").await?;
    let primary = pipeline.pool().connect_options();
    let hosts = format!(
        "127.0.0.1:1,{}:{},{}",
        primary.get_host(),
        primary.get_port(),
        standby.address()
    );
    pipeline.set_warehouse_host(&hosts)?;
    let mut generator = Generator::new(&Settings::default());
    pipeline.load_reference_data(&generator, 0).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.produce(1, generator.history(50)).await?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    let pooled = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
        AND datname = current_database() AND application_name = 'streamstage stg'";
    ensure!(
        pipeline.query_scalar::<i64>(pooled).await? > 0,
        "no session of the worker"
    );

    for statement in [
        "ALTER SYSTEM SET default_transaction_read_only TO on",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(statement).execute(pipeline.pool()).await?;
    }
    let read_only = "SELECT current_setting('default_transaction_read_only')";
    wait_until("the server is read-only", DEADLINE, || async {
        Ok(pipeline.query_scalar::<String>(read_only).await? == "on")
    })
    .await?;
    pipeline.produce(2, generator.history(50)).await?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}
