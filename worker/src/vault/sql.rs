//! The statement that writes a batch into the whole vault, in one round trip.
//!
//! It only inserts. A row that is there already costs one look into its index: `ON CONFLICT DO NOTHING` looks before
//! it writes, so that a replay leaves no dead tuple and nothing in the write-ahead log. An anti-join in front of it was
//! measured: replays 1.3 times as fast, new rows 5 to 10 % slower. Worse, it gave the planner a choice: a plan that
//! was made while the tables were small went on reading them whole when they had grown. Here nothing depends on a plan.
//!
//! Rows reach each table in the order of the parameters, sorted by primary key, so that workers that write the same
//! keys at the same time wait for each other and do not deadlock. It also makes new rows about 10 % faster.

use super::model::Model;
use super::table::{Kind, Table, TableColumn};

/// The statement of a batch: parameter `$1` is the record source (`text`), the others are those of
/// [`VaultRows::into_columns`](super::VaultRows::into_columns). It returns nothing of use: counting what each table
/// took would cost about a tenth of it.
#[must_use]
pub fn insert_statement(model: &Model) -> String {
    let mut parameters = 2..;
    let inserts = join(&model.tables(), ",\n", |table| {
        insert(table, parameters.by_ref().take(table.columns.len()))
    });
    format!("WITH\n{inserts}\nSELECT")
}

fn insert(table: &Table, parameters: impl Iterator<Item = usize>) -> String {
    let name = table.name;
    let columns = join(&table.columns, ", ", |column| column.name.clone());
    let values = join(&table.columns, ",\n        ", value);
    let arrays = table.columns.iter().zip(parameters);
    let arrays = arrays.map(|(column, number)| format!("${number}::{}", column.kind.parameter_type()));
    let arrays = arrays.collect::<Vec<_>>().join(", ");
    format!(
        "\
{name} AS (
    INSERT INTO dds.{name} ({columns}, load_src)
    SELECT
        {values},
        $1::text
    FROM unnest(
        {arrays}
    ) AS new ({columns})
    ON CONFLICT DO NOTHING
)"
    )
}

/// A column of the new row. Times come as microseconds, and PostgreSQL multiplies an interval by a double, which is
/// exact only to 2^53: seconds and the rest apart are exact from the year 1 to the year 9999.
fn value(TableColumn { name, kind }: &TableColumn) -> String {
    if *kind == Kind::Timestamp {
        format!(
            "timestamptz 'epoch' + new.{name} / 1000000 * interval '1 second'\n            \
             + new.{name} % 1000000 * interval '1 microsecond'"
        )
    } else {
        format!("new.{name}")
    }
}

/// The items of a list, each written by `item`.
pub(super) fn join<T>(items: &[T], separator: &str, item: impl FnMut(&T) -> String) -> String {
    items.iter().map(item).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::{Attribute, Field, MODEL, Parent, Satellite, VaultRows};

    #[test]
    fn the_statement_reads_as_it_did() {
        insta::assert_snapshot!(insert_statement(&MODEL));
    }

    #[test]
    fn every_parameter_is_used_once_and_they_are_far_fewer_than_postgresql_takes() {
        let statement = insert_statement(&MODEL);
        let parameters = VaultRows::new(&MODEL).into_columns().len();
        assert!(parameters < 1000);
        for number in 2..2 + parameters {
            assert_eq!(statement.matches(&format!("${number}::")).count(), 1, "${number}");
        }
        assert!(!statement.contains(&format!("${}::", 2 + parameters)));
    }

    #[test]
    fn an_attribute_more_in_the_model_is_one_parameter_more() {
        static ATTRIBUTES: [Attribute; 2] = [
            Attribute {
                column: "status",
                field: Field::Status,
            },
            Attribute {
                column: "restaurant",
                field: Field::RestaurantName,
            },
        ];
        static SATELLITE: Satellite = Satellite {
            name: "s_order_status",
            parent: Parent::Hub(&super::super::model::H_ORDER),
            multi_active: None,
            driving_key: None,
            attributes: &ATTRIBUTES,
        };
        static SATELLITES: [&Satellite; 1] = [&SATELLITE];
        let model = Model {
            satellites: &SATELLITES,
            ..MODEL
        };
        assert!(insert_statement(&model).contains("$31::text[], $32::uuid[]\n    ) AS new (h_order_pk"));
        assert_eq!(VaultRows::new(&model).into_columns().len(), 31);
    }
}
