-- The Data Vault. Generated from the model in worker/src/vault/model.rs; a test compares the two.
CREATE SCHEMA IF NOT EXISTS dds;

CREATE TABLE dds.h_user (
    h_user_pk uuid        NOT NULL,
    user_id   text        NOT NULL,
    load_dt   timestamptz NOT NULL DEFAULT now(),
    load_src  text        NOT NULL,
    PRIMARY KEY (h_user_pk)
);

CREATE TABLE dds.h_product (
    h_product_pk uuid        NOT NULL,
    product_id   text        NOT NULL,
    load_dt      timestamptz NOT NULL DEFAULT now(),
    load_src     text        NOT NULL,
    PRIMARY KEY (h_product_pk)
);

CREATE TABLE dds.h_category (
    h_category_pk uuid        NOT NULL,
    category_name text        NOT NULL,
    load_dt       timestamptz NOT NULL DEFAULT now(),
    load_src      text        NOT NULL,
    PRIMARY KEY (h_category_pk)
);

CREATE TABLE dds.h_restaurant (
    h_restaurant_pk uuid        NOT NULL,
    restaurant_id   text        NOT NULL,
    load_dt         timestamptz NOT NULL DEFAULT now(),
    load_src        text        NOT NULL,
    PRIMARY KEY (h_restaurant_pk)
);

CREATE TABLE dds.h_order (
    h_order_pk uuid        NOT NULL,
    order_id   bigint      NOT NULL,
    load_dt    timestamptz NOT NULL DEFAULT now(),
    load_src   text        NOT NULL,
    PRIMARY KEY (h_order_pk)
);

CREATE TABLE dds.l_order_user (
    l_order_user_pk uuid        NOT NULL,
    h_order_pk      uuid        NOT NULL,
    h_user_pk       uuid        NOT NULL,
    load_dt         timestamptz NOT NULL DEFAULT now(),
    load_src        text        NOT NULL,
    PRIMARY KEY (l_order_user_pk)
);

CREATE TABLE dds.l_order_product (
    l_order_product_pk uuid        NOT NULL,
    h_order_pk         uuid        NOT NULL,
    h_product_pk       uuid        NOT NULL,
    load_dt            timestamptz NOT NULL DEFAULT now(),
    load_src           text        NOT NULL,
    PRIMARY KEY (l_order_product_pk)
);

CREATE TABLE dds.l_product_restaurant (
    l_product_restaurant_pk uuid        NOT NULL,
    h_product_pk            uuid        NOT NULL,
    h_restaurant_pk         uuid        NOT NULL,
    load_dt                 timestamptz NOT NULL DEFAULT now(),
    load_src                text        NOT NULL,
    PRIMARY KEY (l_product_restaurant_pk)
);

CREATE TABLE dds.l_product_category (
    l_product_category_pk uuid        NOT NULL,
    h_product_pk          uuid        NOT NULL,
    h_category_pk         uuid        NOT NULL,
    load_dt               timestamptz NOT NULL DEFAULT now(),
    load_src              text        NOT NULL,
    PRIMARY KEY (l_product_category_pk)
);

CREATE TABLE dds.l_order_restaurant (
    l_order_restaurant_pk uuid        NOT NULL,
    h_order_pk            uuid        NOT NULL,
    h_restaurant_pk       uuid        NOT NULL,
    load_dt               timestamptz NOT NULL DEFAULT now(),
    load_src              text        NOT NULL,
    PRIMARY KEY (l_order_restaurant_pk)
);

CREATE TABLE dds.s_user_names (
    h_user_pk uuid        NOT NULL,
    version   bytea       NOT NULL,
    update_ts timestamptz NOT NULL,
    username  text        NOT NULL,
    userlogin text        NOT NULL,
    hash_diff uuid        NOT NULL,
    load_dt   timestamptz NOT NULL DEFAULT now(),
    load_src  text        NOT NULL,
    PRIMARY KEY (h_user_pk, version)
);

CREATE TABLE dds.s_product_names (
    h_product_pk uuid        NOT NULL,
    version      bytea       NOT NULL,
    update_ts    timestamptz NOT NULL,
    name         text        NOT NULL,
    hash_diff    uuid        NOT NULL,
    load_dt      timestamptz NOT NULL DEFAULT now(),
    load_src     text        NOT NULL,
    PRIMARY KEY (h_product_pk, version)
);

CREATE TABLE dds.s_restaurant_names (
    h_restaurant_pk uuid        NOT NULL,
    version         bytea       NOT NULL,
    update_ts       timestamptz NOT NULL,
    name            text        NOT NULL,
    hash_diff       uuid        NOT NULL,
    load_dt         timestamptz NOT NULL DEFAULT now(),
    load_src        text        NOT NULL,
    PRIMARY KEY (h_restaurant_pk, version)
);

CREATE TABLE dds.s_order_cost (
    h_order_pk uuid          NOT NULL,
    version    bytea         NOT NULL,
    update_ts  timestamptz   NOT NULL,
    order_dt   timestamptz   NOT NULL,
    cost       numeric(19,5) NOT NULL,
    payment    numeric(19,5) NOT NULL,
    hash_diff  uuid          NOT NULL,
    load_dt    timestamptz   NOT NULL DEFAULT now(),
    load_src   text          NOT NULL,
    PRIMARY KEY (h_order_pk, version)
);

CREATE TABLE dds.s_order_status (
    h_order_pk uuid        NOT NULL,
    version    bytea       NOT NULL,
    update_ts  timestamptz NOT NULL,
    status     text        NOT NULL,
    hash_diff  uuid        NOT NULL,
    load_dt    timestamptz NOT NULL DEFAULT now(),
    load_src   text        NOT NULL,
    PRIMARY KEY (h_order_pk, version)
);

CREATE TABLE dds.s_order_item (
    l_order_product_pk uuid          NOT NULL,
    version            bytea         NOT NULL,
    line_no            integer       NOT NULL,
    update_ts          timestamptz   NOT NULL,
    price              numeric(19,5) NOT NULL,
    quantity           integer       NOT NULL,
    hash_diff          uuid          NOT NULL,
    load_dt            timestamptz   NOT NULL DEFAULT now(),
    load_src           text          NOT NULL,
    PRIMARY KEY (l_order_product_pk, version, line_no)
);

CREATE VIEW dds.v_s_user_names_current AS
SELECT DISTINCT ON (h_user_pk)
    h_user_pk, version, update_ts, username, userlogin, hash_diff, load_dt, load_src
FROM dds.s_user_names
ORDER BY h_user_pk, version DESC;

CREATE VIEW dds.v_s_user_names_timeline AS
SELECT
    h_user_pk,
    username, userlogin,
    update_ts AS valid_from,
    lead(update_ts) OVER (PARTITION BY h_user_pk ORDER BY version) AS valid_to
FROM (
    SELECT *, lag(hash_diff) OVER (PARTITION BY h_user_pk ORDER BY version) AS earlier_hash_diff
    FROM dds.s_user_names
) AS satellite
WHERE earlier_hash_diff IS DISTINCT FROM hash_diff;

CREATE VIEW dds.v_s_product_names_current AS
SELECT DISTINCT ON (h_product_pk)
    h_product_pk, version, update_ts, name, hash_diff, load_dt, load_src
FROM dds.s_product_names
ORDER BY h_product_pk, version DESC;

CREATE VIEW dds.v_s_product_names_timeline AS
SELECT
    h_product_pk,
    name,
    update_ts AS valid_from,
    lead(update_ts) OVER (PARTITION BY h_product_pk ORDER BY version) AS valid_to
FROM (
    SELECT *, lag(hash_diff) OVER (PARTITION BY h_product_pk ORDER BY version) AS earlier_hash_diff
    FROM dds.s_product_names
) AS satellite
WHERE earlier_hash_diff IS DISTINCT FROM hash_diff;

CREATE VIEW dds.v_s_restaurant_names_current AS
SELECT DISTINCT ON (h_restaurant_pk)
    h_restaurant_pk, version, update_ts, name, hash_diff, load_dt, load_src
FROM dds.s_restaurant_names
ORDER BY h_restaurant_pk, version DESC;

CREATE VIEW dds.v_s_restaurant_names_timeline AS
SELECT
    h_restaurant_pk,
    name,
    update_ts AS valid_from,
    lead(update_ts) OVER (PARTITION BY h_restaurant_pk ORDER BY version) AS valid_to
FROM (
    SELECT *, lag(hash_diff) OVER (PARTITION BY h_restaurant_pk ORDER BY version) AS earlier_hash_diff
    FROM dds.s_restaurant_names
) AS satellite
WHERE earlier_hash_diff IS DISTINCT FROM hash_diff;

CREATE VIEW dds.v_s_order_cost_current AS
SELECT DISTINCT ON (h_order_pk)
    h_order_pk, version, update_ts, order_dt, cost, payment, hash_diff, load_dt, load_src
FROM dds.s_order_cost
ORDER BY h_order_pk, version DESC;

CREATE VIEW dds.v_s_order_cost_timeline AS
SELECT
    h_order_pk,
    order_dt, cost, payment,
    update_ts AS valid_from,
    lead(update_ts) OVER (PARTITION BY h_order_pk ORDER BY version) AS valid_to
FROM (
    SELECT *, lag(hash_diff) OVER (PARTITION BY h_order_pk ORDER BY version) AS earlier_hash_diff
    FROM dds.s_order_cost
) AS satellite
WHERE earlier_hash_diff IS DISTINCT FROM hash_diff;

CREATE VIEW dds.v_s_order_status_current AS
SELECT DISTINCT ON (h_order_pk)
    h_order_pk, version, update_ts, status, hash_diff, load_dt, load_src
FROM dds.s_order_status
ORDER BY h_order_pk, version DESC;

CREATE VIEW dds.v_s_order_status_timeline AS
SELECT
    h_order_pk,
    status,
    update_ts AS valid_from,
    lead(update_ts) OVER (PARTITION BY h_order_pk ORDER BY version) AS valid_to
FROM (
    SELECT *, lag(hash_diff) OVER (PARTITION BY h_order_pk ORDER BY version) AS earlier_hash_diff
    FROM dds.s_order_status
) AS satellite
WHERE earlier_hash_diff IS DISTINCT FROM hash_diff;

CREATE VIEW dds.v_s_order_item_current AS
SELECT
    satellite.l_order_product_pk,
    satellite.version,
    satellite.line_no,
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
    l_order_product_pk, line_no,
    price, quantity,
    update_ts AS valid_from,
    valid_to
FROM (
    SELECT *, CASE WHEN is_last THEN next_update_ts ELSE lead(next_update_ts) OVER same_row END AS valid_to
    FROM (
        SELECT
            l_order_product_pk, version, line_no, update_ts, price, quantity, hash_diff, next_update_ts,
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
        WINDOW same_row AS (PARTITION BY l_order_product_pk, line_no ORDER BY version)
    ) AS marked
    WHERE is_first OR is_last
    WINDOW same_row AS (PARTITION BY l_order_product_pk, line_no ORDER BY version)
) AS bounded
WHERE is_first;

-- Ghost records: what a blank business key leads to.
INSERT INTO dds.h_user (h_user_pk, user_id, load_src) VALUES ('00000000-0000-0000-0000-000000000000', '', 'system');
INSERT INTO dds.h_product (h_product_pk, product_id, load_src) VALUES ('00000000-0000-0000-0000-000000000000', '', 'system');
INSERT INTO dds.h_category (h_category_pk, category_name, load_src) VALUES ('00000000-0000-0000-0000-000000000000', '', 'system');
INSERT INTO dds.h_restaurant (h_restaurant_pk, restaurant_id, load_src) VALUES ('00000000-0000-0000-0000-000000000000', '', 'system');
INSERT INTO dds.h_order (h_order_pk, order_id, load_src) VALUES ('00000000-0000-0000-0000-000000000000', -1, 'system');

GRANT USAGE ON SCHEMA dds TO streamstage_worker;
GRANT SELECT, INSERT ON
    dds.h_user,
    dds.h_product,
    dds.h_category,
    dds.h_restaurant,
    dds.h_order,
    dds.l_order_user,
    dds.l_order_product,
    dds.l_product_restaurant,
    dds.l_product_category,
    dds.l_order_restaurant,
    dds.s_user_names,
    dds.s_product_names,
    dds.s_restaurant_names,
    dds.s_order_cost,
    dds.s_order_status,
    dds.s_order_item
    TO streamstage_worker;
GRANT SELECT ON
    dds.v_s_user_names_current, dds.v_s_user_names_timeline,
    dds.v_s_product_names_current, dds.v_s_product_names_timeline,
    dds.v_s_restaurant_names_current, dds.v_s_restaurant_names_timeline,
    dds.v_s_order_cost_current, dds.v_s_order_cost_timeline,
    dds.v_s_order_status_current, dds.v_s_order_status_timeline,
    dds.v_s_order_item_current, dds.v_s_order_item_timeline
    TO streamstage_worker;
