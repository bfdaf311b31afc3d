-- An offset has no meaning without the log that it belongs to, so each position is stored with Kafka's ID of the topic.
-- Rows of previous versions have the zero UUID; a worker replaces it at its next start if the position is in the log.
ALTER TABLE streamstage.position
    ADD COLUMN topic_id    uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    ADD COLUMN stop_reason text CHECK (stop_reason IN ('OffsetOutOfRange', 'TopicRecreated')),
    ADD COLUMN stop_detail text;

COMMENT ON COLUMN streamstage.position.topic_id IS
    'Kafka''s ID of the topic; zero if it is unknown. A recreated topic has another one.';
COMMENT ON COLUMN streamstage.position.stop_reason IS
    'Reason why the stage may not continue until `worker reset-offsets`; NULL while it may.';
COMMENT ON COLUMN streamstage.position.stop_detail IS 'Offsets or topic IDs that led to the stop.';
