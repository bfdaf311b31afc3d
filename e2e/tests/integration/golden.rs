//! Snapshot of all rows that one order with two versions produces, in every table of every layer.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use e2e::pipeline::{Pipeline, Record, start_services};

const DEADLINE: Duration = Duration::from_mins(1);
/// Lists the tables and the mart views, with all columns but the load date.
const TABLES_QUERY: &str = "\
SELECT table_schema || '.' || table_name,
    string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position)
FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE (table_schema IN ('stg', 'dds', 'cdm') AND table_type = 'BASE TABLE' OR table_schema = 'cdm')
    AND column_name <> 'load_dt'
GROUP BY table_schema, table_name ORDER BY array_position(ARRAY['stg', 'dds', 'cdm'], table_schema::text), table_name";
const REFERENCE_DATA: [(&str, &str); 2] = [
    (
        "626a81ce9a8cd1920641e264",
        r#"{"_id": "626a81ce9a8cd1920641e264", "name": "Кира Голубева", "login": "kira", "update_ts": "2024-02-01 00:00:00"}"#,
    ),
    (
        "ef8c42c19b7518a9aebec106",
        r#"{"_id": "ef8c42c19b7518a9aebec106", "name": "Вкус Индии", "menu": [
            {"_id": "6276e8cd0cf48b4cded00878", "name": "РОЛЛ С ТОФУ", "price": 180, "category": "Роллы"},
            {"_id": "6276e8cd0cf48b4cded00879", "name": "СУП ДНЯ", "price": 220.50, "category": "Супы"}
        ], "update_ts": "2024-02-01 00:00:00"}"#,
    ),
];
/// First version: a roll and a soup.
const OPEN: &str = r#"{"object_id": 322519, "object_type": "order", "sent_dttm": "2024-02-24 11:58:15", "payload": {"restaurant": {"id": "ef8c42c19b7518a9aebec106"}, "user": {"id": "626a81ce9a8cd1920641e264"}, "date": "2024-02-24 11:58:12", "order_items": [{"id": "6276e8cd0cf48b4cded00878", "name": "РОЛЛ С ТОФУ", "price": 180, "quantity": 1}, {"id": "6276e8cd0cf48b4cded00879", "name": "СУП ДНЯ", "price": 220.50, "quantity": 1}], "bonus_payment": 0, "cost": 400.50, "payment": 400.50, "bonus_grant": 20, "statuses": [{"status": "OPEN", "dttm": "2024-02-24 11:58:12"}], "final_status": "OPEN", "update_ts": "2024-02-24 11:58:12"}}"#;
/// Second version: without the soup, the roll on two lines with another name, and a field that is in no contract.
const CLOSED: &str = r#"{"object_id": 322519, "object_type": "order", "sent_dttm": "2024-02-24 12:00:05", "payload": {"restaurant": {"id": "ef8c42c19b7518a9aebec106"}, "user": {"id": "626a81ce9a8cd1920641e264"}, "date": "2024-02-24 11:58:12", "order_items": [{"id": "6276e8cd0cf48b4cded00878", "name": "РОЛЛ С ТОФУ И ТОМАТАМИ", "price": 180, "quantity": 2}, {"id": "6276e8cd0cf48b4cded00878", "name": "РОЛЛ С ТОФУ", "price": 150.25, "quantity": 1}], "bonus_payment": 10.25, "cost": 510.25, "payment": 500, "bonus_grant": 25, "statuses": [{"status": "OPEN", "dttm": "2024-02-24 11:58:12"}, {"status": "CLOSED", "dttm": "2024-02-24 12:00:00"}], "final_status": "CLOSED", "update_ts": "2024-02-24 12:00:00", "courier": {"id": 17}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_order_produces_the_golden_rows_in_every_layer() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "golden", 1).await?;
    let rule = "    - {category: Роллы, threshold: 5,";
    pipeline.edit(rule, "    - {category: Роллы, threshold: 1,")?;
    let entries = REFERENCE_DATA
        .iter()
        .map(|(id, entry)| (*id, (*entry).to_owned()));
    pipeline.load_entries(entries).await?;
    let _worker = pipeline.start_worker(&[])?;
    for version in [OPEN, CLOSED] {
        let record = Record {
            value: Some(version.as_bytes().to_vec()),
            ..Record::default()
        };
        pipeline.send(pipeline.source_topic(), &[record]).await?;
        pipeline.wait_drained(DEADLINE).await?;
    }

    let tables: Vec<(String, String)> = sqlx::query_as(TABLES_QUERY).fetch_all(pipeline.pool()).await?;
    let mut text = String::new();
    for (table, columns) in tables {
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT row_to_json(golden)::text FROM (SELECT {columns} FROM {table}) AS golden
             ORDER BY row_to_json(golden)::text COLLATE \"C\""
        )));
        let rows: Vec<String> = rows.fetch_all(pipeline.pool()).await?;
        writeln!(text, "{table}: {} rows", rows.len())?;
        rows.iter().try_for_each(|row| writeln!(text, "  {row}"))?;
    }
    insta::assert_snapshot!(text.replace(pipeline.name(), "golden"));
    Ok(())
}
