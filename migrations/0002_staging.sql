CREATE SCHEMA IF NOT EXISTS stg;

-- Latest version of each order, as received. `payload` is the whole value of the record.
-- `json`, because `jsonb` reorders keys, removes duplicates, and costs twice as much.
CREATE TABLE stg.order_events (
    id          bigint      GENERATED ALWAYS AS IDENTITY,
    object_id   bigint      PRIMARY KEY,
    object_type text        NOT NULL,
    sent_dttm   timestamptz NOT NULL,
    payload     json        NOT NULL,
    update_ts   timestamptz NOT NULL,
    version     bytea       NOT NULL,
    load_dt     timestamptz NOT NULL DEFAULT now(),
    load_src    text        NOT NULL
);

-- Superseded and late-arriving versions.
CREATE TABLE stg.order_event_history (
    object_id   bigint      NOT NULL,
    object_type text        NOT NULL,
    sent_dttm   timestamptz NOT NULL,
    payload     json        NOT NULL,
    update_ts   timestamptz NOT NULL,
    version     bytea       NOT NULL,
    load_dt     timestamptz NOT NULL DEFAULT now(),
    load_src    text        NOT NULL,
    PRIMARY KEY (object_id, version)
);

-- Pending orders: stored, but not yet produced, because reference data is missing. The row has the whole record, so
-- that the order can still be dead-lettered unchanged.
CREATE TABLE stg.pending_enrichment (
    object_id        bigint      NOT NULL,
    version          bytea       NOT NULL,
    missing          text[]      NOT NULL,
    since            timestamptz NOT NULL DEFAULT now(),
    attempts         integer     NOT NULL DEFAULT 1,
    next_attempt_at  timestamptz NOT NULL,
    consumer_group   text        NOT NULL,
    topic            text        NOT NULL,
    partition        integer     NOT NULL,
    "offset"         bigint      NOT NULL,
    key              bytea,
    value            bytea,
    header_names     text[]      NOT NULL,
    header_values    bytea[]     NOT NULL,
    record_timestamp timestamptz,
    PRIMARY KEY (object_id, version)
);

CREATE INDEX pending_enrichment_due ON stg.pending_enrichment (consumer_group, next_attempt_at);

GRANT USAGE ON SCHEMA stg TO streamstage_worker;
GRANT SELECT, INSERT, UPDATE ON stg.order_events TO streamstage_worker;
GRANT SELECT, INSERT ON stg.order_event_history TO streamstage_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON stg.pending_enrichment TO streamstage_worker;
