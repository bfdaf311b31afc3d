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
const CONTRIBUTIONS: &str = "\
WITH ledger AS MATERIALIZED (
    SELECT hub.h_order_pk, status.status, stored.*
    FROM cdm.order_contribution AS stored
    JOIN dds.h_order AS hub USING (order_id)
    JOIN dds.s_order_status AS status ON status.h_order_pk = hub.h_order_pk AND status.version = stored.version
), ordered_by AS (
    SELECT ledger.order_id, link.h_user_pk
    FROM ledger
    JOIN dds.s_order_user_effectivity AS stated
        ON stated.h_order_pk = ledger.h_order_pk AND stated.version = ledger.version
    JOIN dds.l_order_user AS link USING (l_order_user_pk)
), contained AS (
    SELECT ledger.order_id, array_agg(DISTINCT link.h_product_pk ORDER BY link.h_product_pk) AS products,
        array_agg(DISTINCT sort.h_category_pk ORDER BY sort.h_category_pk) AS categories
    FROM ledger
    JOIN dds.l_order_product AS link USING (h_order_pk)
    JOIN dds.s_order_item AS item
        ON item.l_order_product_pk = link.l_order_product_pk AND item.version = ledger.version
    LEFT JOIN dds.h_category AS sort ON sort.category_name = item.category
    WHERE ledger.status = 'CLOSED'
    GROUP BY ledger.order_id
)
SELECT 'cdm.order_contribution', format('order_id %s', ledger.order_id),
    CASE
        WHEN ledger.user_id IS DISTINCT FROM ordered_by.h_user_pk
            THEN format('user_id is %s, the vault has %s', ledger.user_id, coalesce(ordered_by.h_user_pk::text, 'none'))
        WHEN ledger.products <> coalesce(contained.products, '{}')
            THEN format('products are %s, the vault has %s', ledger.products, coalesce(contained.products, '{}'))
        ELSE format('categories are %s, the vault has %s', ledger.categories, coalesce(contained.categories, '{}'))
    END
FROM ledger
LEFT JOIN ordered_by USING (order_id)
LEFT JOIN contained USING (order_id)
WHERE ledger.user_id IS DISTINCT FROM ordered_by.h_user_pk
    OR ledger.products <> coalesce(contained.products, '{}')
    OR ledger.categories <> coalesce(contained.categories, '{}')";

/// Names of products that differ from that of the first line of the same version in the vault.
const PRODUCT_NAMES: &str = "\
SELECT 'cdm.entity_name', format('id %s', stored.id),
    format('name is %L, dds.s_order_item has %L', stored.name, item.name)
FROM cdm.entity_name AS stored
JOIN dds.l_order_product AS link ON link.h_product_pk = stored.id
JOIN dds.s_order_item AS item
    ON item.l_order_product_pk = link.l_order_product_pk AND item.version = stored.version AND item.occurrence = 1
WHERE item.name <> stored.name";

/// Names of users that the vault never had.
const USER_NAMES: &str = "\
SELECT 'cdm.entity_name', format('id %s', stored.id), format('dds.s_user_names has no name %L', stored.name)
FROM cdm.entity_name AS stored
JOIN dds.h_user AS hub ON hub.h_user_pk = stored.id
WHERE NOT EXISTS (
    SELECT FROM dds.s_user_names AS names WHERE names.h_user_pk = stored.id AND names.username = stored.name)";

/// Contributions and names that differ from the vault.
pub(super) fn vault_queries() -> Vec<String> {
    vec![
        CONTRIBUTIONS.to_owned(),
        USER_NAMES.to_owned(),
        PRODUCT_NAMES.to_owned(),
        "SELECT 'cdm.entity_name', format('id %s', stored.id),
            format('name is %L, dds.h_category has %L', stored.name, hub.category_name)
        FROM cdm.entity_name AS stored JOIN dds.h_category AS hub ON hub.h_category_pk = stored.id
        WHERE hub.category_name <> stored.name"
            .to_owned(),
    ]
}
