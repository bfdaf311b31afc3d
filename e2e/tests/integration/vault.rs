//! The views of the Data Vault answer questions about a point in time, equal to a naive interpretation of the messages,
//! in any order of arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pipeline::{Pipeline, Record, start_services};
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::key_migration::undo_migration;

const DEADLINE: Duration = Duration::from_mins(1);
/// Status by rank. Few statuses and few instants, so that many versions differ in their digest only.
const STATUSES: [&str; 3] = ["OPEN", "CLOSED", "CANCELLED"];
/// Number of different instants.
const INSTANTS: i64 = 6;

/// Line of an order: product, category, price, quantity.
type Line = (&'static str, &'static str, i64, i64);

/// Version of an order, as a message between STG and DDS.
#[derive(Clone, Debug)]
struct Version {
    order: i64,
    /// Minutes after 12:00.
    instant: i64,
    /// Index in [`STATUSES`].
    status: usize,
    /// Digest of the source record: distinct, and the last part of the version.
    digest: u64,
    user: &'static str,
    restaurant: &'static str,
    lines: Vec<Line>,
}

impl Version {
    /// Position of the version among all versions.
    fn rank(&self) -> (i64, usize, u64) {
        (self.instant, self.status, self.digest)
    }

    fn record(&self, partition: i32) -> Record {
        let products: Vec<_> = self
            .lines
            .iter()
            .map(|(product, category, price, quantity)| {
                json!({"id": product, "name": format!("{product} at {}", self.restaurant), "category": category,
                    "price": price, "quantity": quantity})
            })
            .collect();
        let time = format!("2024-02-24 12:{:02}:00", self.instant);
        let value = json!({"object_id": self.order, "object_type": "order", "payload": {
            "id": self.order, "date": "2024-02-24 11:58:12", "update_ts": time, "cost": 1, "payment": 1,
            "status": STATUSES[self.status], "restaurant": {"id": self.restaurant, "name": "R"},
            "user": {"id": self.user, "name": "U", "login": "u"}, "products": products
        }});
        Record {
            partition,
            value: Some(value.to_string().into_bytes()),
            headers: vec![(
                "streamstage-digest".to_owned(),
                Some(format!("{:064x}", self.digest).into_bytes()),
            )],
            ..Record::default()
        }
    }

    /// Category, price and quantity of the lines by identity: product, and number among the lines with this product.
    fn items(&self) -> BTreeMap<(&'static str, usize), (&'static str, i64, i64)> {
        let mut items = BTreeMap::new();
        for (product, category, price, quantity) in &self.lines {
            let before = items.keys().filter(|(other, _)| other == product).count();
            items.insert((*product, before + 1), (*category, *price, *quantity));
        }
        items
    }

    /// Category of a product: that of its first line.
    fn category(&self, product: &str) -> Option<&'static str> {
        let mut lines = self.lines.iter();
        lines.find(|line| line.0 == product).map(|line| line.1)
    }
}

/// Draws versions that collide in every way: equal instants, corrected users and restaurants, moved dishes, products on
/// several lines, and orders without lines.
fn draw_versions(count: u64) -> Vec<Version> {
    let random = &mut ChaCha8Rng::seed_from_u64(5);
    let line = |random: &mut ChaCha8Rng| {
        (
            *["p", "q", "r", "s"].choose(random).expect("a product"),
            *["rolls", "soups"].choose(random).expect("a category"),
            random.random_range(1..3),
            random.random_range(1..3),
        )
    };
    (0..count)
        .map(|digest| Version {
            order: random.random_range(1..9),
            instant: random.random_range(0..INSTANTS),
            status: random.random_range(0..STATUSES.len()),
            digest,
            user: ["ann", "bob", "cat"].choose(random).expect("a user"),
            restaurant: ["east", "west"].choose(random).expect("a restaurant"),
            lines: (0..random.random_range(0..5)).map(|_| line(random)).collect(),
        })
        .collect()
}

/// Sends the versions to DDS, with these numbers of partitions and workers, and waits until they are stored.
async fn load(pipeline: &Pipeline, partitions: i32, versions: &[Version]) -> Result<()> {
    let records: Vec<Record> = (0..partitions)
        .cycle()
        .zip(versions)
        .map(|(partition, version)| version.record(partition))
        .collect();
    pipeline.send(pipeline.stg_topic(), &records).await?;
    let worker = pipeline.start_worker(&["dds"])?;
    pipeline.wait_stages_drained(&["dds"], DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

/// Row of a timeline view: key, value, and the instants of its begin and its end.
type Period = (String, String, i64, Option<i64>);

/// Interprets a sequence of states, one per version and in the order of the versions; `None` is an absent row.
fn periods<'v>(key: &str, states: impl Iterator<Item = (&'v Version, Option<String>)>) -> Vec<Period> {
    let mut rows: Vec<Period> = Vec::new();
    let mut current: Option<String> = None;
    for (version, state) in states {
        if state == current {
            continue;
        }
        if current.is_some() {
            rows.last_mut().expect("the current row").3 = Some(version.instant);
        }
        if let Some(state) = &state {
            rows.push((key.to_owned(), state.clone(), version.instant, None));
        }
        current = state;
    }
    rows
}

/// What each view must contain, by the messages alone: timelines by name of the satellite.
fn interpret(versions: &[Version]) -> BTreeMap<&'static str, Vec<Period>> {
    let mut sorted: Vec<&Version> = versions.iter().collect();
    sorted.sort_by_key(|version| version.rank());
    let mut views: BTreeMap<&'static str, Vec<Period>> = BTreeMap::new();
    let orders: BTreeSet<i64> = sorted.iter().map(|version| version.order).collect();
    for order in orders {
        let of_order = || sorted.iter().copied().filter(|version| version.order == order);
        let key = order.to_string();
        let mut add = |view, state: &dyn Fn(&Version) -> String| {
            let rows = periods(&key, of_order().map(|version| (version, Some(state(version)))));
            views.entry(view).or_default().extend(rows);
        };
        add("s_order_user_effectivity", &|version| version.user.to_owned());
        add("s_order_restaurant_effectivity", &|version| {
            version.restaurant.to_owned()
        });
        add("s_order_status", &|version| STATUSES[version.status].to_owned());
        let items: BTreeSet<_> = of_order()
            .flat_map(|version| version.items().into_keys())
            .collect();
        for (product, occurrence) in items {
            let states = of_order().map(|version| {
                let item = version.items().remove(&(product, occurrence));
                (
                    version,
                    item.map(|(category, price, quantity)| {
                        format!(
                            "{product} at {}, {category} {price} {quantity}",
                            version.restaurant
                        )
                    }),
                )
            });
            let rows = periods(&format!("{order} {product} {occurrence}"), states);
            views.entry("s_order_item").or_default().extend(rows);
        }
    }
    for product in ["p", "q", "r", "s"] {
        let of_product = || {
            sorted
                .iter()
                .filter(|version| version.category(product).is_some())
        };
        let categories = of_product().map(|version| (*version, version.category(product).map(str::to_owned)));
        let rows = periods(product, categories);
        views
            .entry("s_product_category_effectivity")
            .or_default()
            .extend(rows);
        let restaurants = of_product().map(|version| (*version, Some(version.restaurant.to_owned())));
        let rows = periods(product, restaurants);
        views
            .entry("s_product_restaurant_effectivity")
            .or_default()
            .extend(rows);
        let names =
            of_product().map(|version| (*version, Some(format!("{product} at {}", version.restaurant))));
        let rows = periods(product, names);
        views.entry("s_product_names").or_default().extend(rows);
    }
    for rows in views.values_mut() {
        rows.sort();
    }
    views
}

/// Joins of each satellite to business keys: name, key, value, and the hubs and links.
const VIEWS: [(&str, &str, &str, &str); 7] = [
    (
        "s_order_item",
        "concat_ws(' ', order_id, product_id, occurrence)",
        "format('%s, %s %s %s', name, category, price::integer, quantity)",
        "JOIN dds.l_order_product USING (l_order_product_pk) JOIN dds.h_order USING (h_order_pk)
         JOIN dds.h_product USING (h_product_pk)",
    ),
    (
        "s_order_restaurant_effectivity",
        "order_id::text",
        "restaurant_id",
        "JOIN dds.h_order USING (h_order_pk) JOIN dds.h_restaurant USING (h_restaurant_pk)",
    ),
    (
        "s_order_status",
        "order_id::text",
        "status",
        "JOIN dds.h_order USING (h_order_pk)",
    ),
    (
        "s_order_user_effectivity",
        "order_id::text",
        "user_id",
        "JOIN dds.h_order USING (h_order_pk) JOIN dds.h_user USING (h_user_pk)",
    ),
    (
        "s_product_category_effectivity",
        "product_id",
        "category_name",
        "JOIN dds.h_product USING (h_product_pk) JOIN dds.h_category USING (h_category_pk)",
    ),
    (
        "s_product_names",
        "product_id",
        "name",
        "JOIN dds.h_product USING (h_product_pk)",
    ),
    (
        "s_product_restaurant_effectivity",
        "product_id",
        "restaurant_id",
        "JOIN dds.h_product USING (h_product_pk) JOIN dds.h_restaurant USING (h_restaurant_pk)",
    ),
];

/// Minutes after 12:00 of a time.
fn minutes(column: &str) -> String {
    format!("(extract(epoch FROM {column} - timestamptz '2024-02-24 12:00:00Z') / 60)::bigint")
}

/// Compares the views of each satellite with the interpretation of the messages.
async fn assert_views(pipeline: &Pipeline, versions: &[Version], description: &str) -> Result<()> {
    let expected = interpret(versions);
    for (name, key, value, joins) in VIEWS {
        let expected = &expected[name];
        let (from, to) = (minutes("valid_from"), minutes("valid_to"));
        let timeline = format!("SELECT {key}, {value}, {from}, {to} FROM dds.v_{name}_timeline {joins}");
        let timeline = sqlx::query_as(AssertSqlSafe(timeline));
        let mut timeline: Vec<Period> = timeline.fetch_all(pipeline.pool()).await?;
        timeline.sort();
        assert_eq!(&timeline, expected, "timeline of {name}, {description}");

        let current = format!("SELECT {key}, {value} FROM dds.v_{name}_current {joins}");
        let current = sqlx::query_as(AssertSqlSafe(current));
        let mut current: Vec<(String, String)> = current.fetch_all(pipeline.pool()).await?;
        current.sort();
        let open = expected.iter().filter(|(_, _, _, end)| end.is_none());
        let open: Vec<_> = open
            .map(|(key, value, ..)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(current, open, "current rows of {name}, {description}");
    }
    Ok(())
}

/// Instant in the query of the documentation.
const DOCUMENTED_INSTANT: &str = "timestamptz '2024-02-24 12:00:00+00'";

/// Returns the query of the documentation for the orders at an instant: who ordered what, where.
fn documented_query() -> Result<&'static str> {
    let page = include_str!("../../../docs/warehouse.md");
    let (_, query) = page
        .split_once("-- Orders at an instant: who ordered what, where.\n")
        .context("no such query")?;
    Ok(query.split(';').next().unwrap_or_default())
}

/// Order, user, restaurant, product, occurrence, price, quantity.
type Ordered = (i64, String, String, String, i64, i64, i64);

/// Compares the query with the latest version of each order until the instant.
async fn assert_ordered_at_every_instant(pipeline: &Pipeline, versions: &[Version]) -> Result<()> {
    for instant in -1..=INSTANTS {
        let mut latest: HashMap<i64, &Version> = HashMap::new();
        for version in versions.iter().filter(|version| version.instant <= instant) {
            let entry = latest.entry(version.order).or_insert(version);
            if version.rank() > entry.rank() {
                *entry = version;
            }
        }
        let mut expected: Vec<Ordered> = Vec::new();
        for version in latest
            .values()
            .filter(|version| STATUSES[version.status] != "CANCELLED")
        {
            for ((product, occurrence), (_, price, quantity)) in version.items() {
                expected.push((
                    version.order,
                    version.user.to_owned(),
                    version.restaurant.to_owned(),
                    product.to_owned(),
                    i64::try_from(occurrence)?,
                    price,
                    quantity,
                ));
            }
        }
        expected.sort();
        let time = format!("{DOCUMENTED_INSTANT} + interval '{instant} minutes'");
        let query = documented_query()?.replace(DOCUMENTED_INSTANT, &time);
        let query = format!(
            "SELECT order_id, user_id, restaurant_id, product_id, occurrence::bigint, price::bigint, quantity::bigint
             FROM ({query}) AS ordered"
        );
        let query = sqlx::query_as(AssertSqlSafe(query));
        let mut answer: Vec<Ordered> = query.fetch_all(pipeline.pool()).await?;
        answer.sort();
        assert_eq!(answer, expected, "{instant} minutes after 12:00");
    }
    Ok(())
}

/// Row digests of the vault.
async fn vault_digests(pipeline: &Pipeline) -> Result<BTreeMap<String, String>> {
    let mut digests = pipeline.row_digests().await?;
    digests.retain(|table, _| table.starts_with("dds."));
    Ok(digests)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_views_equal_a_naive_interpreter_in_any_order_of_arrival() -> Result<()> {
    let services = start_services().await?;
    let versions = draw_versions(160);
    let random = &mut ChaCha8Rng::seed_from_u64(1);
    let mut reference = None;
    for partitions in [1, 3] {
        let mut pipeline = Pipeline::create(&services, "vault", partitions).await?;
        pipeline.set_batch_settings("{maxRecords: 7, maxWait: 20ms}")?;
        let mut arriving = versions.clone();
        if partitions > 1 {
            arriving.extend_from_slice(&versions);
            arriving.shuffle(random);
        }
        load(&pipeline, partitions, &arriving).await?;
        let description = format!("{partitions} partitions");
        assert_views(&pipeline, &versions, &description).await?;
        assert_ordered_at_every_instant(&pipeline, &versions).await?;
        let digests = vault_digests(&pipeline).await?;
        assert_eq!(
            reference.get_or_insert_with(|| digests.clone()),
            &digests,
            "{description}"
        );
    }
    Ok(())
}

/// Orders before and after a dish moved to another category, with a corrected user, a corrected restaurant, and products
/// on several lines.
fn orders_around_a_move() -> [Vec<Version>; 2] {
    let version = |order, instant, user, restaurant, lines: &[Line]| Version {
        order,
        instant,
        status: 0,
        digest: u64::try_from(order * 100 + instant).unwrap_or_default(),
        user,
        restaurant,
        lines: lines.to_vec(),
    };
    [
        vec![
            version(
                1,
                0,
                "ann",
                "east",
                &[("q", "soups", 1, 1), ("p", "rolls", 1, 2), ("p", "rolls", 2, 1)],
            ),
            version(1, 1, "bob", "east", &[("p", "rolls", 1, 2), ("p", "rolls", 2, 1)]),
            version(
                2,
                1,
                "ann",
                "west",
                &[("r", "soups", 1, 1), ("r", "soups", 1, 2), ("p", "rolls", 1, 1)],
            ),
        ],
        vec![
            version(1, 3, "bob", "east", &[("p", "soups", 2, 1)]),
            version(2, 0, "ann", "east", &[("s", "soups", 1, 1)]),
            version(3, 4, "cat", "east", &[("p", "soups", 1, 1), ("q", "soups", 1, 1)]),
            version(4, 4, "cat", "east", &[]),
        ],
    ]
}

/// Returns the vault to its state before the migration: lines are numbered by their position, and nothing states which
/// row of a link is in effect.
const BEFORE_MIGRATION: &str = "
DROP VIEW dds.v_s_order_item_current, dds.v_s_order_item_timeline;
ALTER TABLE dds.s_order_item DROP CONSTRAINT s_order_item_pkey;
ALTER TABLE dds.s_order_item RENAME COLUMN occurrence TO line_no;
UPDATE dds.s_order_item AS item SET line_no = position.line_no FROM (
    SELECT l_order_product_pk, version, occurrence.line_no AS occurrence, row_number() OVER (
        PARTITION BY h_order_pk, version ORDER BY h_product_pk, occurrence.line_no) AS line_no
    FROM dds.s_order_item AS occurrence JOIN dds.l_order_product USING (l_order_product_pk)
) AS position
WHERE (item.l_order_product_pk, item.version, item.line_no)
    = (position.l_order_product_pk, position.version, position.occurrence);
ALTER TABLE dds.s_order_item ADD PRIMARY KEY (l_order_product_pk, version, line_no);
CREATE VIEW dds.v_s_order_item_current AS SELECT 1;
CREATE VIEW dds.v_s_order_item_timeline AS SELECT 1;
DELETE FROM streamstage._sqlx_migrations WHERE version = 12;
";

#[tokio::test(flavor = "multi_thread")]
async fn the_migration_fills_the_effectivity_of_existing_rows_and_a_replay_changes_nothing() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "vault_migration", 1).await?;
    let [before, after] = orders_around_a_move();
    load(&pipeline, 1, &before).await?;
    load(&pipeline, 1, &after).await?;
    let digests = vault_digests(&pipeline).await?;
    let load_dates = load_dates(&pipeline).await?;

    undo_migration(&pipeline).await?;
    let mut undo = BEFORE_MIGRATION.to_owned();
    for table in effectivity_satellites(&pipeline).await? {
        write!(undo, "DROP TABLE dds.{table} CASCADE;")?;
    }
    sqlx::raw_sql(AssertSqlSafe(undo))
        .execute(pipeline.pool())
        .await?;
    let positions: i64 = pipeline
        .query_scalar("SELECT max(line_no)::bigint FROM dds.s_order_item")
        .await?;
    ensure!(positions == 3, "the items are numbered by position");
    pipeline.run_command("migrate", &[], &[])?;
    assert_eq!(vault_digests(&pipeline).await?, digests, "migrated");
    assert_eq!(self::load_dates(&pipeline).await?, load_dates, "load dates stay");

    let versions = [before, after].concat();
    assert_views(&pipeline, &versions, "migrated").await?;
    pipeline.run_command(
        "reset-offsets",
        &["dds"],
        &["--to", "earliest", "--all", "--execute"],
    )?;
    load(&pipeline, 1, &[]).await?;
    assert_eq!(vault_digests(&pipeline).await?, digests, "replayed");
    assert_eq!(
        self::load_dates(&pipeline).await?,
        load_dates,
        "a replay loads no row"
    );
    Ok(())
}

async fn effectivity_satellites(pipeline: &Pipeline) -> Result<Vec<String>> {
    let tables = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables
         WHERE table_schema = 'dds' AND table_type = 'BASE TABLE' AND table_name LIKE '%\\_effectivity' ORDER BY 1",
    );
    let tables: Vec<String> = tables.fetch_all(pipeline.pool()).await?;
    assert_eq!(tables.len(), 4, "{tables:?}");
    Ok(tables)
}

/// Number and sum of the load dates of the satellites that the migration writes.
async fn load_dates(pipeline: &Pipeline) -> Result<Vec<(String, i64, String)>> {
    let mut dates = Vec::new();
    let mut tables = effectivity_satellites(pipeline).await?;
    tables.push("s_order_item".to_owned());
    for table in tables {
        let query = format!(
            "SELECT '{table}', count(*), sum(extract(epoch FROM load_dt))::text || min(load_src) FROM dds.{table}"
        );
        dates.push(
            sqlx::query_as(AssertSqlSafe(query))
                .fetch_one(pipeline.pool())
                .await?,
        );
    }
    Ok(dates)
}
