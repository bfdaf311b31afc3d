#![expect(
    clippy::disallowed_types,
    reason = "edge: writes the ledger, the counters and the names to PostgreSQL"
)]
//! Writes a batch of facts: the ledger first, which locks the orders, then what the counters owe to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::decode::Fact;
use super::ledger::{Change, Contribution, Deltas};
use crate::layer::Effects;
use crate::vault::hash_key;

/// Inserts the orders that the ledger does not hold, and returns the facts that are news: `fresh` ones are in
/// the ledger now, the others may replace what it holds. Known facts are filtered out before they lock anything.
const INSERT_FRESH: &str = "\
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::uuid[], $4::text[], $5::text[])
        WITH ORDINALITY AS batch (order_id, version, user_id, products, categories, place)
), news AS MATERIALIZED (
    SELECT batch.*, held.order_id IS NULL AS absent
    FROM batch LEFT JOIN cdm.order_contribution AS held ON held.order_id = batch.order_id
    WHERE held.order_id IS NULL OR held.version < batch.version
), fresh AS (
    INSERT INTO cdm.order_contribution (order_id, version, user_id, products, categories)
    SELECT order_id, version, user_id, products::uuid[], categories::uuid[] FROM news WHERE absent
    ORDER BY order_id
    ON CONFLICT (order_id) DO NOTHING
    RETURNING order_id
)
SELECT news.place, fresh.order_id IS NOT NULL AS fresh FROM news LEFT JOIN fresh USING (order_id)";

/// Locks what the ledger holds of some orders, and reads it as it is once the locks are held.
const LOCK: &str = "\
SELECT order_id, version, user_id, products, categories FROM cdm.order_contribution
WHERE order_id = ANY($1) ORDER BY order_id FOR UPDATE";

const REPLACE: &str = "\
UPDATE cdm.order_contribution AS held
SET version = batch.version, user_id = batch.user_id,
    products = batch.products::uuid[], categories = batch.categories::uuid[]
FROM unnest($1::bigint[], $2::bytea[], $3::uuid[], $4::text[], $5::text[])
    AS batch (order_id, version, user_id, products, categories)
WHERE held.order_id = batch.order_id";

/// A newer version's name takes the place of an older one's; names that are older already lock nothing.
const NAMES: &str = "\
INSERT INTO cdm.name (id, name, version)
SELECT batch.id, batch.name, batch.version
FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS batch (id, name, version)
WHERE NOT EXISTS (SELECT FROM cdm.name AS held WHERE held.id = batch.id AND held.version >= batch.version)
ORDER BY batch.id
ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version
WHERE cdm.name.version < excluded.version";

/// Writes the facts of a batch, in any order and with repetitions.
pub(super) async fn facts(connection: &mut PgConnection, facts: &[&Fact]) -> Result<Effects, sqlx::Error> {
    let (change, stored) = contributions(connection, newest_by_order(facts)).await?;
    PRODUCTS.count(connection, &change.products).await?;
    CATEGORIES.count(connection, &change.categories).await?;
    names(connection, facts).await?;
    Ok(Effects {
        stored,
        duplicate: facts.len() - stored,
        ..Effects::default()
    })
}

/// Of several versions of one order in a batch, only the newest can count.
fn newest_by_order<'f>(facts: &[&'f Fact]) -> Vec<&'f Contribution> {
    let mut newest: BTreeMap<i64, &Contribution> = BTreeMap::new();
    for contribution in facts.iter().map(|fact| &fact.contribution) {
        let held = newest.entry(contribution.order_id).or_insert(contribution);
        if contribution.version > held.version {
            *held = contribution;
        }
    }
    newest.into_values().collect()
}

/// Brings the ledger up to date; returns what the counters owe to it, and how many facts were news.
async fn contributions(
    connection: &mut PgConnection,
    newest: Vec<&Contribution>,
) -> Result<(Change, usize), sqlx::Error> {
    let mut change = Change::default();
    let mut candidates: HashMap<i64, &Contribution> = HashMap::new();
    let mut stored = 0;
    for row in bind(INSERT_FRESH, &newest).fetch_all(&mut *connection).await? {
        let place = usize::try_from(row.try_get::<i64, _>("place")? - 1).unwrap_or(usize::MAX);
        if row.try_get("fresh")? {
            change.add(newest[place]);
            stored += 1;
        } else {
            candidates.insert(newest[place].order_id, newest[place]);
        }
    }
    let replacements = if candidates.is_empty() {
        Vec::new()
    } else {
        replaced(connection, &candidates, &mut change).await?
    };
    if !replacements.is_empty() {
        bind(REPLACE, &replacements).execute(&mut *connection).await?;
    }
    change.settle();
    Ok((change, stored + replacements.len()))
}

/// Locks the candidates' rows and picks those that are newer than what the ledger holds now.
async fn replaced<'f>(
    connection: &mut PgConnection,
    candidates: &HashMap<i64, &'f Contribution>,
    change: &mut Change,
) -> Result<Vec<&'f Contribution>, sqlx::Error> {
    let orders: Vec<i64> = candidates.keys().copied().collect();
    let mut replacements = Vec::new();
    for row in sqlx::query(LOCK).bind(orders).fetch_all(connection).await? {
        let held = Contribution {
            order_id: row.try_get("order_id")?,
            version: row.try_get("version")?,
            user: row.try_get("user_id")?,
            products: row.try_get("products")?,
            categories: row.try_get("categories")?,
        };
        let candidate = candidates[&held.order_id];
        if candidate.version > held.version {
            change.take_back(&held);
            change.add(candidate);
            replacements.push(candidate);
        }
    }
    Ok(replacements)
}

fn bind<'q>(
    statement: &'static str,
    contributions: &[&'q Contribution],
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let array = |keys: &[Uuid]| {
        // An array of arrays must be rectangular; as text each row casts its own.
        let keys: Vec<String> = keys.iter().map(Uuid::to_string).collect();
        format!("{{{}}}", keys.join(","))
    };
    sqlx::query(statement)
        .bind(contributions.iter().map(|one| one.order_id).collect::<Vec<_>>())
        .bind(
            contributions
                .iter()
                .map(|one| one.version.as_slice())
                .collect::<Vec<_>>(),
        )
        .bind(contributions.iter().map(|one| one.user).collect::<Vec<_>>())
        .bind(
            contributions
                .iter()
                .map(|one| array(&one.products))
                .collect::<Vec<_>>(),
        )
        .bind(
            contributions
                .iter()
                .map(|one| array(&one.categories))
                .collect::<Vec<_>>(),
        )
}

/// The counters of one mart.
struct Mart {
    /// What a counter's own key is hashed as.
    name: String,
    /// Moves counters: keys of the counters, of guests and of entities (`uuid[]`), changes (`integer[]`).
    ///
    /// A counter that reaches 0 is deleted, one that is not there begins. The rows are locked in key order and read
    /// as they are then; what another worker inserts in between is met by the conflict clause. A negative movement
    /// always finds its row, for it was counted before the ledger's lock.
    statement: String,
}

static PRODUCTS: LazyLock<Mart> = LazyLock::new(|| Mart::of("product"));
static CATEGORIES: LazyLock<Mart> = LazyLock::new(|| Mart::of("category"));

impl Mart {
    fn of(entity: &str) -> Self {
        let table = format!("cdm.{entity}_order_count");
        let statement = format!(
            "WITH delta AS MATERIALIZED (
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[])
                AS delta (id, user_id, {entity}_id, change)
        ), held AS MATERIALIZED (
            SELECT count.user_id, count.{entity}_id, count.order_cnt + delta.change AS order_cnt
            FROM {table} AS count JOIN delta USING (user_id, {entity}_id)
            ORDER BY count.user_id, count.{entity}_id FOR UPDATE OF count
        ), emptied AS (
            DELETE FROM {table} AS count USING held
            WHERE count.user_id = held.user_id AND count.{entity}_id = held.{entity}_id AND held.order_cnt = 0
        ), moved AS (
            UPDATE {table} AS count SET order_cnt = held.order_cnt FROM held
            WHERE count.user_id = held.user_id AND count.{entity}_id = held.{entity}_id AND held.order_cnt <> 0
        )
        INSERT INTO {table} AS count (id, user_id, {entity}_id, order_cnt)
        SELECT id, user_id, {entity}_id, change FROM delta
        WHERE NOT EXISTS (SELECT FROM held WHERE held.user_id = delta.user_id AND held.{entity}_id = delta.{entity}_id)
        ORDER BY user_id, {entity}_id
        ON CONFLICT (user_id, {entity}_id) DO UPDATE SET order_cnt = count.order_cnt + excluded.order_cnt"
        );
        Self {
            name: format!("user_{entity}"),
            statement,
        }
    }

    /// Moves the counters by what the ledger says.
    async fn count(&self, connection: &mut PgConnection, deltas: &Deltas) -> Result<(), sqlx::Error> {
        if deltas.is_empty() {
            return Ok(());
        }
        let id = |(user, key): &(Uuid, Uuid)| {
            hash_key(&self.name, &[user.to_string().as_str(), key.to_string().as_str()])
        };
        sqlx::query(AssertSqlSafe(self.statement.as_str()))
            .bind(deltas.keys().map(id).collect::<Vec<_>>())
            .bind(deltas.keys().map(|(user, _)| *user).collect::<Vec<_>>())
            .bind(deltas.keys().map(|(_, key)| *key).collect::<Vec<_>>())
            .bind(deltas.values().copied().collect::<Vec<i32>>())
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// Remembers the newest name of everything that the facts name, those of superseded versions included.
async fn names(connection: &mut PgConnection, facts: &[&Fact]) -> Result<(), sqlx::Error> {
    let mut newest: BTreeMap<Uuid, (&[u8], &str)> = BTreeMap::new();
    for fact in facts {
        for (id, name) in &fact.names {
            let version = fact.contribution.version.as_slice();
            let held = newest.entry(*id).or_insert((version, name));
            if version > held.0 {
                *held = (version, name);
            }
        }
    }
    sqlx::query(NAMES)
        .bind(newest.keys().copied().collect::<Vec<_>>())
        .bind(newest.values().map(|(_, name)| *name).collect::<Vec<_>>())
        .bind(newest.values().map(|(version, _)| *version).collect::<Vec<_>>())
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
    fn of_several_versions_of_an_order_in_a_batch_the_newest_counts() {
        let facts = [fact(2, 1), fact(1, 2), fact(1, 3), fact(1, 1)];
        let newest = newest_by_order(&facts.iter().collect::<Vec<_>>());
        let kept: Vec<(i64, u8)> = newest.iter().map(|one| (one.order_id, one.version[0])).collect();
        assert_eq!(kept, [(1, 3), (2, 1)]);
    }
}
