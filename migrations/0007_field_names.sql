-- Renames columns, a table and dead-letter codes to the terms of Kafka and PostgreSQL. Data, views and grants stay:
-- PostgreSQL resolves them by object id, not by name. Workers of the previous version fail on the new names, so roll
-- the workers together with this migration.

ALTER TABLE streamstage.dead_letter RENAME COLUMN dead_since TO dead_lettered_at;

ALTER TABLE stg.pending_enrichment RENAME COLUMN missing TO missing_entries;
ALTER TABLE stg.pending_enrichment RENAME COLUMN since TO pending_since;

ALTER TABLE cdm.name RENAME TO entity_name;
ALTER INDEX cdm.name_pkey RENAME TO entity_name_pkey;

-- `worker redrive --code` selects rows by code, and the dashboard counts by it, so stored rows need the new codes too.
UPDATE streamstage.dead_letter
SET code = CASE code
    WHEN 'DictionaryMissing' THEN 'ReferenceDataMissing'
    WHEN 'WarehouseRefused' THEN 'WarehouseRejected'
    WHEN 'BadTimestamp' THEN 'InvalidTimestamp'
END
WHERE code IN ('DictionaryMissing', 'WarehouseRefused', 'BadTimestamp');

COMMENT ON TABLE streamstage.position IS
    'Next offset to read of each consumer group and partition. The offsets committed to Kafka follow it.';
COMMENT ON TABLE streamstage.dead_letter IS
    'Rejected records, byte for byte as received: one row per source offset.';
COMMENT ON COLUMN streamstage.dead_letter.code IS 'Reason of the rejection, the same as in the dead letter topic.';
COMMENT ON COLUMN streamstage.dead_letter.dead_lettered_at IS 'Time at which the record was dead-lettered.';
COMMENT ON COLUMN streamstage.dead_letter.redriven_at IS 'Time of the redrive; NULL until then.';

COMMENT ON TABLE stg.order_events IS 'Latest version of each order, as received.';
COMMENT ON TABLE stg.order_event_history IS 'Superseded and late-arriving versions of each order, as received.';
COMMENT ON TABLE stg.pending_enrichment IS
    'Pending orders: stored, but not yet produced to the output topic, because reference data is missing.';
COMMENT ON COLUMN stg.pending_enrichment.missing_entries IS
    'Reference data entries that were missing at the last attempt.';
COMMENT ON COLUMN stg.pending_enrichment.pending_since IS
    'Time of the first attempt; spec.referenceData.maxWait counts from it.';

COMMENT ON TABLE cdm.order_contribution IS
    'Ledger: contribution of the latest version of each order to the counters; empty unless the order is closed.';
COMMENT ON TABLE cdm.product_order_count IS 'Number of closed orders per user and product; zero counts have no row.';
COMMENT ON TABLE cdm.category_order_count IS 'Number of closed orders per user and category; zero counts have no row.';
COMMENT ON TABLE cdm.entity_name IS
    'Name of each user, product and category by hub key, from the latest order version that contains it.';
COMMENT ON TABLE cdm.category_thresholds IS 'Tag rules of the stage; category * applies to every category without a rule.';
