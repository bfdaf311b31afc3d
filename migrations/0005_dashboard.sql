-- The role that dashboards read as. A login becomes a reader by membership: GRANT streamstage_reader TO some_login;
DO $$
BEGIN
    CREATE ROLE streamstage_reader NOLOGIN;
EXCEPTION
    -- Roles belong to the cluster: another database, also one that migrates at this moment, may have made it.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- When the warehouse last got a row. The table is insert-only, and the rows of a batch share one load date, so that
-- the index stays small and is written at its end alone.
CREATE INDEX s_order_status_load_dt ON dds.s_order_status (load_dt);

-- What a business dashboard shows: plain views, which cannot be older than the tables. They read with the rights of
-- their owner, so that a reader needs none on the tables. Days and hours are those of the session's time zone.
CREATE SCHEMA IF NOT EXISTS cdm_bi;

-- The newest version of every order, from the ledger: one row for each order, where the vault has one for each version.
-- A version begins with `update_ts` in microseconds since 1970, its sign bit flipped, and the rank of the status.
CREATE VIEW cdm_bi.order_version AS
SELECT
    order_id,
    ('x' || encode(substring(version FROM 1 FOR 8), 'hex'))::bit(64)::bigint # (1::bigint << 63) AS update_us,
    get_byte(version, 8) = 4 AS is_closed
FROM cdm.order_contribution;

-- Closed orders by the quarter of an hour in which they were closed. Every time zone's day begins with such a quarter,
-- and grouping by its number is what keeps a million orders below a second.
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

-- The newest day on which an order was closed: today, while orders come in.
CREATE VIEW cdm_bi.orders_closed_today AS
SELECT closed_at::date AS day, sum(orders)::bigint AS orders
FROM cdm_bi.orders_closed
GROUP BY 1
ORDER BY 1 DESC
LIMIT 1;

-- Closed orders with a dish. Dishes of one name of several restaurants are one dish here.
CREATE VIEW cdm_bi.dishes AS
SELECT dish.name AS dish, sum(counted.orders)::bigint AS orders
FROM (
    SELECT product_id, sum(order_cnt) AS orders FROM cdm.product_order_count GROUP BY 1
) AS counted
JOIN cdm.name AS dish ON dish.id = counted.product_id
GROUP BY 1;

-- Closed orders with a dish of the category.
CREATE VIEW cdm_bi.categories AS
SELECT category.name AS category, sum(counted.orders)::bigint AS orders
FROM (
    SELECT category_id, sum(order_cnt) AS orders FROM cdm.category_order_count GROUP BY 1
) AS counted
JOIN cdm.name AS category ON category.id = counted.category_id
GROUP BY 1;

-- The rules of the tags, by category: that of "*" serves every category that has none of its own.
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

-- Guests who have the tag.
CREATE VIEW cdm_bi.tags AS
SELECT tag, count(*) AS guests
FROM (
    SELECT DISTINCT rule.tag, counted.user_id
    FROM cdm.category_order_count AS counted
    JOIN cdm_bi.tag_rules AS rule
        ON rule.category_id = counted.category_id AND rule.threshold <= counted.order_cnt
) AS tagged
GROUP BY 1;

-- Guests by name, with the end of the id that tells those of one name apart.
CREATE VIEW cdm_bi.guests AS
SELECT guest.id AS guest_id, guest.name || ' (' || right(hub.user_id, 6) || ')' AS guest
FROM dds.h_user AS hub
JOIN cdm.name AS guest ON guest.id = hub.h_user_pk;

-- Each guest with a closed order who has not every tag: the nearest one, and how many closed orders it takes.
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

-- What is known of a guest, one line each. Read it for one guest: for all it is as long as all counters.
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

-- How far the data reaches: when the newest version of an order was made, and when the vault last got one.
CREATE VIEW cdm_bi.freshness AS
SELECT
    (SELECT (timestamptz 'epoch' + max(update_us) * interval '1 microsecond')::timestamp FROM cdm_bi.order_version)
        AS newest_order,
    (SELECT max(load_dt)::timestamp FROM dds.s_order_status) AS newest_load,
    (SELECT floor(extract(epoch FROM now() - max(load_dt)))::bigint FROM dds.s_order_status) AS seconds_since_load;

-- Dead letters by reason; nothing of what they hold.
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
