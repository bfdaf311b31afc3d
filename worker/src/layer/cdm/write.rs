#![expect(
    clippy::disallowed_types,
    reason = "edge: writes the ledger, the counters and the names to PostgreSQL"
)]
//! Writes a batch of facts: first the ledger, which locks the orders, then the counter deltas that follow from it.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::decode::Fact;
use super::ledger::{Contribution, CounterDeltas, Deltas};
use crate::chunks::split_by_weight;
use crate::layer::interface::Effects;
use crate::record_columns::Query;
use crate::statement;
use crate::vault::{BusinessKey, hash_key};

/// Maximum number of products and categories per statement, of stored and new contributions. It bounds the memory: each
/// needs about 250 bytes until its counter delta is sent. A batch of ordinary orders has fewer. Several statements lock
/// counters in no common order, so workers with such batches can deadlock; PostgreSQL then fails one of them, and its
/// batch is retried.
const MAX_ENTITIES_PER_STATEMENT: usize = 50_000;

/// Inserts the orders that the ledger does not contain, and returns the facts that are new.
///
/// `is_inserted` is true for a fact that the ledger has now. The other facts may replace a row, which has about
/// `stored_entities` products and categories. Old facts are filtered out before anything is locked.
const INSERT_NEW_ORDERS: &str = "\
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::uuid[], $4::text[], $5::text[])
        WITH ORDINALITY AS batch (order_id, version, user_id, products, categories, ordinal)
), candidate AS MATERIALIZED (
    SELECT batch.*, stored.order_id IS NULL AS is_absent,
        (pg_column_size(stored.products) + pg_column_size(stored.categories)) / 16 AS stored_entities
    FROM batch LEFT JOIN cdm.order_contribution AS stored ON stored.order_id = batch.order_id
    WHERE stored.order_id IS NULL OR stored.version < batch.version
), inserted AS (
    INSERT INTO cdm.order_contribution (order_id, version, user_id, products, categories)
    SELECT order_id, version, user_id, products::uuid[], categories::uuid[] FROM candidate WHERE is_absent
    ORDER BY order_id
    ON CONFLICT (order_id) DO NOTHING
    RETURNING order_id
)
SELECT candidate.ordinal, inserted.order_id IS NOT NULL AS is_inserted,
    coalesce(candidate.stored_entities, 0) AS stored_entities
FROM candidate LEFT JOIN inserted USING (order_id)";

/// Locks the rows of some orders in the ledger, and reads them after the locks are acquired.
const LOCK: &str = "\
SELECT order_id, version, user_id, products, categories FROM cdm.order_contribution
WHERE order_id = ANY($1) ORDER BY order_id FOR UPDATE";

const REPLACE: &str = "\
UPDATE cdm.order_contribution AS stored
SET version = batch.version, user_id = batch.user_id,
    products = batch.products::uuid[], categories = batch.categories::uuid[]
FROM unnest($1::bigint[], $2::bytea[], $3::uuid[], $4::text[], $5::text[])
    AS batch (order_id, version, user_id, products, categories)
WHERE stored.order_id = batch.order_id";

/// Stores a name if its version is later than the stored one. Other names lock nothing.
const UPSERT_NAMES: &str = "\
INSERT INTO cdm.entity_name (id, name, version)
SELECT batch.id, batch.name, batch.version
FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS batch (id, name, version)
WHERE NOT EXISTS (
    SELECT FROM cdm.entity_name AS stored WHERE stored.id = batch.id AND stored.version >= batch.version)
ORDER BY batch.id
ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version
WHERE cdm.entity_name.version < excluded.version";

/// Writes the facts of a batch, which may be in any order and contain duplicates.
pub(super) async fn write_facts(
    connection: &mut PgConnection,
    facts: &[&Fact],
) -> Result<Effects, sqlx::Error> {
    let mut deltas = CounterDeltas::default();
    let mut stored = 0;
    let latest = latest_by_order(facts);
    for chunk in split_by_weight(&latest, MAX_ENTITIES_PER_STATEMENT, |contribution| {
        contribution.entity_count()
    }) {
        let inserted = insert_new_orders(connection, chunk).await?;
        inserted
            .new
            .iter()
            .for_each(|contribution| deltas.add(contribution));
        stored += inserted.new.len();
        apply_large(connection, &mut deltas).await?;
        for part in split_by_weight(&inserted.candidates, MAX_ENTITIES_PER_STATEMENT, |candidate| {
            candidate.contribution.entity_count() + candidate.stored_entities
        }) {
            stored += replace_orders(connection, part, &mut deltas).await?;
            apply_large(connection, &mut deltas).await?;
        }
    }
    apply_deltas(connection, deltas).await?;
    for chunk in split_by_weight(facts, MAX_ENTITIES_PER_STATEMENT, |fact| fact.names.len()) {
        upsert_names(connection, chunk).await?;
    }
    Ok(Effects {
        stored,
        duplicate: facts.len() - stored,
        ..Effects::default()
    })
}

/// Applies the counter deltas if they are too many to collect more.
async fn apply_large(connection: &mut PgConnection, deltas: &mut CounterDeltas) -> Result<(), sqlx::Error> {
    if deltas.products.len() + deltas.categories.len() < MAX_ENTITIES_PER_STATEMENT {
        return Ok(());
    }
    apply_deltas(connection, std::mem::take(deltas)).await
}

async fn apply_deltas(connection: &mut PgConnection, mut deltas: CounterDeltas) -> Result<(), sqlx::Error> {
    deltas.drop_zero_deltas();
    PRODUCT_COUNTS.apply_deltas(connection, &deltas.products).await?;
    CATEGORY_COUNTS.apply_deltas(connection, &deltas.categories).await
}

/// Returns the contribution of the latest version of each order, because only that one can change the ledger.
fn latest_by_order<'f>(facts: &[&'f Fact]) -> Vec<&'f Contribution> {
    let mut latest: BTreeMap<i64, &Contribution> = BTreeMap::new();
    for contribution in facts.iter().map(|fact| &fact.contribution) {
        let current = latest.entry(contribution.order_id).or_insert(contribution);
        if contribution.version > current.version {
            *current = contribution;
        }
    }
    latest.into_values().collect()
}

/// Contributions that the ledger has accepted, and those that may replace a stored one.
#[derive(Default)]
struct InsertedOrders<'f> {
    new: Vec<&'f Contribution>,
    candidates: Vec<Candidate<'f>>,
}

/// Contribution that may replace a stored one.
struct Candidate<'f> {
    contribution: &'f Contribution,
    /// Approximate number of products and categories of the stored contribution.
    stored_entities: usize,
}

/// Inserts the orders that the ledger does not contain.
async fn insert_new_orders<'f>(
    connection: &mut PgConnection,
    latest: &[&'f Contribution],
) -> Result<InsertedOrders<'f>, sqlx::Error> {
    let mut inserted = InsertedOrders::default();
    let rows = bind_contributions(INSERT_NEW_ORDERS, latest)
        .fetch_all(connection)
        .await?;
    for row in rows {
        let ordinal = usize::try_from(row.try_get::<i64, _>("ordinal")? - 1).unwrap_or(usize::MAX);
        let contribution = latest[ordinal];
        if row.try_get("is_inserted")? {
            inserted.new.push(contribution);
        } else {
            let stored_entities = usize::try_from(row.try_get::<i32, _>("stored_entities")?).unwrap_or(0);
            inserted.candidates.push(Candidate {
                contribution,
                stored_entities,
            });
        }
    }
    // All workers lock in this order.
    inserted
        .candidates
        .sort_unstable_by_key(|candidate| candidate.contribution.order_id);
    Ok(inserted)
}

/// Locks the stored contributions, replaces those that are older than their candidate, and adds the deltas. Returns
/// their number.
async fn replace_orders(
    connection: &mut PgConnection,
    candidates: &[Candidate<'_>],
    deltas: &mut CounterDeltas,
) -> Result<usize, sqlx::Error> {
    let candidates: HashMap<i64, &Contribution> = candidates
        .iter()
        .map(|candidate| (candidate.contribution.order_id, candidate.contribution))
        .collect();
    let orders: Vec<i64> = candidates.keys().copied().collect();
    let mut replacements = Vec::new();
    let rows = statement::query(LOCK)
        .bind(orders)
        .fetch_all(&mut *connection)
        .await?;
    for row in rows {
        let locked = Contribution {
            order_id: row.try_get("order_id")?,
            version: row.try_get("version")?,
            user: row.try_get("user_id")?,
            products: row.try_get("products")?,
            categories: row.try_get("categories")?,
        };
        let candidate = candidates[&locked.order_id];
        if candidate.version > locked.version {
            deltas.subtract(&locked);
            deltas.add(candidate);
            replacements.push(candidate);
        }
    }
    if !replacements.is_empty() {
        bind_contributions(REPLACE, &replacements)
            .execute(connection)
            .await?;
    }
    Ok(replacements.len())
}

fn bind_contributions<'q>(statement: &'static str, contributions: &[&'q Contribution]) -> Query<'q> {
    let array = |keys: &[Uuid]| {
        // An array of arrays must be rectangular; as text each row casts its own.
        let keys: Vec<String> = keys.iter().map(Uuid::to_string).collect();
        format!("{{{}}}", keys.join(","))
    };
    let rows = contributions.iter();
    statement::query(statement)
        .bind(rows.clone().map(|row| row.order_id).collect::<Vec<_>>())
        .bind(rows.clone().map(|row| row.version.as_slice()).collect::<Vec<_>>())
        .bind(rows.clone().map(|row| row.user).collect::<Vec<_>>())
        .bind(rows.clone().map(|row| array(&row.products)).collect::<Vec<_>>())
        .bind(rows.map(|row| array(&row.categories)).collect::<Vec<_>>())
}

/// Counters of one mart.
struct Mart {
    /// Name that is hashed into the key of a counter. Frozen: stored keys depend on it.
    key_name: String,
    /// Applies deltas: `uuid[]` counter keys, `uuid[]` users, `uuid[]` entities, `integer[]` deltas.
    ///
    /// Inserts a counter that does not exist, and deletes one that reaches 0. The rows are locked in key order and read
    /// after that. If another worker inserts a counter in between, the conflict clause adds to it. A negative delta
    /// always finds its row, because the transaction that wrote the ledger row also inserted the counter.
    statement: String,
}

static PRODUCT_COUNTS: LazyLock<Mart> = LazyLock::new(|| Mart::for_entity("product"));
static CATEGORY_COUNTS: LazyLock<Mart> = LazyLock::new(|| Mart::for_entity("category"));

impl Mart {
    fn for_entity(entity: &str) -> Self {
        let table = format!("cdm.{entity}_order_count");
        let statement = format!(
            "WITH delta AS MATERIALIZED (
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[])
                AS delta (id, user_id, {entity}_id, change)
        ), locked AS MATERIALIZED (
            SELECT count.user_id, count.{entity}_id, count.order_cnt + delta.change AS order_cnt
            FROM {table} AS count JOIN delta USING (user_id, {entity}_id)
            ORDER BY count.user_id, count.{entity}_id FOR UPDATE OF count
        ), deleted AS (
            DELETE FROM {table} AS count USING locked
            WHERE count.user_id = locked.user_id AND count.{entity}_id = locked.{entity}_id AND locked.order_cnt = 0
        ), updated AS (
            UPDATE {table} AS count SET order_cnt = locked.order_cnt FROM locked
            WHERE count.user_id = locked.user_id AND count.{entity}_id = locked.{entity}_id AND locked.order_cnt <> 0
        )
        INSERT INTO {table} AS count (id, user_id, {entity}_id, order_cnt)
        SELECT id, user_id, {entity}_id, change FROM delta
        WHERE NOT EXISTS (
            SELECT FROM locked WHERE locked.user_id = delta.user_id AND locked.{entity}_id = delta.{entity}_id)
        ORDER BY user_id, {entity}_id
        ON CONFLICT (user_id, {entity}_id) DO UPDATE SET order_cnt = count.order_cnt + excluded.order_cnt"
        );
        Self {
            key_name: format!("user_{entity}"),
            statement,
        }
    }

    /// Applies the counter deltas of one batch.
    async fn apply_deltas(&self, connection: &mut PgConnection, deltas: &Deltas) -> Result<(), sqlx::Error> {
        if deltas.is_empty() {
            return Ok(());
        }
        let id = |(user, entity): &(Uuid, Uuid)| {
            hash_key(
                &self.key_name,
                &[
                    BusinessKey::Text(&user.to_string()),
                    BusinessKey::Text(&entity.to_string()),
                ],
            )
        };
        statement::query(AssertSqlSafe(self.statement.as_str()))
            .bind(deltas.keys().map(id).collect::<Vec<_>>())
            .bind(deltas.keys().map(|(user, _)| *user).collect::<Vec<_>>())
            .bind(deltas.keys().map(|(_, entity)| *entity).collect::<Vec<_>>())
            .bind(deltas.values().copied().collect::<Vec<i32>>())
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// Stores the latest name of every entity of the facts, including facts of superseded versions.
async fn upsert_names(connection: &mut PgConnection, facts: &[&Fact]) -> Result<(), sqlx::Error> {
    let mut latest: BTreeMap<Uuid, (&[u8], &str)> = BTreeMap::new();
    for fact in facts {
        for (id, name) in &fact.names {
            let version = fact.contribution.version.as_slice();
            let current = latest.entry(*id).or_insert((version, name));
            if version > current.0 {
                *current = (version, name);
            }
        }
    }
    statement::query(UPSERT_NAMES)
        .bind(latest.keys().copied().collect::<Vec<_>>())
        .bind(latest.values().map(|(_, name)| *name).collect::<Vec<_>>())
        .bind(latest.values().map(|(version, _)| *version).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(order_id: i64, version: u8) -> Fact {
        let contribution = Contribution {
            order_id,
            version: vec![version],
            ..Contribution::default()
        };
        Fact {
            contribution,
            names: Vec::new(),
        }
    }

    #[test]
    fn only_the_latest_version_of_an_order_in_a_batch_counts() {
        let facts = [fact(2, 1), fact(1, 2), fact(1, 3), fact(1, 1)];
        let latest = latest_by_order(&facts.iter().collect::<Vec<_>>());
        let versions: Vec<(i64, u8)> = latest
            .iter()
            .map(|contribution| (contribution.order_id, contribution.version[0]))
            .collect();
        assert_eq!(versions, [(1, 3), (2, 1)]);
    }
}
