"""Loads a Kafka topic into PostgreSQL: the loader that `bench` compares STG with.

Written with care: batches of a thousand records, one statement per batch, binary parameters, offsets committed after the
rows. It does less than STG: it knows no order of versions, checks no field, looks nothing up and publishes nothing, and
after a crash between the two commits it relies on the conflict clause.
"""

import json
import sys
import time

import confluent_kafka
import psycopg

BATCH_RECORDS = 1000
INSERT = """
INSERT INTO public.loaded (partition, "offset", object_id, sent_dttm, payload)
SELECT * FROM unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::timestamptz[], %s::json[])
ON CONFLICT DO NOTHING"""
CREATE = """
DROP TABLE IF EXISTS public.loaded;
CREATE TABLE public.loaded (
    partition integer NOT NULL, "offset" bigint NOT NULL, object_id bigint NOT NULL, sent_dttm timestamptz NOT NULL,
    payload json NOT NULL, load_dt timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (partition, "offset"))"""


def main() -> None:
    servers, topic = sys.argv[1:]
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"python-loader-{time.time_ns()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    partitions = consumer.list_topics(topic).topics[topic].partitions
    ends = [consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, id))[1] for id in partitions]
    consumer.subscribe([topic])
    loaded, first, started, cpu = 0, 0, 0.0, 0.0
    with psycopg.connect() as connection:
        connection.execute(CREATE)
        connection.commit()
        while loaded < sum(ends):
            records = consumer.consume(BATCH_RECORDS, timeout=1.0)
            if not records:
                continue
            rows = []
            for record in records:
                order = json.loads(record.value())
                rows.append(
                    (record.partition(), record.offset(), order["object_id"], order["sent_dttm"], record.value().decode())
                )
            with connection.cursor(binary=True) as cursor:
                cursor.execute(INSERT, [list(column) for column in zip(*rows)])
            connection.commit()
            consumer.commit(asynchronous=True)
            loaded += len(records)
            if not first:
                first, started, cpu = loaded, time.monotonic(), time.process_time()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    print(json.dumps({"records": loaded - first, "seconds": seconds, "cpu_seconds": cpu}))
    consumer.close()


if __name__ == "__main__":
    main()
