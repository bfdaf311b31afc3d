-- The part of a warehouse with a million orders that the dashboard reads: the ledger, the counters, names, tag rules, the
-- hubs of users and categories, and the load dates of the vault. The same in every run.
SET synchronous_commit = off;
SELECT setseed(0.5);
CREATE FUNCTION pg_temp.key(kind text, number bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN md5(kind || number)::uuid;

INSERT INTO dds.h_user (h_user_pk, user_id, load_src)
SELECT pg_temp.key('guest', number), lpad(to_hex(number), 24, '0'), 'bench' FROM generate_series(1, 100000) AS number;
INSERT INTO dds.h_category (h_category_pk, category_name, load_src)
SELECT pg_temp.key('category', number), 'Category ' || number, 'bench' FROM generate_series(1, 12) AS number;
INSERT INTO cdm.entity_name (id, name, version)
SELECT h_user_pk, 'Guest ' || right(user_id, 3), ''::bytea FROM dds.h_user WHERE load_src = 'bench'
UNION ALL
SELECT h_category_pk, category_name, '' FROM dds.h_category WHERE load_src = 'bench'
UNION ALL
-- 50 restaurants with 60 dishes each; every name is on several menus.
SELECT pg_temp.key('dish', number), 'Dish ' || number % 700, '' FROM generate_series(0, 2999) AS number;
INSERT INTO cdm.category_thresholds (category, threshold, tag)
VALUES ('Category 1', 5, 'likes the first'), ('Category 2', 4, NULL), ('Category 3', 3, 'likes the third'), ('*', 10, NULL);

-- Two years of orders with up to five dishes of one restaurant. The first guests order most; one order in twelve is not
-- closed.
INSERT INTO cdm.order_contribution (order_id, version, user_id, products, categories)
SELECT
    number,
    int8send((1700000000000000 + number * 63000000) # (-9223372036854775808)) || decode(
        CASE WHEN is_closed THEN '04' ELSE '05' END, 'hex') || int8send(number) || sha256(int8send(number)),
    pg_temp.key('guest', guest),
    CASE WHEN is_closed THEN array(SELECT pg_temp.key('dish', dish) FROM unnest(dishes) AS dish) ELSE '{}' END,
    CASE WHEN is_closed THEN array(SELECT DISTINCT pg_temp.key('category', dish % 12 + 1) FROM unnest(dishes) AS dish)
        ELSE '{}' END
FROM (
    SELECT
        number,
        number % 12 > 0 AS is_closed,
        1 + floor(100000 * random() ^ 2)::bigint AS guest,
        array(SELECT DISTINCT (number % 50) * 60 + floor(60 * random())::bigint
              FROM generate_series(bigint '0', number % 5)) AS dishes
    FROM generate_series(bigint '1', 1000000) AS number
) AS made;
INSERT INTO cdm.product_order_count (id, user_id, product_id, order_cnt)
SELECT gen_random_uuid(), user_id, product, count(*)
FROM cdm.order_contribution, unnest(products) AS product GROUP BY 2, 3;
INSERT INTO cdm.category_order_count (id, user_id, category_id, order_cnt)
SELECT gen_random_uuid(), user_id, category, count(*)
FROM cdm.order_contribution, unnest(categories) AS category GROUP BY 2, 3;
INSERT INTO dds.s_order_status (h_order_pk, version, update_ts, status, hash_diff, load_dt, load_src)
SELECT
    pg_temp.key('order', order_id),
    version,
    'epoch',
    'CLOSED',
    pg_temp.key('order', order_id),
    timestamptz '2024-01-01' + order_id / 1000 * interval '1 second',
    'bench'
FROM cdm.order_contribution;
INSERT INTO streamstage.dead_letter (
    consumer_group, topic, partition, "offset", stage, code, detail, header_names, header_values, attempts, redriven_at)
SELECT 'orders.stg', 'orders', 0, number, 'stg', 'Code' || number % 9, '', '{}', '{}', 1,
    CASE WHEN number % 3 = 0 THEN now() END
FROM generate_series(1, 10000) AS number;
-- In production, autovacuum does both.
VACUUM ANALYZE;
