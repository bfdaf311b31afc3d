-- A dead letter is its row: no property of a record can prevent the row, and the dead letter topic has a copy of it, which
-- the worker produces after the commit.

ALTER TABLE streamstage.dead_letter
    ADD COLUMN topic_id            uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    ADD COLUMN record_timestamp_ms bigint,
    ADD COLUMN record_bytes        bigint      NOT NULL DEFAULT 0,
    ADD COLUMN copied_at           timestamptz,
    ADD COLUMN copy_attempts       integer     NOT NULL DEFAULT 0,
    ADD COLUMN copy_error          text,
    ADD COLUMN next_copy_at        timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN discarded_at        timestamptz,
    ADD COLUMN discard_reason      text;

-- The previous version produced every copy before it committed the row.
UPDATE streamstage.dead_letter
SET copied_at = dead_lettered_at,
    record_timestamp_ms = (extract(epoch FROM record_timestamp) * 1000)::bigint,
    record_bytes = coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)
        + pg_column_size(header_names) + pg_column_size(header_values);

-- Offsets are unique within one incarnation of a topic only.
ALTER TABLE streamstage.dead_letter
    DROP CONSTRAINT dead_letter_pkey,
    ADD PRIMARY KEY (consumer_group, topic, partition, "offset", topic_id);

CREATE INDEX dead_letter_copy_due ON streamstage.dead_letter (consumer_group, topic, next_copy_at)
    WHERE copied_at IS NULL AND discarded_at IS NULL;

ALTER TABLE stg.pending_enrichment
    ADD COLUMN topic_id            uuid   NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    ADD COLUMN record_timestamp_ms bigint,
    ADD COLUMN record_bytes        bigint NOT NULL DEFAULT 0;

UPDATE stg.pending_enrichment
SET record_timestamp_ms = (extract(epoch FROM record_timestamp) * 1000)::bigint,
    record_bytes = coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)
        + pg_column_size(header_names) + pg_column_size(header_values);

COMMENT ON COLUMN streamstage.dead_letter.topic_id IS
    'Kafka''s ID of the topic; zero if it is unknown. A recreated topic has another one.';
COMMENT ON COLUMN streamstage.dead_letter.record_timestamp IS
    'Kafka timestamp of the record; NULL without one, or outside of the years 1 to 9999.';
COMMENT ON COLUMN streamstage.dead_letter.record_timestamp_ms IS
    'Kafka timestamp of the record as received, in milliseconds since 1970; NULL without one.';
COMMENT ON COLUMN streamstage.dead_letter.record_bytes IS 'Size of key, value and headers.';
COMMENT ON COLUMN streamstage.dead_letter.copied_at IS
    'Time at which the dead letter topic acknowledged the copy; NULL until then.';
COMMENT ON COLUMN streamstage.dead_letter.copy_attempts IS 'Number of attempts to produce the copy.';
COMMENT ON COLUMN streamstage.dead_letter.copy_error IS 'Error of the last attempt to produce the copy.';
COMMENT ON COLUMN streamstage.dead_letter.next_copy_at IS 'Time of the next attempt to produce the copy.';
COMMENT ON COLUMN streamstage.dead_letter.discarded_at IS
    'Time at which an operator discarded the dead letter; NULL until then.';
COMMENT ON COLUMN streamstage.dead_letter.discard_reason IS 'Reason that the operator gave.';
COMMENT ON COLUMN stg.pending_enrichment.topic_id IS
    'Kafka''s ID of the topic; zero if it is unknown. A recreated topic has another one.';
COMMENT ON COLUMN stg.pending_enrichment.record_timestamp_ms IS
    'Kafka timestamp of the record as received, in milliseconds since 1970; NULL without one.';
COMMENT ON COLUMN stg.pending_enrichment.record_bytes IS 'Size of key, value and headers.';

CREATE OR REPLACE VIEW cdm_bi.dead_letters AS
SELECT
    code AS reason,
    stage,
    count(*) FILTER (WHERE redriven_at IS NULL AND discarded_at IS NULL) AS waiting,
    count(redriven_at) AS redriven,
    count(discarded_at) AS discarded
FROM streamstage.dead_letter
GROUP BY 1, 2;
