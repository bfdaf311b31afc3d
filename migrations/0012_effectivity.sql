-- Identity of order lines, and effectivity of links.
--
-- The tables and views are generated from the model in worker/src/vault/model.rs; a test compares the two. All existing
-- rows are carried over: processing the same messages again changes nothing.

-- A line is identified by its product and its number among the lines with this product. Its position in the message,
-- the former key, changes as soon as a line before it is voided. The new number follows from the stored positions.
DROP VIEW dds.v_s_order_item_current, dds.v_s_order_item_timeline;
ALTER TABLE dds.s_order_item RENAME TO s_order_item_by_position;
ALTER INDEX dds.s_order_item_pkey RENAME TO s_order_item_by_position_pkey;

CREATE TABLE dds.s_order_item (
    l_order_product_pk uuid          NOT NULL,
    version            bytea         NOT NULL,
    occurrence         integer       NOT NULL,
    update_ts          timestamptz   NOT NULL,
    price              numeric(19,5) NOT NULL,
    quantity           integer       NOT NULL,
    hash_diff          uuid          NOT NULL,
    load_dt            timestamptz   NOT NULL DEFAULT now(),
    load_src           text          NOT NULL,
    PRIMARY KEY (l_order_product_pk, version, occurrence)
);

INSERT INTO dds.s_order_item
    (l_order_product_pk, version, occurrence, update_ts, price, quantity, hash_diff, load_dt, load_src)
SELECT
    l_order_product_pk, version,
    row_number() OVER (PARTITION BY l_order_product_pk, version ORDER BY line_no),
    update_ts, price, quantity, hash_diff, load_dt, load_src
FROM dds.s_order_item_by_position;

DROP TABLE dds.s_order_item_by_position;

CREATE VIEW dds.v_s_order_item_current AS
SELECT
    satellite.l_order_product_pk,
    satellite.version,
    satellite.occurrence,
    satellite.update_ts,
    satellite.price,
    satellite.quantity,
    satellite.hash_diff,
    satellite.load_dt,
    satellite.load_src
FROM dds.s_order_item AS satellite
JOIN dds.l_order_product AS link ON link.l_order_product_pk = satellite.l_order_product_pk
JOIN dds.v_s_order_status_current AS newest
    ON newest.h_order_pk = link.h_order_pk AND newest.version = satellite.version;

CREATE VIEW dds.v_s_order_item_timeline AS
SELECT
    l_order_product_pk, occurrence,
    price, quantity,
    update_ts AS valid_from,
    valid_to
FROM (
    SELECT *, CASE WHEN is_last THEN next_update_ts ELSE lead(next_update_ts) OVER same_row END AS valid_to
    FROM (
        SELECT
            l_order_product_pk, version, occurrence, update_ts, price, quantity, hash_diff, next_update_ts,
            (lag(number) OVER same_row, lag(hash_diff) OVER same_row)
                IS DISTINCT FROM (number - 1, hash_diff) AS is_first,
            (lead(number) OVER same_row, lead(hash_diff) OVER same_row)
                IS DISTINCT FROM (number + 1, hash_diff) AS is_last
        FROM dds.s_order_item AS satellite
        JOIN dds.l_order_product AS link USING (l_order_product_pk)
        JOIN (
            SELECT
                h_order_pk, version,
                row_number() OVER one_parent AS number,
                lead(update_ts) OVER one_parent AS next_update_ts
            FROM dds.s_order_status
            WINDOW one_parent AS (PARTITION BY h_order_pk ORDER BY version)
        ) AS versions USING (h_order_pk, version)
        WINDOW same_row AS (PARTITION BY l_order_product_pk, occurrence ORDER BY version)
    ) AS marked
    WHERE is_first OR is_last
    WINDOW same_row AS (PARTITION BY l_order_product_pk, occurrence ORDER BY version)
) AS bounded
WHERE is_first;

-- An order has one user and one restaurant at a time, a product one restaurant and one category. The link has a row for
-- each that it ever had; the effectivity satellite has the one of every version.
CREATE TABLE dds.s_product_restaurant_effectivity (
    h_product_pk            uuid        NOT NULL,
    version                 bytea       NOT NULL,
    update_ts               timestamptz NOT NULL,
    l_product_restaurant_pk uuid        NOT NULL,
    load_dt                 timestamptz NOT NULL DEFAULT now(),
    load_src                text        NOT NULL,
    PRIMARY KEY (h_product_pk, version)
);

CREATE TABLE dds.s_product_category_effectivity (
    h_product_pk          uuid        NOT NULL,
    version               bytea       NOT NULL,
    update_ts             timestamptz NOT NULL,
    l_product_category_pk uuid        NOT NULL,
    load_dt               timestamptz NOT NULL DEFAULT now(),
    load_src              text        NOT NULL,
    PRIMARY KEY (h_product_pk, version)
);

CREATE TABLE dds.s_order_user_effectivity (
    h_order_pk      uuid        NOT NULL,
    version         bytea       NOT NULL,
    update_ts       timestamptz NOT NULL,
    l_order_user_pk uuid        NOT NULL,
    load_dt         timestamptz NOT NULL DEFAULT now(),
    load_src        text        NOT NULL,
    PRIMARY KEY (h_order_pk, version)
);

CREATE TABLE dds.s_order_restaurant_effectivity (
    h_order_pk            uuid        NOT NULL,
    version               bytea       NOT NULL,
    update_ts             timestamptz NOT NULL,
    l_order_restaurant_pk uuid        NOT NULL,
    load_dt               timestamptz NOT NULL DEFAULT now(),
    load_src              text        NOT NULL,
    PRIMARY KEY (h_order_pk, version)
);

-- A version belongs to one order, so the satellites with this version have the user, the restaurant and the products.
INSERT INTO dds.s_order_user_effectivity (h_order_pk, version, update_ts, l_order_user_pk, load_dt, load_src)
SELECT status.h_order_pk, status.version, status.update_ts, link.l_order_user_pk, status.load_dt, status.load_src
FROM dds.s_order_status AS status
JOIN dds.l_order_user AS link USING (h_order_pk)
JOIN dds.s_user_names AS names ON names.h_user_pk = link.h_user_pk AND names.version = status.version
ON CONFLICT DO NOTHING;

INSERT INTO dds.s_order_restaurant_effectivity
    (h_order_pk, version, update_ts, l_order_restaurant_pk, load_dt, load_src)
SELECT
    status.h_order_pk, status.version, status.update_ts, link.l_order_restaurant_pk, status.load_dt, status.load_src
FROM dds.s_order_status AS status
JOIN dds.l_order_restaurant AS link USING (h_order_pk)
JOIN dds.s_restaurant_names AS names
    ON names.h_restaurant_pk = link.h_restaurant_pk AND names.version = status.version
ON CONFLICT DO NOTHING;

INSERT INTO dds.s_product_restaurant_effectivity
    (h_product_pk, version, update_ts, l_product_restaurant_pk, load_dt, load_src)
SELECT
    product.h_product_pk, product.version, product.update_ts, link.l_product_restaurant_pk,
    product.load_dt, product.load_src
FROM dds.s_product_names AS product
JOIN dds.l_product_restaurant AS link USING (h_product_pk)
JOIN dds.s_restaurant_names AS names
    ON names.h_restaurant_pk = link.h_restaurant_pk AND names.version = product.version
ON CONFLICT DO NOTHING;

-- No satellite has the category of a version. It is the one of the menu when the version was loaded: if a product has
-- had several categories, the one that was loaded last until then. Two workers can load a category and a version of it
-- at the same time, with load dates in the opposite order; then it is the one that was loaded first after it.
INSERT INTO dds.s_product_category_effectivity
    (h_product_pk, version, update_ts, l_product_category_pk, load_dt, load_src)
SELECT DISTINCT ON (product.h_product_pk, product.version)
    product.h_product_pk, product.version, product.update_ts, link.l_product_category_pk,
    product.load_dt, product.load_src
FROM dds.s_product_names AS product
JOIN dds.l_product_category AS link USING (h_product_pk)
ORDER BY
    product.h_product_pk, product.version,
    link.load_dt > product.load_dt, abs(extract(epoch FROM link.load_dt - product.load_dt)),
    link.l_product_category_pk;

CREATE VIEW dds.v_s_product_restaurant_effectivity_current AS
SELECT l_product_restaurant_pk, satellite.h_product_pk, link.h_restaurant_pk, version, update_ts, satellite.load_dt, satellite.load_src
FROM (
    SELECT DISTINCT ON (h_product_pk) *
    FROM dds.s_product_restaurant_effectivity
    ORDER BY h_product_pk, version DESC
) AS satellite
JOIN dds.l_product_restaurant AS link USING (l_product_restaurant_pk);

CREATE VIEW dds.v_s_product_restaurant_effectivity_timeline AS
SELECT l_product_restaurant_pk, satellite.h_product_pk, link.h_restaurant_pk, valid_from, valid_to
FROM (
    SELECT
        h_product_pk, l_product_restaurant_pk,
        update_ts AS valid_from,
        lead(update_ts) OVER (PARTITION BY h_product_pk ORDER BY version) AS valid_to
    FROM (
        SELECT *, lag(l_product_restaurant_pk) OVER (PARTITION BY h_product_pk ORDER BY version) AS earlier_key
        FROM dds.s_product_restaurant_effectivity
    ) AS versions
    WHERE earlier_key IS DISTINCT FROM l_product_restaurant_pk
) AS satellite
JOIN dds.l_product_restaurant AS link USING (l_product_restaurant_pk);

CREATE VIEW dds.v_s_product_category_effectivity_current AS
SELECT l_product_category_pk, satellite.h_product_pk, link.h_category_pk, version, update_ts, satellite.load_dt, satellite.load_src
FROM (
    SELECT DISTINCT ON (h_product_pk) *
    FROM dds.s_product_category_effectivity
    ORDER BY h_product_pk, version DESC
) AS satellite
JOIN dds.l_product_category AS link USING (l_product_category_pk);

CREATE VIEW dds.v_s_product_category_effectivity_timeline AS
SELECT l_product_category_pk, satellite.h_product_pk, link.h_category_pk, valid_from, valid_to
FROM (
    SELECT
        h_product_pk, l_product_category_pk,
        update_ts AS valid_from,
        lead(update_ts) OVER (PARTITION BY h_product_pk ORDER BY version) AS valid_to
    FROM (
        SELECT *, lag(l_product_category_pk) OVER (PARTITION BY h_product_pk ORDER BY version) AS earlier_key
        FROM dds.s_product_category_effectivity
    ) AS versions
    WHERE earlier_key IS DISTINCT FROM l_product_category_pk
) AS satellite
JOIN dds.l_product_category AS link USING (l_product_category_pk);

CREATE VIEW dds.v_s_order_user_effectivity_current AS
SELECT l_order_user_pk, satellite.h_order_pk, link.h_user_pk, version, update_ts, satellite.load_dt, satellite.load_src
FROM (
    SELECT DISTINCT ON (h_order_pk) *
    FROM dds.s_order_user_effectivity
    ORDER BY h_order_pk, version DESC
) AS satellite
JOIN dds.l_order_user AS link USING (l_order_user_pk);

CREATE VIEW dds.v_s_order_user_effectivity_timeline AS
SELECT l_order_user_pk, satellite.h_order_pk, link.h_user_pk, valid_from, valid_to
FROM (
    SELECT
        h_order_pk, l_order_user_pk,
        update_ts AS valid_from,
        lead(update_ts) OVER (PARTITION BY h_order_pk ORDER BY version) AS valid_to
    FROM (
        SELECT *, lag(l_order_user_pk) OVER (PARTITION BY h_order_pk ORDER BY version) AS earlier_key
        FROM dds.s_order_user_effectivity
    ) AS versions
    WHERE earlier_key IS DISTINCT FROM l_order_user_pk
) AS satellite
JOIN dds.l_order_user AS link USING (l_order_user_pk);

CREATE VIEW dds.v_s_order_restaurant_effectivity_current AS
SELECT l_order_restaurant_pk, satellite.h_order_pk, link.h_restaurant_pk, version, update_ts, satellite.load_dt, satellite.load_src
FROM (
    SELECT DISTINCT ON (h_order_pk) *
    FROM dds.s_order_restaurant_effectivity
    ORDER BY h_order_pk, version DESC
) AS satellite
JOIN dds.l_order_restaurant AS link USING (l_order_restaurant_pk);

CREATE VIEW dds.v_s_order_restaurant_effectivity_timeline AS
SELECT l_order_restaurant_pk, satellite.h_order_pk, link.h_restaurant_pk, valid_from, valid_to
FROM (
    SELECT
        h_order_pk, l_order_restaurant_pk,
        update_ts AS valid_from,
        lead(update_ts) OVER (PARTITION BY h_order_pk ORDER BY version) AS valid_to
    FROM (
        SELECT *, lag(l_order_restaurant_pk) OVER (PARTITION BY h_order_pk ORDER BY version) AS earlier_key
        FROM dds.s_order_restaurant_effectivity
    ) AS versions
    WHERE earlier_key IS DISTINCT FROM l_order_restaurant_pk
) AS satellite
JOIN dds.l_order_restaurant AS link USING (l_order_restaurant_pk);

GRANT SELECT, INSERT ON
    dds.s_order_item,
    dds.s_product_restaurant_effectivity,
    dds.s_product_category_effectivity,
    dds.s_order_user_effectivity,
    dds.s_order_restaurant_effectivity
    TO streamstage_worker;
GRANT SELECT ON
    dds.v_s_order_item_current, dds.v_s_order_item_timeline,
    dds.v_s_product_restaurant_effectivity_current, dds.v_s_product_restaurant_effectivity_timeline,
    dds.v_s_product_category_effectivity_current, dds.v_s_product_category_effectivity_timeline,
    dds.v_s_order_user_effectivity_current, dds.v_s_order_user_effectivity_timeline,
    dds.v_s_order_restaurant_effectivity_current, dds.v_s_order_restaurant_effectivity_timeline
    TO streamstage_worker;
