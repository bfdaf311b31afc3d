-- Tag rules belong to the consumer group of their stage, so that a second stage does not replace those of the first one.
-- Workers of the previous version cannot install rules into this table, so roll the workers together with this migration.
ALTER TABLE cdm.category_thresholds ADD COLUMN consumer_group text NOT NULL DEFAULT '';
ALTER TABLE cdm.category_thresholds DROP CONSTRAINT category_thresholds_pkey;
ALTER TABLE cdm.category_thresholds ADD PRIMARY KEY (consumer_group, category, threshold);

COMMENT ON TABLE cdm.category_thresholds IS
    'Tag rules of each stage. Category * applies to every category for which the same stage has no rule.';
COMMENT ON COLUMN cdm.category_thresholds.consumer_group IS
    'Consumer group of the stage. Empty for rules of unknown origin, which the next stage that starts replaces by its own.';

-- As before, for the rules of each stage. Stages with the same rule assign one tag.
CREATE OR REPLACE VIEW cdm.user_tags AS
SELECT DISTINCT
    counter.user_id,
    guest.name AS user_name,
    counter.category_id,
    counter.category_name,
    coalesce(rule.tag, counter.category_name) AS tag,
    counter.order_cnt,
    rule.threshold
FROM cdm.user_category_counters AS counter
JOIN cdm.entity_name AS guest ON guest.id = counter.user_id
JOIN cdm.category_thresholds AS rule ON rule.category = counter.category_name
    OR (rule.category = '*' AND NOT EXISTS (
        SELECT FROM cdm.category_thresholds AS own
        WHERE own.consumer_group = rule.consumer_group AND own.category = counter.category_name))
WHERE counter.order_cnt >= rule.threshold;

CREATE OR REPLACE VIEW cdm_bi.tag_rules AS
SELECT DISTINCT
    category.id AS category_id,
    category.name AS category,
    coalesce(rule.tag, category.name) AS tag,
    rule.threshold
FROM dds.h_category AS hub
JOIN cdm.entity_name AS category ON category.id = hub.h_category_pk
JOIN cdm.category_thresholds AS rule ON rule.category = category.name
    OR (rule.category = '*' AND NOT EXISTS (
        SELECT FROM cdm.category_thresholds AS own
        WHERE own.consumer_group = rule.consumer_group AND own.category = category.name));

-- Begin of the hold of each stage, common to its workers. A stage holds its batches for a bounded time if most of their
-- records would be dead-lettered (`spec.batch.maxHold`).
CREATE TABLE streamstage.hold (
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    cause          text        NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT now(),
    last_cause_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, topic)
);

COMMENT ON TABLE streamstage.hold IS
    'Last hold of each stage: most records of its batches would have been dead-lettered.';
COMMENT ON COLUMN streamstage.hold.started_at IS 'Begin of the hold; spec.batch.maxHold counts from it.';
COMMENT ON COLUMN streamstage.hold.last_cause_at IS
    'Time of the last batch with a cause. Another hold begins after spec.batch.maxHold without one.';

GRANT SELECT, INSERT, UPDATE ON streamstage.hold TO streamstage_worker;
