//! What a person types: `worker check` has a line for each service and names the one that fails, `--help` names the
//! variable that stands for each flag.

use anyhow::Result;
use e2e::pipeline::{Pipeline, services};
use url::Url;

/// What `worker check` looks at in the three stages.
const LOOKED_AT: [(&str, usize); 5] = [
    (" source ", 3),
    (" output ", 2),
    (" dead letters ", 3),
    (" dictionary ", 1),
    (" warehouse ", 3),
];

#[tokio::test]
async fn check_has_a_line_for_each_service_and_names_the_one_that_fails() -> Result<()> {
    let services = services().await?;
    let mut pipeline = Pipeline::create(&services, "check", 2).await?;
    let printed = pipeline.command("check", &[], &[])?;
    for (what, count) in LOOKED_AT {
        let fine = |line: &&str| line.starts_with("ok ") && line.contains(what);
        assert_eq!(printed.lines().filter(fine).count(), count, "{what}: {printed}");
    }

    let topic = pipeline.stg_topic().to_owned();
    let redis = Url::parse(&services.redis_url(0))?.port().unwrap_or(6379);
    for (from, to, failed) in [
        (
            format!("output:\n    topic: {topic}\n"),
            format!("output:\n    topic: {topic}-none\n"),
            "stg output ",
        ),
        (format!(":{redis}/"), ":1/".to_owned(), "stg dictionary "),
        (
            format!("database: {}", pipeline.name()),
            "database: nowhere".to_owned(),
            "cdm warehouse ",
        ),
    ] {
        pipeline.edit(&from, &to)?;
        let Err(refused) = pipeline.command("check", &[], &[]) else {
            panic!("checked: {to}");
        };
        let said = refused.to_string();
        let line = said.lines().find(|line| line.contains(failed));
        assert!(
            line.is_some_and(|line| line.starts_with("FAILED ")),
            "{failed}: {said}"
        );
        assert!(said.lines().any(|line| line.starts_with("ok ")), "{said}");
        pipeline.edit(&to, &from)?;
    }
    Ok(())
}

#[tokio::test]
async fn each_flag_of_a_command_that_serves_has_a_variable() -> Result<()> {
    let pipeline = Pipeline::create(&services().await?, "help", 1).await?;
    for command in ["run", "migrate", "check"] {
        let help = pipeline.command(command, &[], &["--help"])?;
        let flags = help.lines().filter(|line| {
            let line = line.trim_start();
            line.starts_with('-') && !line.contains("--help")
        });
        let named = help.matches("STREAMSTAGE_").count();
        assert!(named >= 3 && flags.count() == named, "{command}: {help}");
    }
    Ok(())
}
