-- Hash keys with the order's number, rows of the reference data by entry, and lines with their name and category.
--
-- All existing rows are carried over: processing the same messages again changes nothing. Workers of the previous version
-- would write keys of the former layout; they fail and retry until they are upgraded. It rewrites every table with rows of
-- orders, which takes as much disk space again until the next vacuum.

-- The key of an order, and of each of its links, begins with the lowest 48 bits of the order's number. The other bytes
-- remain those of the hash, so the new key follows from the old one.
CREATE FUNCTION dds.prefixed_key(hash_key uuid, order_id bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT (lpad(to_hex(order_id & 281474976710655), 12, '0') || substring(replace(hash_key::text, '-', '') FROM 13))::uuid $$;

-- Hash diff of a row, as the worker computes it.
CREATE FUNCTION dds.hash_diff_of(attributes text[]) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$
    SELECT encode(
        set_byte(set_byte(digest, 6, get_byte(digest, 6) & 15 | 128), 8, get_byte(digest, 8) & 63 | 128), 'hex')::uuid
    FROM (
        SELECT substring(sha256(string_agg(
            int4send(octet_length(attribute)) || convert_to(attribute, 'UTF8'), ''::bytea ORDER BY number)) FROM 1 FOR 16)
        FROM unnest(attributes) WITH ORDINALITY AS parts (attribute, number)
    ) AS hashed (digest)
$$;

-- A line has the name that the order states, and the category that the menu had when the order was enriched. The names
-- and menus of the reference data no longer have a row for every version of an order, so they do not have these any more.
DROP VIEW dds.v_s_order_item_current, dds.v_s_order_item_timeline;
ALTER TABLE dds.s_order_item RENAME TO s_order_item_without_name;
ALTER INDEX dds.s_order_item_pkey RENAME TO s_order_item_without_name_pkey;

CREATE TABLE dds.s_order_item (
    l_order_product_pk uuid          NOT NULL,
    version            bytea         NOT NULL,
    occurrence         integer       NOT NULL,
    update_ts          timestamptz   NOT NULL,
    name               text          NOT NULL,
    category           text          NOT NULL,
    price              numeric(19,5) NOT NULL,
    quantity           integer       NOT NULL,
    hash_diff          uuid          NOT NULL,
    load_dt            timestamptz   NOT NULL DEFAULT now(),
    load_src           text          NOT NULL,
    PRIMARY KEY (l_order_product_pk, version, occurrence)
);

INSERT INTO dds.s_order_item (
    l_order_product_pk, version, occurrence, update_ts, name, category, price, quantity, hash_diff, load_dt, load_src)
SELECT
    dds.prefixed_key(l_order_product_pk, order_id), version, occurrence, update_ts, name, category, price, quantity,
    dds.hash_diff_of(ARRAY[name, category, trim_scale(price)::text, quantity::text]), load_dt, load_src
FROM (
    SELECT item.*, orders.order_id, coalesce(names.name, '') AS name, coalesce(sort.category_name, '') AS category
    FROM dds.s_order_item_without_name AS item
    JOIN dds.l_order_product AS link USING (l_order_product_pk)
    JOIN dds.h_order AS orders USING (h_order_pk)
    LEFT JOIN dds.s_product_names AS names
        ON names.h_product_pk = link.h_product_pk AND names.version = item.version
    LEFT JOIN dds.s_product_category_effectivity AS stated
        ON stated.h_product_pk = link.h_product_pk AND stated.version = item.version
    LEFT JOIN dds.l_product_category AS sorted USING (l_product_category_pk)
    LEFT JOIN dds.h_category AS sort USING (h_category_pk)
) AS line
ORDER BY 1, 2, 3;

DROP TABLE dds.s_order_item_without_name;

-- Only a worker of the previous version omits the column. Its whole statement fails, with an error that it retries.
CREATE FUNCTION dds.reject_former_worker() RETURNS text LANGUAGE plpgsql AS
$$
BEGIN
    RAISE EXCEPTION 'the warehouse needs a newer worker' USING ERRCODE = 'cannot_connect_now', HINT = 'Upgrade the worker.';
END
$$;
ALTER TABLE dds.s_order_item ALTER COLUMN name SET DEFAULT dds.reject_former_worker();

-- The ghost record keeps its key.
DO $$
DECLARE
    satellite text;
BEGIN
    FOREACH satellite IN ARRAY ARRAY['s_order_cost', 's_order_status'] LOOP
        EXECUTE format($sql$
            UPDATE dds.%I AS satellite
            SET h_order_pk = dds.prefixed_key(satellite.h_order_pk, hub.order_id)
            FROM dds.h_order AS hub WHERE hub.h_order_pk = satellite.h_order_pk AND hub.order_id >= 0
        $sql$, satellite);
    END LOOP;
    FOREACH satellite IN ARRAY ARRAY['l_order_user', 'l_order_restaurant'] LOOP
        EXECUTE format($sql$
            UPDATE dds.%1$I AS satellite
            SET h_order_pk = dds.prefixed_key(satellite.h_order_pk, hub.order_id),
                %2$I = dds.prefixed_key(satellite.%2$I, hub.order_id)
            FROM dds.h_order AS hub WHERE hub.h_order_pk = satellite.h_order_pk AND hub.order_id >= 0
        $sql$, replace(satellite, 'l_', 's_') || '_effectivity', satellite || '_pk');
    END LOOP;
    FOREACH satellite IN ARRAY ARRAY['l_order_user', 'l_order_product', 'l_order_restaurant'] LOOP
        EXECUTE format($sql$
            UPDATE dds.%1$I AS link
            SET h_order_pk = dds.prefixed_key(link.h_order_pk, hub.order_id),
                %2$I = dds.prefixed_key(link.%2$I, hub.order_id)
            FROM dds.h_order AS hub WHERE hub.h_order_pk = link.h_order_pk AND hub.order_id >= 0
        $sql$, satellite, satellite || '_pk');
    END LOOP;
END
$$;
UPDATE dds.h_order SET h_order_pk = dds.prefixed_key(h_order_pk, order_id) WHERE order_id >= 0;

DROP FUNCTION dds.prefixed_key(uuid, bigint), dds.hash_diff_of(text[]);

CREATE VIEW dds.v_s_order_item_current AS
SELECT
    satellite.l_order_product_pk,
    satellite.version,
    satellite.occurrence,
    satellite.update_ts,
    satellite.name,
    satellite.category,
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
    name, category, price, quantity,
    update_ts AS valid_from,
    valid_to
FROM (
    SELECT *, CASE WHEN is_last THEN next_update_ts ELSE lead(next_update_ts) OVER same_row END AS valid_to
    FROM (
        SELECT
            l_order_product_pk, version, occurrence, update_ts, name, category, price, quantity, hash_diff, next_update_ts,
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

GRANT SELECT, INSERT ON dds.s_order_item TO streamstage_worker, streamstage_dds;
GRANT SELECT ON dds.v_s_order_item_current, dds.v_s_order_item_timeline TO streamstage_worker, streamstage_dds;
