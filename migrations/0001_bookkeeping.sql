-- The role that workers act as. A login becomes a worker by membership: GRANT streamstage_worker TO some_login;
DO $$
BEGIN
    CREATE ROLE streamstage_worker NOLOGIN;
EXCEPTION
    -- Roles belong to the cluster: another database, also one that migrates at this moment, may have made it.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE SCHEMA IF NOT EXISTS streamstage;

-- Where each consumer group stands. PostgreSQL owns the position; Kafka's committed offsets mirror it.
CREATE TABLE streamstage.position (
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint      NOT NULL CHECK (next_offset >= 0),
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 50);

-- Records that could not be taken, exactly as they came: one row per source offset.
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
