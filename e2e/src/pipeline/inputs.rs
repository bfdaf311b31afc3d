//! What a recount needs beside the messages: the dictionary and the rules of the tags, as files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Pipeline, STAGES};
use crate::orders::Generator;

impl Pipeline {
    /// Writes the generator's dictionary and the tags of the stage file; returns the two files.
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
        let files = ["dictionary.json", "tags.json"].map(|name| self.folder().join(name));
        std::fs::write(&files[0], serde_json::to_vec(&entries)?)?;
        std::fs::write(&files[1], serde_json::to_vec(&tags.context("no stage cdm")?)?)?;
        let [dictionary, tags] = files;
        Ok((dictionary, tags))
    }

    /// The topic that a stage reads.
    ///
    /// # Errors
    /// When there is no such stage.
    pub fn topic_of(&self, stage: &str) -> Result<&str> {
        let place = STAGES.iter().position(|known| *known == stage);
        Ok(&self.topics[place.with_context(|| format!("no stage {stage}"))?])
    }
}
