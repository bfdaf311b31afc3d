//! `worker plan`: checks a model, and prints what it means for the warehouse. Never connects to anything.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use crds::document::parse_model;
use telemetry::stdout::print_line;

use crate::plan::vault::{Attribute, Satellite, VaultPlan, VersionedBy};
use crate::plan::{ORDERS_MODEL, Plan};
use crate::vault::definitions;

/// Flags of `worker plan`.
#[derive(Debug, Args)]
pub struct PlanFlags {
    /// File with one model [default: the built-in model of orders]
    #[arg(short, long = "file", env = "STREAMSTAGE_MODEL_FILE", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print the SQL of the tables, views and ghost records
    #[arg(long, conflicts_with = "model")]
    pub sql: bool,
    /// Print the document itself, as a start for a model of your own
    #[arg(long)]
    pub model: bool,
}

/// Checks the model, and prints its tables.
///
/// # Errors
/// If the file cannot be read, or the model is not valid; the error lists all violations.
pub fn plan(flags: &PlanFlags) -> anyhow::Result<()> {
    let text = match &flags.file {
        Some(file) => fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => ORDERS_MODEL.to_owned(),
    };
    let model = parse_model(&text).with_context(|| match &flags.file {
        Some(file) => file.display().to_string(),
        None => "the built-in model".to_owned(),
    })?;
    let plan = Plan::compile(&model);
    if flags.model {
        print_line(text.trim_end())?;
    } else if flags.sql {
        print_line(definitions(&plan.vault).join("\n").trim_end())?;
    } else {
        print_line(Summary(&plan.vault))?;
    }
    Ok(())
}

/// One line per table: its kind, its name, and its columns with their fields.
struct Summary<'p>(&'p VaultPlan);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.0;
        let mut lines: Vec<[String; 3]> = Vec::new();
        for hub in &plan.hubs {
            lines.push(["hub".to_owned(), hub.name.clone(), columns(&hub.business_key)]);
        }
        for link in &plan.links {
            let hubs: Vec<&str> = plan.hubs_of(link).map(|hub| hub.name.as_str()).collect();
            lines.push(["link".to_owned(), link.name.clone(), hubs.join(", ")]);
        }
        for satellite in &plan.satellites {
            lines.push([
                "satellite".to_owned(),
                satellite.name.clone(),
                describe_satellite(satellite, plan),
            ]);
        }
        for (satellite, effectivity) in plan.effectivities() {
            let described = format!(
                "{}, with the rows of {}",
                plan.links[effectivity.link].name, satellite.name
            );
            lines.push(["effectivity".to_owned(), effectivity.name.clone(), described]);
        }
        let width = |column: usize| {
            lines
                .iter()
                .map(|line| line[column].len())
                .max()
                .unwrap_or_default()
        };
        let (kinds, names) = (width(0), width(1));
        let mut text = String::new();
        for [kind, name, description] in &lines {
            writeln!(text, "{kind:kinds$}  {name:names$}  {description}")?;
        }
        formatter.write_str(text.trim_end())
    }
}

fn describe_satellite(satellite: &Satellite, plan: &VaultPlan) -> String {
    let parent = plan.parent_name(satellite.parent);
    let versions = match satellite.versioned_by {
        VersionedBy::Record => "record",
        VersionedBy::Entry(_) => "entry",
    };
    format!("of {parent}, by {versions}: {}", columns(&satellite.attributes))
}

fn columns(attributes: &[Attribute]) -> String {
    let columns = attributes
        .iter()
        .map(|attribute| format!("{} {}", attribute.column, attribute.kind.column_type()));
    columns.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ORDERS;

    #[test]
    fn the_summary_has_a_line_for_each_table() {
        insta::assert_snapshot!(Summary(&ORDERS.vault));
    }
}
