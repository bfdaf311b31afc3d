CREATE SCHEMA IF NOT EXISTS cdm;

-- Ledger: contribution of the latest version of each order to the counters. An order that is not closed has empty
-- lists, so that a late-arriving older version contributes nothing.
CREATE TABLE cdm.order_contribution (
    order_id   bigint PRIMARY KEY,
    version    bytea  NOT NULL,
    user_id    uuid   NOT NULL,
    products   uuid[] NOT NULL,
    categories uuid[] NOT NULL
) WITH (fillfactor = 80);

-- Number of closed orders per user and product, or per user and category. A zero count has no row.
CREATE TABLE cdm.product_order_count (
    id         uuid    NOT NULL,
    user_id    uuid    NOT NULL,
    product_id uuid    NOT NULL,
    order_cnt  integer NOT NULL CHECK (order_cnt > 0),
    PRIMARY KEY (user_id, product_id)
) WITH (fillfactor = 80);

CREATE TABLE cdm.category_order_count (
    id          uuid    NOT NULL,
    user_id     uuid    NOT NULL,
    category_id uuid    NOT NULL,
    order_cnt   integer NOT NULL CHECK (order_cnt > 0),
    PRIMARY KEY (user_id, category_id)
) WITH (fillfactor = 80);

-- Name of a user, product or category by hub key, from the latest version of any order.
-- Separate from the counts: a new name changes one row, and workers do not wait for each other.
CREATE TABLE cdm.name (
    id      uuid  PRIMARY KEY,
    name    text  NOT NULL,
    version bytea NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE cdm.category_thresholds (
    category  text    NOT NULL,
    threshold integer NOT NULL CHECK (threshold > 0),
    tag       text,
    PRIMARY KEY (category, threshold)
);

CREATE VIEW cdm.user_product_counters AS
SELECT count.id, count.user_id, count.product_id, product.name AS product_name, count.order_cnt
FROM cdm.product_order_count AS count
JOIN cdm.name AS product ON product.id = count.product_id;

CREATE VIEW cdm.user_category_counters AS
SELECT count.id, count.user_id, count.category_id, category.name AS category_name, count.order_cnt
FROM cdm.category_order_count AS count
JOIN cdm.name AS category ON category.id = count.category_id;

-- Users at or above a threshold. A view always agrees with the counters. The threshold of "*" applies to every
-- category without a rule; without a tag, the name of the category is the tag.
CREATE VIEW cdm.user_tags AS
SELECT
    counter.user_id,
    guest.name AS user_name,
    counter.category_id,
    counter.category_name,
    coalesce(rule.tag, counter.category_name) AS tag,
    counter.order_cnt,
    rule.threshold
FROM cdm.user_category_counters AS counter
JOIN cdm.name AS guest ON guest.id = counter.user_id
JOIN cdm.category_thresholds AS rule ON rule.category = counter.category_name
    OR (rule.category = '*' AND NOT EXISTS (
        SELECT FROM cdm.category_thresholds AS own WHERE own.category = counter.category_name))
WHERE counter.order_cnt >= rule.threshold;

GRANT USAGE ON SCHEMA cdm TO streamstage_worker;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON cdm.order_contribution, cdm.product_order_count, cdm.category_order_count, cdm.name, cdm.category_thresholds
    TO streamstage_worker;
GRANT SELECT ON cdm.user_product_counters, cdm.user_category_counters, cdm.user_tags TO streamstage_worker;
