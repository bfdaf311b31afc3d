-- Role of the workers. A login becomes a worker by membership: GRANT streamstage_worker TO some_login;
DO $$
BEGIN
    CREATE ROLE streamstage_worker NOLOGIN;
EXCEPTION
    -- Roles belong to the server: the migration of another database may have created it, even at this moment.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE SCHEMA IF NOT EXISTS streamstage;

-- Next offset to read, per consumer group and partition. The offsets committed to Kafka are a copy.
CREATE TABLE streamstage.position (
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint      NOT NULL CHECK (next_offset >= 0),
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 50);

-- Rejected records, byte for byte as received: one row per source offset.
CREATE TABLE streamstage.dead_letter (
    consumer_group   text        NOT NULL,
    topic            text        NOT NULL,
    partition        integer     NOT NULL,
    "offset"         bigint      NOT NULL,
    stage            text        NOT NULL,
    code             text        NOT NULL,
    detail           text        NOT NULL,
    key              bytea,
    value            bytea,
    header_names     text[]      NOT NULL,
    header_values    bytea[]     NOT NULL,
    record_timestamp timestamptz,
    attempts         integer     NOT NULL,
    dead_since       timestamptz NOT NULL DEFAULT now(),
    redriven_at      timestamptz,
    PRIMARY KEY (consumer_group, topic, partition, "offset")
);

GRANT USAGE ON SCHEMA streamstage TO streamstage_worker;
GRANT SELECT, INSERT, UPDATE ON streamstage.position, streamstage.dead_letter TO streamstage_worker;
