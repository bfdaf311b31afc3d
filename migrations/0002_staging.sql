CREATE SCHEMA IF NOT EXISTS stg;

-- The newest version of each order, as it came. `payload` is the whole value of the record.
-- `json`, not `jsonb`: jsonb would reorder keys, drop duplicates, and cost twice as much.
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

-- Versions that were superseded, or that arrived late.
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

-- Stored, and not yet published: the dictionary lacks an id. Holds the record, so that it can still end in the
-- dead letters untouched.
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
