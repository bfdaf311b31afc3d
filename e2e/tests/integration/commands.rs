//! The worker's command line: `worker check` has a line per dependency, `--help` shows the variable of each flag.

use anyhow::Result;
use e2e::pipeline::{Pipeline, start_services};
use url::Url;

/// Checks of `worker check`, and their number in the three stages.
const CHECKS: [(&str, usize); 5] = [
    (" source ", 3),
    (" output ", 2),
    (" dead letters ", 3),
    (" reference data ", 1),
    (" warehouse ", 3),
];

#[tokio::test]
async fn check_prints_a_line_per_dependency_and_names_the_one_that_fails() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "check", 2).await?;
    let output = pipeline.run_command("check", &[], &[])?;
    for (check, count) in CHECKS {
        let is_ok = |line: &&str| line.starts_with("ok ") && line.contains(check);
        assert_eq!(output.lines().filter(is_ok).count(), count, "{check}: {output}");
    }

    let topic = pipeline.stg_topic().to_owned();
    let redis = Url::parse(&services.redis_url(0))?.port().unwrap_or(6379);
    for (from, to, failed) in [
        (
            format!("output:\n    topic: {topic}\n"),
            format!("output:\n    topic: {topic}-missing\n"),
            "stg output ",
        ),
        (format!(":{redis}/"), ":1/".to_owned(), "stg reference data "),
        (
            format!("database: {}", pipeline.name()),
            "database: nowhere".to_owned(),
            "cdm warehouse ",
        ),
    ] {
        pipeline.edit(&from, &to)?;
        let Err(error) = pipeline.run_command("check", &[], &[]) else {
            panic!("the check succeeded: {to}");
        };
        let output = error.to_string();
        let line = output.lines().find(|line| line.contains(failed));
        assert!(
            line.is_some_and(|line| line.starts_with("FAILED ")),
            "{failed}: {output}"
        );
        assert!(output.lines().any(|line| line.starts_with("ok ")), "{output}");
        pipeline.edit(&to, &from)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_byte_order_mark_is_ignored_in_a_stage_file_and_reported_in_a_certificate() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "marks", 1).await?;
    let text = std::fs::read_to_string(pipeline.stage_file())?;
    std::fs::write(pipeline.stage_file(), format!("\u{feff}{text}"))?;
    pipeline.run_command("check", &[], &[])?;

    let keys = pipeline.folder().join("secrets/kafka");
    std::fs::create_dir_all(&keys)?;
    std::fs::write(keys.join("security.protocol"), "\u{feff}PLAINTEXT\n")?;
    let folder = keys.parent().unwrap_or(&keys).to_string_lossy().into_owned();
    pipeline.edit("  source:\n", "  source:\n    authSecretName: kafka\n")?;
    pipeline.run_command("check", &[], &["--secrets-dir", &folder])?;
    std::fs::write(keys.join("ca.crt"), "\u{feff}-----BEGIN CERTIFICATE-----\n")?;
    let error = pipeline
        .run_command("check", &[], &["--secrets-dir", &folder])
        .expect_err("a mark in a certificate");
    let expected = "kafka/ca.crt begins with a byte order mark";
    assert!(format!("{error:#}").contains(expected), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn help_shows_an_environment_variable_for_each_flag() -> Result<()> {
    let pipeline = Pipeline::create(&start_services().await?, "help", 1).await?;
    for command in ["run", "migrate", "check"] {
        let help = pipeline.run_command(command, &[], &["--help"])?;
        let flags = help.lines().filter(|line| {
            let line = line.trim_start();
            line.starts_with('-') && !line.contains("--help")
        });
        let variables = help.matches("STREAMSTAGE_").count();
        assert!(variables >= 3 && flags.count() == variables, "{command}: {help}");
    }
    Ok(())
}

/// Versions and SHA-384 checksums of the migrations before their comments were reworded.
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

#[tokio::test]
async fn a_warehouse_with_former_checksums_is_up_to_date_and_one_with_others_is_rejected() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "checksums", 1).await?;
    let checksums =
        "SELECT string_agg(encode(checksum, 'hex'), ' ' ORDER BY version) FROM streamstage._sqlx_migrations";
    let current = pipeline.query_scalar::<String>(checksums).await?;
    let set = "UPDATE streamstage._sqlx_migrations SET checksum = decode($2, 'hex') WHERE version = $1";
    for (version, former) in FORMER_CHECKSUMS {
        sqlx::query(set)
            .bind(version)
            .bind(former)
            .execute(pipeline.pool())
            .await?;
    }
    assert_ne!(pipeline.query_scalar::<String>(checksums).await?, current);
    pipeline.run_command("migrate", &[], &[])?;
    assert_eq!(pipeline.query_scalar::<String>(checksums).await?, current);

    sqlx::query(set)
        .bind(1_i64)
        .bind("00")
        .execute(pipeline.pool())
        .await?;
    let error = pipeline
        .run_command("migrate", &[], &[])
        .expect_err("a changed migration");
    assert!(format!("{error:#}").contains("migration 1 "), "{error:#}");
    Ok(())
}
