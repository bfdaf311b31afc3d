//! Queries that compare the marts with the ledger, and the ledger and the names with the vault. Pure.
//!
//! Each row of a query is a finding: table, key, and detail. One transaction writes a counter and its ledger row, or a
//! whole version of the vault, so that a snapshot has both or neither.

/// Counters that differ from a recount of the ledger. `entity` is `product` or `category`.
pub(super) fn counters(entity: &str) -> String {
    let plural = if entity == "product" {
        "products"
    } else {
        "categories"
    };
    format!(
        "SELECT 'cdm.{entity}_order_count',
            format('user_id %s, {entity}_id %s', user_id, {entity}_id),
            format('order_cnt is %s, a recount of the ledger gives %s',
                coalesce(counter.order_cnt::text, 'missing'), coalesce(recount.orders, 0))
        FROM cdm.{entity}_order_count AS counter
        FULL JOIN (
            SELECT user_id, {entity}_id, count(*) AS orders
            FROM cdm.order_contribution CROSS JOIN unnest({plural}) AS {entity}_id
            GROUP BY user_id, {entity}_id
        ) AS recount USING (user_id, {entity}_id)
        WHERE counter.order_cnt IS DISTINCT FROM recount.orders"
    )
}

/// Contributions that differ from those of the same version in the vault.
///
/// A version belongs to one order, so the names of a version are those of its user and of its products.
const CONTRIBUTIONS: &str = "\
WITH ledger AS MATERIALIZED (
    SELECT hub.h_order_pk, status.status, stored.*
    FROM cdm.order_contribution AS stored
    JOIN dds.h_order AS hub USING (order_id)
    JOIN dds.s_order_status AS status ON status.h_order_pk = hub.h_order_pk AND status.version = stored.version
), ordered_by AS (
    SELECT ledger.order_id, link.h_user_pk
    FROM ledger
    JOIN dds.l_order_user AS link USING (h_order_pk)
    JOIN dds.s_user_names AS names ON names.h_user_pk = link.h_user_pk AND names.version = ledger.version
), contained AS (
    SELECT ledger.order_id, array_agg(DISTINCT link.h_product_pk ORDER BY link.h_product_pk) AS products
    FROM ledger
    JOIN dds.l_order_product AS link USING (h_order_pk)
    JOIN dds.s_product_names AS names ON names.h_product_pk = link.h_product_pk AND names.version = ledger.version
    WHERE ledger.status = 'CLOSED'
    GROUP BY ledger.order_id
), sorted AS (
    SELECT ledger.order_id, array_agg(DISTINCT sort.h_category_pk ORDER BY sort.h_category_pk) AS categories
    FROM ledger
    JOIN dds.l_order_product AS link USING (h_order_pk)
    JOIN dds.s_product_category_effectivity AS stated
        ON stated.h_product_pk = link.h_product_pk AND stated.version = ledger.version
    JOIN dds.l_product_category AS sort USING (l_product_category_pk)
    WHERE ledger.status = 'CLOSED'
    GROUP BY ledger.order_id
)
SELECT 'cdm.order_contribution', format('order_id %s', ledger.order_id),
    CASE
        WHEN ledger.user_id IS DISTINCT FROM ordered_by.h_user_pk
            THEN format('user_id is %s, the vault has %s', ledger.user_id, coalesce(ordered_by.h_user_pk::text, 'none'))
        WHEN ledger.products <> coalesce(contained.products, '{}')
            THEN format('products are %s, the vault has %s', ledger.products, coalesce(contained.products, '{}'))
        ELSE format('categories are %s, the vault has %s', ledger.categories, coalesce(sorted.categories, '{}'))
    END
FROM ledger
LEFT JOIN ordered_by USING (order_id)
LEFT JOIN contained USING (order_id)
LEFT JOIN sorted USING (order_id)
WHERE ledger.user_id IS DISTINCT FROM ordered_by.h_user_pk
    OR ledger.products <> coalesce(contained.products, '{}')
    OR ledger.categories <> coalesce(sorted.categories, '{}')";

/// Contributions and names that differ from the vault.
pub(super) fn vault_queries() -> Vec<String> {
    vec![
        CONTRIBUTIONS.to_owned(),
        names("s_user_names", "h_user_pk", "username"),
        names("s_product_names", "h_product_pk", "name"),
        "SELECT 'cdm.entity_name', format('id %s', stored.id),
            format('name is %L, dds.h_category has %L', stored.name, hub.category_name)
        FROM cdm.entity_name AS stored JOIN dds.h_category AS hub ON hub.h_category_pk = stored.id
        WHERE hub.category_name <> stored.name"
            .to_owned(),
    ]
}

/// Names that differ from the name of the same version in the vault.
fn names(satellite: &str, key: &str, name: &str) -> String {
    format!(
        "SELECT 'cdm.entity_name', format('id %s', stored.id),
            format('name is %L, dds.{satellite} has %L', stored.name, names.{name})
        FROM cdm.entity_name AS stored
        JOIN dds.{satellite} AS names ON names.{key} = stored.id AND names.version = stored.version
        WHERE names.{name} <> stored.name"
    )
}
