-- Role of dashboards. A login becomes a reader by membership: GRANT streamstage_reader TO some_login;
DO $$
BEGIN
    CREATE ROLE streamstage_reader NOLOGIN;
EXCEPTION
    -- Roles belong to the server: the migration of another database may have created it, even at this moment.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- Load date of the latest row. The table is insert-only and the rows of a batch share one load date, so the index
-- stays small and only its end is written.
CREATE INDEX s_order_status_load_dt ON dds.s_order_status (load_dt);

-- Views for business dashboards. Plain views are never older than the tables. They read with the permissions of their
-- owner, so a reader needs no permission on the tables. Days and hours follow the time zone of the session.
CREATE SCHEMA IF NOT EXISTS cdm_bi;

-- Latest version of every order, from the ledger: one row per order, whereas the vault has one row per version.
-- A version begins with `update_ts` in microseconds since 1970, its sign bit flipped, and the rank of the status.
CREATE VIEW cdm_bi.order_version AS
SELECT
    order_id,
    ('x' || encode(substring(version FROM 1 FOR 8), 'hex'))::bit(64)::bigint # (1::bigint << 63) AS update_us,
    get_byte(version, 8) = 4 AS is_closed
FROM cdm.order_contribution;

-- Closed orders by the quarter of an hour of their closing. A day begins with such a quarter in every time zone, and
-- grouping by its number takes less than a second for a million orders.
CREATE VIEW cdm_bi.orders_closed AS
SELECT
    (timestamptz 'epoch' + quarter * interval '15 minutes')::timestamp AS closed_at,
    orders
FROM (
    SELECT update_us / 900000000 AS quarter, count(*) AS orders
    FROM cdm_bi.order_version
    WHERE is_closed
    GROUP BY 1
) AS closed;

-- Latest day with a closed order: today, while orders arrive.
CREATE VIEW cdm_bi.orders_closed_today AS
SELECT closed_at::date AS day, sum(orders)::bigint AS orders
FROM cdm_bi.orders_closed
GROUP BY 1
ORDER BY 1 DESC
LIMIT 1;

-- Closed orders per dish. Dishes of several restaurants with the same name count as one dish.
CREATE VIEW cdm_bi.dishes AS
SELECT dish.name AS dish, sum(counted.orders)::bigint AS orders
FROM (
    SELECT product_id, sum(order_cnt) AS orders FROM cdm.product_order_count GROUP BY 1
) AS counted
JOIN cdm.name AS dish ON dish.id = counted.product_id
GROUP BY 1;

-- Closed orders per category.
CREATE VIEW cdm_bi.categories AS
SELECT category.name AS category, sum(counted.orders)::bigint AS orders
FROM (
    SELECT category_id, sum(order_cnt) AS orders FROM cdm.category_order_count GROUP BY 1
) AS counted
JOIN cdm.name AS category ON category.id = counted.category_id
GROUP BY 1;

-- Tag rules by category: the rule of "*" applies to every category without a rule.
CREATE VIEW cdm_bi.tag_rules AS
SELECT
    category.id AS category_id,
    category.name AS category,
    coalesce(rule.tag, category.name) AS tag,
    rule.threshold
FROM dds.h_category AS hub
JOIN cdm.name AS category ON category.id = hub.h_category_pk
JOIN cdm.category_thresholds AS rule ON rule.category = category.name
    OR (rule.category = '*' AND NOT EXISTS (
        SELECT FROM cdm.category_thresholds AS own WHERE own.category = category.name));

-- Guests per tag.
CREATE VIEW cdm_bi.tags AS
SELECT tag, count(*) AS guests
FROM (
    SELECT DISTINCT rule.tag, counted.user_id
    FROM cdm.category_order_count AS counted
    JOIN cdm_bi.tag_rules AS rule
        ON rule.category_id = counted.category_id AND rule.threshold <= counted.order_cnt
) AS tagged
GROUP BY 1;

-- Guests by name, followed by the end of the ID, which distinguishes guests with the same name.
CREATE VIEW cdm_bi.guests AS
SELECT guest.id AS guest_id, guest.name || ' (' || right(hub.user_id, 6) || ')' AS guest
FROM dds.h_user AS hub
JOIN cdm.name AS guest ON guest.id = hub.h_user_pk;

-- Nearest missing tag of each guest with a closed order, and the number of closed orders until then.
CREATE VIEW cdm_bi.guests_next_tag AS
SELECT guest.guest, nearest.tag, nearest.category, nearest.orders, nearest.orders_left
FROM (
    SELECT DISTINCT ON (counted.user_id)
        counted.user_id AS guest_id,
        rule.tag,
        rule.category,
        counted.order_cnt AS orders,
        rule.threshold - counted.order_cnt AS orders_left
    FROM cdm.category_order_count AS counted
    JOIN cdm_bi.tag_rules AS rule
        ON rule.category_id = counted.category_id AND rule.threshold > counted.order_cnt
    ORDER BY counted.user_id, orders_left, rule.category
) AS nearest
JOIN cdm_bi.guests AS guest USING (guest_id);

-- Profile of a guest, one attribute per row. Filter by guest: without a filter it is as long as all counters.
CREATE VIEW cdm_bi.guest_profile AS
SELECT guest.guest, line.kind, line.name, line.orders, line.orders_left
FROM cdm_bi.guests AS guest
CROSS JOIN LATERAL (
    SELECT 'tag' AS kind, rule.tag AS name, counted.order_cnt AS orders, NULL::integer AS orders_left
    FROM cdm.category_order_count AS counted
    JOIN cdm_bi.tag_rules AS rule
        ON rule.category_id = counted.category_id AND rule.threshold <= counted.order_cnt
    WHERE counted.user_id = guest.guest_id
    UNION ALL
    SELECT 'next tag', rule.tag, counted.order_cnt, min(rule.threshold) - counted.order_cnt
    FROM cdm.category_order_count AS counted
    JOIN cdm_bi.tag_rules AS rule
        ON rule.category_id = counted.category_id AND rule.threshold > counted.order_cnt
    WHERE counted.user_id = guest.guest_id
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT 'category', category.name, counted.order_cnt, NULL
    FROM cdm.category_order_count AS counted
    JOIN cdm.name AS category ON category.id = counted.category_id
    WHERE counted.user_id = guest.guest_id
    UNION ALL
    SELECT 'dish', dish.name, counted.order_cnt, NULL
    FROM cdm.product_order_count AS counted
    JOIN cdm.name AS dish ON dish.id = counted.product_id
    WHERE counted.user_id = guest.guest_id
) AS line;

-- Freshness: time of the latest version of an order, and latest load date of the vault.
CREATE VIEW cdm_bi.freshness AS
SELECT
    (SELECT (timestamptz 'epoch' + max(update_us) * interval '1 microsecond')::timestamp FROM cdm_bi.order_version)
        AS newest_order,
    (SELECT max(load_dt)::timestamp FROM dds.s_order_status) AS newest_load,
    (SELECT floor(extract(epoch FROM now() - max(load_dt)))::bigint FROM dds.s_order_status) AS seconds_since_load;

-- Dead letters by reason, without their content.
CREATE VIEW cdm_bi.dead_letters AS
SELECT
    code AS reason,
    stage,
    count(*) FILTER (WHERE redriven_at IS NULL) AS waiting,
    count(redriven_at) AS redriven
FROM streamstage.dead_letter
GROUP BY 1, 2;

GRANT USAGE ON SCHEMA cdm_bi TO streamstage_reader;
GRANT SELECT ON
    cdm_bi.orders_closed, cdm_bi.orders_closed_today, cdm_bi.dishes, cdm_bi.categories, cdm_bi.tags, cdm_bi.guests,
    cdm_bi.guests_next_tag, cdm_bi.guest_profile, cdm_bi.freshness, cdm_bi.dead_letters
    TO streamstage_reader;
