-- A version gets the send time of its message, between the status rank and the digest. Of two messages with the same
-- `update_ts` and status, the one that was sent later is the later version; before, the digest decided.
-- A stored version is extended by the send time that STG has. If STG does not have the message, it is extended by 8 zero
-- bytes, which sort before every send time: a worker reads a message without send time in the same way.
-- Workers of the previous version would write versions of the former layout, so roll the workers together with this
-- migration. It rewrites every table with versions, which takes as much disk space again until the next vacuum.

CREATE FUNCTION stg.from_micros(micros bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
$$ SELECT timestamptz 'epoch' + micros / 1000000 * interval '1 second' + micros % 1000000 * interval '1 microsecond' $$;

-- Exact times of far years, whose microseconds were rounded to a float: `update_ts` is in the version, and the fraction of
-- `sent_dttm` is in the message.
DO $$
DECLARE
    stored text;
BEGIN
    FOREACH stored IN ARRAY ARRAY['stg.order_events', 'stg.order_event_history'] LOOP
        EXECUTE format($sql$
            UPDATE %s
            SET update_ts = stg.from_micros(
                    ('x' || encode(substring(version FROM 1 FOR 8), 'hex'))::bit(64)::bigint # (1::bigint << 63)),
                sent_dttm = stg.from_micros((
                    SELECT fraction + 1000000 * round((extract(epoch FROM sent_dttm) * 1000000 - fraction) / 1000000)
                    FROM (SELECT rpad(coalesce(substring(payload ->> 'sent_dttm' FROM '[.]([0-9]{1,6})'), ''), 6, '0')::numeric)
                        AS message (fraction))::bigint)
            WHERE NOT (update_ts BETWEEN '1700-01-01' AND '2200-01-01' AND sent_dttm BETWEEN '1700-01-01' AND '2200-01-01')
        $sql$, stored);
    END LOOP;
END
$$;

-- Send time of each message by its digest, in the encoding of a version: big endian, sign bit flipped.
CREATE UNLOGGED TABLE stg.send_time AS
SELECT DISTINCT ON (digest) digest, int8send((extract(epoch FROM sent_dttm) * 1000000)::bigint # (1::bigint << 63)) AS sent
FROM (
    SELECT substring(version FROM 10) AS digest, sent_dttm FROM stg.order_events
    UNION ALL SELECT substring(version FROM 10), sent_dttm FROM stg.order_event_history
) AS message;
ALTER TABLE stg.send_time ADD PRIMARY KEY (digest);
ANALYZE stg.send_time;

DO $$
DECLARE
    stored text;
BEGIN
    FOREACH stored IN ARRAY ARRAY[
        'stg.order_events', 'stg.order_event_history', 'stg.pending_enrichment', 'dds.s_user_names', 'dds.s_product_names',
        'dds.s_restaurant_names', 'dds.s_order_cost', 'dds.s_order_status', 'dds.s_order_item', 'cdm.order_contribution',
        'cdm.entity_name'
    ] LOOP
        EXECUTE format($sql$
            UPDATE %s
            SET version = substring(version FROM 1 FOR 9)
                || coalesce((SELECT sent FROM stg.send_time WHERE digest = substring(version FROM 10)), '\x0000000000000000')
                || substring(version FROM 10)
        $sql$, stored);
    END LOOP;
END
$$;

DROP TABLE stg.send_time;
DROP FUNCTION stg.from_micros(bigint);

-- The latest version of an order may be another one now: it changes places with the version in `stg.order_events`.
WITH later AS (
    SELECT DISTINCT ON (history.object_id) history.*
    FROM stg.order_event_history AS history
    JOIN stg.order_events AS event ON event.object_id = history.object_id AND event.version < history.version
    ORDER BY history.object_id, history.version DESC
), superseded AS (
    INSERT INTO stg.order_event_history
        (object_id, object_type, sent_dttm, payload, update_ts, version, load_dt, load_src)
    SELECT event.object_id, event.object_type, event.sent_dttm, event.payload, event.update_ts, event.version,
        event.load_dt, event.load_src
    FROM stg.order_events AS event JOIN later ON later.object_id = event.object_id
), removed AS (
    DELETE FROM stg.order_event_history AS history USING later
    WHERE history.object_id = later.object_id AND history.version = later.version
)
UPDATE stg.order_events AS event
SET object_type = later.object_type, sent_dttm = later.sent_dttm, payload = later.payload, update_ts = later.update_ts,
    version = later.version, load_dt = later.load_dt, load_src = later.load_src
FROM later WHERE event.object_id = later.object_id;

-- An order whose source clock is ahead counts as the newest only when its time has come.
CREATE OR REPLACE VIEW cdm_bi.freshness AS
SELECT
    (
        SELECT (timestamptz 'epoch' + max(update_us) * interval '1 microsecond')::timestamp FROM cdm_bi.order_version
        WHERE update_us <= extract(epoch FROM now()) * 1000000
    ) AS newest_order,
    (SELECT max(load_dt)::timestamp FROM dds.s_order_status) AS newest_load,
    (SELECT floor(extract(epoch FROM now() - max(load_dt)))::bigint FROM dds.s_order_status) AS seconds_since_load;
