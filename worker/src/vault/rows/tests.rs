//! Tests of the rows of a batch: no duplicates, no orphans, and independence of the order of arrival.

mod order;

use std::collections::HashSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use rust_decimal::Decimal;

use self::order::{Line, Order, at};
use super::*;
use crate::plan::ORDERS;
use crate::vault::hash::{BusinessKey, hash_diff, hash_key};
use crate::vault::table::tables;
use crate::version::digest;

const CATEGORIES: [&str; 4] = ["Роллы", "Йогурт", "И\u{306}огурт", " Роллы "];

fn golden() -> Order {
    Order {
        id: 322_519,
        placed: at(1_708_775_892_000_000),
        cost: Decimal::from(360),
        payment: Decimal::new(36000, 2),
        status: "CLOSED",
        user_id: "626a81ce9a8cd1920641e264",
        user_name: "Кира Голубева",
        user_login: "kira",
        user_update_ts: Some(1_700_000_000_000_000),
        restaurant_id: "ef8c42c19b7518a9aebec106",
        restaurant_name: "Вкус Индии",
        restaurant_update_ts: Some(1_690_000_000_000_000),
        lines: vec![line("6276e8cd0cf48b4cded00878", "Роллы", 180, 2)],
    }
}

fn line(product_id: &'static str, category: &'static str, price: i64, quantity: i32) -> Line {
    Line {
        product_id,
        name: "РОЛЛ С ТОФУ",
        menu_name: "РОЛЛ С ТОФУ И ВЯЛЕНЫМИ ТОМАТАМИ",
        category,
        price: Decimal::from(price),
        quantity,
    }
}

fn version(update_ts: i64, status: &str) -> Version {
    Version::new(update_ts, status, Some(update_ts), digest(status.as_bytes()))
}

fn columns_of<'a>(orders: impl IntoIterator<Item = &'a (Order, Version)>) -> Vec<Column> {
    let orders = orders.into_iter();
    let orders: Vec<(Row<'_>, &Version)> = orders.map(|(order, version)| (order.row(), version)).collect();
    let mut rows = VaultRows::new(&ORDERS.vault);
    for (row, version) in &orders {
        rows.push(row, version);
    }
    rows.into_columns()
}

impl Column {
    fn texts(&self) -> Vec<String> {
        match self {
            Self::Uuid(rows) => rows.iter().map(ToString::to_string).collect(),
            Self::Text(rows) => rows.iter().map(|text| format!("\"{text}\"")).collect(),
            Self::BigInt(rows) | Self::Micros(rows) => rows.iter().map(ToString::to_string).collect(),
            Self::Integer(rows) => rows.iter().map(ToString::to_string).collect(),
            Self::Numeric(rows) => rows.iter().map(ToString::to_string).collect(),
            Self::Bytes(rows) => rows.iter().map(|bytes| hex(bytes)).collect(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The columns of one table, by name.
fn table(columns: &[Column], name: &str) -> Vec<(String, Vec<String>)> {
    let tables = tables(&ORDERS.vault);
    let index = tables
        .iter()
        .position(|table| table.name == name)
        .expect("a table of the model");
    let before: usize = tables[..index]
        .iter()
        .map(|table| table.own_columns().len())
        .sum();
    let mut rows = tables[index].rows_of.as_ref().map_or_else(Vec::new, |satellite| {
        let mut shared = self::table(columns, satellite);
        shared.truncate(tables[index].columns.len() - 1);
        shared
    });
    let own = tables[index]
        .own_columns()
        .iter()
        .map(|column| column.name.clone());
    rows.extend(own.zip(columns[before..].iter().map(Column::texts)));
    rows
}

fn rows_in(columns: &[Column], name: &str) -> usize {
    table(columns, name)[0].1.len()
}

#[test]
fn the_golden_order_has_these_rows() {
    let columns = columns_of(&[(golden(), version(1_708_776_000_000_000, "CLOSED"))]);
    let mut text = String::new();
    for vault_table in tables(&ORDERS.vault) {
        let _ = writeln!(text, "{}", vault_table.name);
        for (name, rows) in table(&columns, &vault_table.name) {
            let _ = writeln!(text, "    {name} = {}", rows.join(", "));
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn an_order_without_lines_has_a_status_and_no_item() {
    let columns = columns_of(&[(
        Order {
            lines: Vec::new(),
            ..golden()
        },
        version(0, "OPEN"),
    )]);
    assert_eq!(
        [
            "s_order_status",
            "l_order_user",
            "l_order_product",
            "s_order_item",
            "h_product"
        ]
        .map(|name| rows_in(&columns, name)),
        [1, 1, 0, 0, 0]
    );
}

#[test]
fn a_product_on_two_lines_is_one_link_and_two_items() {
    let mut order = golden();
    order.lines = vec![line("a", "Роллы", 180, 1), line("a", "Роллы", 90, 1)];
    let columns = columns_of(&[(order, version(0, "OPEN"))]);
    assert_eq!(
        ["h_product", "l_order_product", "s_product_names", "s_order_item"]
            .map(|name| rows_in(&columns, name)),
        [1, 1, 1, 2]
    );
    assert_eq!(
        table(&columns, "s_order_item")[2],
        ("occurrence".to_owned(), vec!["1".to_owned(), "2".to_owned()])
    );
}

/// Occurrences in `s_order_item` by key of the link.
fn occurrences(columns: &[Column]) -> Vec<(String, String)> {
    let mut items = table(columns, "s_order_item");
    let (links, occurrences) = (items.remove(0).1, items.remove(1).1);
    links.into_iter().zip(occurrences).collect()
}

#[test]
fn a_voided_line_does_not_change_the_key_of_another_product() {
    let items = |products: &[&'static str]| {
        let lines = products.iter().map(|product| line(product, "Роллы", 180, 1));
        let order = Order {
            lines: lines.collect(),
            ..golden()
        };
        occurrences(&columns_of(&[(order, version(0, "OPEN"))]))
    };
    let voided = items(&["a", "b", "a"]);
    assert_eq!(
        items(&["c", "a", "b", "a"])
            .iter()
            .filter(|item| !voided.contains(item))
            .count(),
        1
    );
    assert_eq!(items(&["b", "a", "a"]), voided);
    // One product, in two encodings.
    assert_eq!(items(&["a ", "b", "a"]), voided);
}

#[test]
fn a_version_has_one_partner_of_each_driving_key_even_if_its_lines_contradict_each_other() {
    let mut order = golden();
    order.restaurant_update_ts = None;
    order.lines = vec![
        line("a", "Супы", 180, 1),
        line("a", "Роллы", 180, 1),
        line("b", "Роллы", 1, 1),
    ];
    let columns = columns_of(&[(order, version(0, "OPEN"))]);
    let effective = table(&columns, "s_product_category_effectivity");
    let mut expected = [["a", "Супы"], ["b", "Роллы"]].map(|[product, category]| {
        [
            hash_key("h_product", &[BusinessKey::Text(product)]),
            hash_key("l_product_category", &[product, category].map(BusinessKey::Text)),
        ]
        .map(|key| key.to_string())
    });
    expected.sort();
    let rows: Vec<[String; 2]> = effective[0]
        .1
        .iter()
        .zip(&effective[3].1)
        .map(|(product, link)| [product.clone(), link.clone()])
        .collect();
    assert_eq!(rows, expected);
    assert_eq!(rows_in(&columns, "l_product_category"), 3);
}

#[test]
fn the_first_of_two_product_names_in_one_version_is_used() {
    let mut order = golden();
    order.restaurant_update_ts = None;
    order.lines = vec![
        line("a", "Роллы", 180, 1),
        Line {
            menu_name: "БОРЩ",
            ..line("a", "Роллы", 90, 1)
        },
    ];
    let columns = columns_of(&[(order, version(0, "OPEN"))]);
    assert_eq!(
        table(&columns, "s_product_names")[3].1,
        [format!("{:?}", golden().lines[0].menu_name)]
    );
}

#[test]
fn a_name_has_a_row_for_each_change_of_its_entry() {
    let order = |name, user_update_ts| Order {
        user_name: name,
        user_update_ts,
        ..golden()
    };
    let names = |orders: [Order; 2]| {
        let [first, second] = orders;
        let columns = columns_of(&[(first, version(1, "OPEN")), (second, version(2, "CLOSED"))]);
        table(&columns, "s_user_names")
    };
    assert_eq!(names([order("A", Some(5)), order("A", Some(5))])[0].1.len(), 1);
    assert_eq!(names([order("A", Some(5)), order("A", Some(6))])[2].1, ["5", "6"]);
    // Two entries of one time: both are stored, and the digest decides which is the later one.
    assert_eq!(names([order("A", Some(5)), order("B", Some(5))])[0].1.len(), 2);
    // Without the time of the entry, the record is the version.
    let by_record = names([order("A", None), order("A", None)]);
    assert_eq!(by_record[2].1, ["1", "2"]);
    assert_eq!(by_record[5].1[0], by_record[5].1[1]);
}

#[test]
fn a_menu_states_the_restaurant_and_the_category_of_a_product() {
    let order = |restaurant, category| Order {
        restaurant_id: restaurant,
        lines: vec![line("a", category, 1, 1)],
        ..golden()
    };
    // The same time and the same name: the rows differ in what they state.
    let columns = columns_of(&[
        (order("r", "Супы"), version(1, "OPEN")),
        (order("r", "Роллы"), version(2, "OPEN")),
        (order("q", "Роллы"), version(3, "OPEN")),
    ]);
    for name in [
        "s_product_names",
        "s_product_category_effectivity",
        "s_product_restaurant_effectivity",
    ] {
        assert_eq!(rows_in(&columns, name), 3, "{name}");
    }
    let links = |name| table(&columns, name)[3].1.iter().cloned().collect::<HashSet<_>>();
    assert_eq!(links("s_product_category_effectivity").len(), 2);
    assert_eq!(links("s_product_restaurant_effectivity").len(), 2);
}

#[test]
fn encodings_of_a_category_are_one_row_with_the_normalized_name() {
    let order = |category| {
        (
            Order {
                lines: vec![line("a", category, 1, 1)],
                ..golden()
            },
            version(1, "OPEN"),
        )
    };
    let both = columns_of(&[order(" И\u{306}огурт"), order("Йогурт")]);
    assert_eq!(table(&both, "h_category")[1].1, ["\"Йогурт\""]);
    assert_eq!(rows_in(&both, "l_product_category"), 1);
}

fn any_order() -> impl Strategy<Value = (Order, Version)> {
    let ids = prop::sample::select(vec!["a", "b", "c"]);
    let category = prop::sample::select(CATEGORIES.to_vec());
    let lines = prop::collection::vec((ids.clone(), category, 0..3_i64, 1..3_i32), 0..4);
    let status = prop::sample::select(vec!["OPEN", "CLOSED", "CANCELLED"]);
    let entry_times = prop::array::uniform2(prop::option::of(0..3_i64));
    (0..4_i64, ids.clone(), ids, status, lines, 0..3_i64, entry_times).prop_map(
        |(id, user, restaurant, status, lines, at, [user_update_ts, restaurant_update_ts])| {
            let lines = lines
                .into_iter()
                .map(|(id, category, price, quantity)| line(id, category, price, quantity));
            let order = Order {
                id,
                user_id: user,
                user_login: user,
                user_update_ts,
                restaurant_id: restaurant,
                restaurant_update_ts,
                status,
                lines: lines.collect(),
                ..golden()
            };
            let version = Version::new(at, status, Some(at), digest(format!("{order:?}").as_bytes()));
            (order, version)
        },
    )
}

proptest! {
    #[test]
    fn order_of_arrival_and_duplicates_do_not_change_the_columns(
        (orders, shuffled) in prop::collection::vec(any_order(), 0..8)
            .prop_flat_map(|orders| (Just(orders.clone()), Just([orders.clone(), orders].concat()).prop_shuffle()))
    ) {
        prop_assert_eq!(columns_of(&orders), columns_of(&shuffled));
    }

    #[test]
    fn every_table_is_sorted_by_its_key_without_duplicates(orders in prop::collection::vec(any_order(), 0..8)) {
        let columns = columns_of(&orders);
        for vault_table in tables(&ORDERS.vault) {
            let keys = &table(&columns, &vault_table.name)[..vault_table.key_length];
            let rows: Vec<Vec<&String>> = (0..keys[0].1.len()).map(|row| keys.iter().map(|key| &key.1[row]).collect()).collect();
            prop_assert!(rows.is_sorted_by(|a, b| a < b), "{} {:?}", vault_table.name, rows);
        }
    }

    #[test]
    fn hash_keys_and_hash_diffs_can_be_recomputed_from_the_rows(orders in prop::collection::vec(any_order(), 1..8)) {
        let columns = columns_of(&orders);
        let unquoted = |text: &String| text.trim_matches('"').to_owned();
        for hub in &ORDERS.vault.hubs {
            let rows = table(&columns, &hub.name);
            for (key, business_key) in rows[0].1.iter().zip(&rows[1].1) {
                let text = unquoted(business_key);
                let business_key = text.parse().map_or(BusinessKey::Text(&text), BusinessKey::Number);
                prop_assert_eq!(key, &hash_key(&hub.name, &[business_key]).to_string());
            }
        }
        let items = table(&columns, "s_order_item");
        for row in 0..items[0].1.len() {
            let attributes = [4, 5, 6, 7].map(|column: usize| unquoted(&items[column].1[row]));
            prop_assert_eq!(&items[8].1[row], &hash_diff(attributes).to_string());
        }
    }

    #[test]
    fn links_and_satellites_have_no_orphans(orders in prop::collection::vec(any_order(), 1..8)) {
        let columns = columns_of(&orders);
        let tables = tables(&ORDERS.vault);
        let keys: Vec<(String, HashSet<String>)> = tables
            .iter()
            .filter(|parent| !parent.name.starts_with("s_"))
            .map(|parent| (format!("{}_pk", parent.name), table(&columns, &parent.name).remove(0).1.into_iter().collect()))
            .collect();
        for child in &tables {
            for (name, rows) in table(&columns, &child.name) {
                if let Some((_, parents)) = keys.iter().find(|(key, _)| *key == name) {
                    prop_assert!(rows.iter().all(|row| parents.contains(row)), "{}.{name}", child.name);
                }
            }
        }
    }
}
