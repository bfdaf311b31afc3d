//! Flags that all commands share: the stage file, the selection of stages, and the Secrets.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;

use crate::connect::Secrets;

/// Stages that a command works on.
#[derive(Debug, Args)]
pub struct StageSelection {
    /// File with one or several StreamStage documents
    #[arg(short, long = "file", env = "STREAMSTAGE_FILE", value_name = "FILE")]
    pub file: PathBuf,
    /// Only these stages
    #[arg(
        long = "stage",
        env = "STREAMSTAGE_STAGE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub stages: Vec<String>,
    /// Directory with one subdirectory per secret and one file per key
    #[arg(
        long,
        env = "STREAMSTAGE_SECRETS_DIR",
        value_name = "DIR",
        default_value = "/etc/streamstage/secrets"
    )]
    pub secrets_dir: PathBuf,
}

impl StageSelection {
    /// Reads the file and returns the selected stages, which are all stages without `--stage`.
    ///
    /// # Errors
    /// If the file cannot be read, a document is invalid, or a name is not in the file.
    pub fn read(&self) -> anyhow::Result<Vec<StreamStage>> {
        let stages = parse(&self.file)?;
        if let Some(unknown) = self
            .stages
            .iter()
            .find(|name| !stages.iter().any(|stage| stage.name() == **name))
        {
            let names: Vec<&str> = stages.iter().map(StreamStage::name).collect();
            anyhow::bail!(
                "{} has no stage {unknown:?}; use one of {}",
                self.file.display(),
                names.join(", ")
            );
        }
        let is_selected = |stage: &StreamStage| {
            self.stages.is_empty() || self.stages.iter().any(|name| name == stage.name())
        };
        Ok(stages.into_iter().filter(is_selected).collect())
    }

    /// Secrets of the stages.
    #[must_use]
    pub fn secrets(&self) -> Secrets {
        Secrets::in_directory(&self.secrets_dir)
    }
}

fn parse(file: &Path) -> anyhow::Result<Vec<StreamStage>> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!(
            "cannot read {}, which must be a text file in UTF-8",
            file.display()
        )
    })?;
    crds::document::parse(&text).with_context(|| format!("{} is not valid", file.display()))
}
