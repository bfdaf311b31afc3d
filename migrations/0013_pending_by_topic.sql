-- A pending order belongs to the topic that it came from: the stage that reads the topic retries it, whichever consumer
-- group it has. `consumer_group` names the group that stored the order.
DROP INDEX stg.pending_enrichment_due;
CREATE INDEX pending_enrichment_due ON stg.pending_enrichment (topic, next_attempt_at);

COMMENT ON COLUMN stg.pending_enrichment.consumer_group IS
    'Consumer group that stored the order; any group that reads the topic retries it.';

-- So does a dead letter: one record has one, whichever groups have read it. The key begins with what all of them share.
ALTER TABLE streamstage.dead_letter
    DROP CONSTRAINT dead_letter_pkey,
    ADD PRIMARY KEY (topic, partition, "offset", topic_id, consumer_group);
DROP INDEX streamstage.dead_letter_copy_due;
CREATE INDEX dead_letter_copy_due ON streamstage.dead_letter (topic, next_copy_at)
    WHERE copied_at IS NULL AND discarded_at IS NULL;

COMMENT ON COLUMN streamstage.dead_letter.consumer_group IS
    'Consumer group that rejected the record; the commands of any group that reads the topic find it.';

-- Account of the offsets. A worker adds to `processed_offsets` what it adds to `next_offset`, and a reset of the position
-- changes `base_offset`, so `worker verify` detects any other change of a position. The start of an existing position is
-- unknown; it is counted from 0.
ALTER TABLE streamstage.position
    ADD COLUMN base_offset bigint NOT NULL DEFAULT 0,
    ADD COLUMN processed_offsets bigint NOT NULL DEFAULT 0;
UPDATE streamstage.position SET processed_offsets = next_offset;

COMMENT ON COLUMN streamstage.position.base_offset IS
    'next_offset minus processed_offsets: the start of the position, or its last reset less what was processed before.';
COMMENT ON COLUMN streamstage.position.processed_offsets IS
    'Number of offsets by which workers have advanced the position.';

-- The parts of an order by its hub key: for questions about one order, and for `worker republish`.
CREATE INDEX l_order_user_h_order ON dds.l_order_user (h_order_pk);
CREATE INDEX l_order_product_h_order ON dds.l_order_product (h_order_pk);
