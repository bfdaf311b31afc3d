//! Inputs of a recount beside the messages: the reference data and the tag rules, as files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::instance::{Pipeline, STAGES};
use crate::orders::{Generator, Message, send};

impl Pipeline {
    /// Writes messages for a recount, and returns the path of the file.
    ///
    /// # Errors
    /// When the folder is not writable.
    pub fn write_messages(&self, messages: &[Message]) -> Result<PathBuf> {
        let mut lines = Vec::new();
        for message in messages {
            send::write_line(&mut lines, message)?;
        }
        let path = self.folder().join("orders.ndjson");
        std::fs::write(&path, lines)?;
        Ok(path)
    }

    /// Writes the generator's reference data and the tag rules of the stage file; returns the paths of both files.
    ///
    /// # Errors
    /// When the stage file is not valid, or the folder is not writable.
    pub fn write_recount_inputs(&self, generator: &Generator) -> Result<(PathBuf, PathBuf)> {
        let entries = generator.catalogue().entries(0);
        let entries = entries.map(|(id, entry)| Ok((id, serde_json::from_str(&entry)?)));
        let entries: BTreeMap<&str, Value> = entries.collect::<Result<_>>()?;
        let stages = crds::document::parse(&std::fs::read_to_string(&self.file)?)?;
        let tags = stages
            .iter()
            .find(|stage| stage.name() == "cdm")
            .map(|stage| &stage.spec.tags);
        let files = ["reference-data.json", "tags.json"].map(|name| self.folder().join(name));
        std::fs::write(&files[0], serde_json::to_vec(&entries)?)?;
        std::fs::write(&files[1], serde_json::to_vec(&tags.context("no stage cdm")?)?)?;
        let [reference_data, tags] = files;
        Ok((reference_data, tags))
    }

    /// Source topic of a stage.
    ///
    /// # Errors
    /// When the pipeline has no such stage.
    pub fn input_topic(&self, stage: &str) -> Result<&str> {
        let index = STAGES.iter().position(|name| *name == stage);
        Ok(&self.topics[index.with_context(|| format!("no stage {stage}"))?])
    }
}
