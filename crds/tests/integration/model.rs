//! Models: the built-in one, and the error of every invalid form, as the user sees it.

use std::{fmt::Write as _, fs, path::Path};

use crds::document::{DocumentError, parse_model};

const MODEL: &str = "\
apiVersion: streamstage.dev/v1alpha1
kind: StreamModel
metadata:
  name: repairs
spec:
  record:
    key: repair_id
    version:
      - field: changed
      - field: state
        rank: [BOOKED, DONE]
    fields:
      - {name: repair_id, pointer: /id, type: bigint}
      - {name: changed, pointer: /changed, type: timestamp}
      - {name: state, pointer: /state, type: text}
      - {name: customer_id, pointer: /customer, type: key}
      - {name: fee, pointer: /fee, type: money}
    arrays:
      - name: part
        pointer: /parts
        fields:
          - {name: part_code, pointer: /code, type: key}
          - {name: minutes, pointer: /minutes, type: integer}
      - name: note
        pointer: /notes
        fields:
          - {name: author, pointer: /author, type: key}
  lookups:
    - name: customer
      key: customer_id
      version: {pointer: /changed}
      fields:
        - {name: customer_name, pointer: /name, type: text}
    - name: shop
      key: customer_id
      fields:
        - {name: shop_name, pointer: /name, type: text}
  vault:
    hubs:
      - {name: h_repair, businessKey: [{column: repair_id, field: repair_id}]}
      - {name: h_customer, businessKey: [{column: customer_id, field: customer_id}]}
      - {name: h_part, businessKey: [{column: code, field: part_code}]}
      - {name: h_author, businessKey: [{column: author, field: author}]}
    links:
      - {name: l_repair_customer, hubs: [h_repair, h_customer], drivingHub: h_repair, versions: s_repair}
      - {name: l_repair_part, hubs: [h_repair, h_part]}
    satellites:
      - name: s_repair
        parent: h_repair
        attributes:
          - {column: state, field: state}
          - {column: fee, field: fee}
      - name: s_customer
        parent: h_customer
        versionedBy: customer
        attributes: [{column: name, field: customer_name}]
      - name: s_part
        parent: l_repair_part
        multiActive: occurrence
        drivingHub: h_repair
        versions: s_repair
        attributes: [{column: minutes, field: minutes}]
  messages:
    enriched:
      - {pointer: /repair, field: repair_id}
      - {pointer: /changed, field: changed}
      - {pointer: /state, field: state}
      - {pointer: /customer/id, field: customer_id}
      - {pointer: /customer/name, field: customer_name}
      - {pointer: /customer/changed, versionOf: customer}
      - {pointer: /price, field: fee}
      - pointer: /parts
        array: part
        items: [{pointer: /code, field: part_code}, {pointer: /minutes, field: minutes}]
      - pointer: /authors
        array: note
        items: [{pointer: /name, field: author}]
    fact:
      - {pointer: /repair, field: repair_id}
      - {pointer: /customer, hub: h_customer}
      - pointer: /parts
        array: part
        distinct: h_part
        items: [{pointer: /part, hub: h_part}]
";

/// Smallest useful model: it must fit in 20 lines.
const SMALLEST: &str = "\
apiVersion: streamstage.dev/v1alpha1
kind: StreamModel
metadata: {name: readings}
spec:
  record:
    key: id
    version: [{field: at}]
    fields:
      - {name: id, pointer: /id, type: key}
      - {name: at, pointer: /at, type: timestamp}
      - {name: value, pointer: /value, type: money}
  vault:
    hubs:
      - {name: h_sensor, businessKey: [{column: sensor, field: id}]}
    satellites:
      - {name: s_reading, parent: h_sensor, attributes: [{column: value, field: value}]}
  messages:
    enriched: [{pointer: /id, field: id}, {pointer: /at, field: at}, {pointer: /value, field: value}]
    fact: [{pointer: /id, field: id}]
";

/// Changes of [`MODEL`], each of which makes it invalid.
const INVALID: &[(&str, &str, &str)] = &[
    ("another kind", "kind: StreamModel", "kind: StreamStage"),
    (
        "an unknown field",
        "    key: repair_id\n",
        "    key: repair_id\n    keys: []\n",
    ),
    ("no key", "    key: repair_id\n", ""),
    ("an unknown type", "type: bigint}", "type: int64}"),
    ("a number as the name", "{name: fee,", "{name: [fee],"),
    ("an upper-case name", "{name: fee,", "{name: Fee,"),
    ("a name that begins with a digit", "{name: fee,", "{name: 1fee,"),
    (
        "a name that is too long",
        "{name: fee,",
        "{name: a_name_of_more_than_fifty_characters_which_is_too_long,",
    ),
    ("a field that is declared twice", "{name: fee,", "{name: state,"),
    (
        "a field that an array declares, too",
        "{name: fee,",
        "{name: minutes,",
    ),
    ("two arrays with one name", "name: note\n", "name: part\n"),
    ("two lookups with one name", "name: shop\n", "name: customer\n"),
    ("a pointer without a slash", "pointer: /fee", "pointer: fee"),
    (
        "a pointer with an unknown escape",
        "pointer: /fee",
        "pointer: /fee~2",
    ),
    (
        "a pointer to an array without a slash",
        "pointer: /notes",
        "pointer: notes",
    ),
    ("an unknown key", "key: repair_id", "key: repair"),
    ("a key that is text", "key: repair_id", "key: state"),
    ("a key of an array", "key: repair_id", "key: part_code"),
    (
        "no version",
        "      - field: changed\n      - field: state\n        rank: [BOOKED, DONE]\n",
        "      []\n",
    ),
    (
        "an unknown field in the version",
        "- field: changed\n",
        "- field: updated\n",
    ),
    (
        "a version that does not begin with a time",
        "- field: changed",
        "- field: repair_id",
    ),
    (
        "a version with an amount",
        "field: state\n        rank: [BOOKED, DONE]",
        "field: fee",
    ),
    (
        "a version with a field of an array",
        "field: state\n        rank: [BOOKED, DONE]",
        "field: minutes",
    ),
    (
        "a version with a field twice",
        "field: state\n        rank: [BOOKED, DONE]",
        "field: changed",
    ),
    (
        "a text in the version without a rank",
        "        rank: [BOOKED, DONE]\n",
        "",
    ),
    (
        "a rank of a time",
        "field: changed\n",
        "field: changed\n        rank: [A]\n",
    ),
    ("a value with two ranks", "[BOOKED, DONE]", "[BOOKED, BOOKED]"),
    (
        "an unknown key of a lookup",
        "    - name: customer\n      key: customer_id",
        "    - name: customer\n      key: customer",
    ),
    (
        "a key of a lookup that is a number",
        "    - name: customer\n      key: customer_id",
        "    - name: customer\n      key: repair_id",
    ),
    (
        "a lookup without fields",
        "      fields:\n        - {name: shop_name, pointer: /name, type: text}\n",
        "",
    ),
    ("a hub without prefix", "{name: h_author,", "{name: author,"),
    (
        "a hub with an upper-case name",
        "{name: h_author,",
        "{name: h_Author,",
    ),
    (
        "a table name that is too long",
        "{name: h_author,",
        "{name: h_an_author_whose_name_is_longer_than_it_may_be,",
    ),
    ("two hubs with one name", "{name: h_author,", "{name: h_customer,"),
    (
        "a hub without a business key",
        "businessKey: [{column: author, field: author}]",
        "businessKey: []",
    ),
    (
        "a business key that is an amount",
        "{column: author, field: author}",
        "{column: author, field: fee}",
    ),
    (
        "a business key of two arrays",
        "[{column: author, field: author}]",
        "[{column: author, field: author}, {column: code, field: part_code}]",
    ),
    (
        "an unknown field of a business key",
        "{column: author, field: author}",
        "{column: author, field: writer}",
    ),
    (
        "a keyword as a column",
        "{column: author, field: author}",
        "{column: user, field: author}",
    ),
    (
        "a column that is not a name",
        "{column: author, field: author}",
        "{column: \"a b\", field: author}",
    ),
    (
        "a column that every table has",
        "{column: author, field: author}",
        "{column: load_dt, field: author}",
    ),
    (
        "a column that the hub has",
        "{column: author, field: author}",
        "{column: h_author_pk, field: author}",
    ),
    (
        "a link with one hub",
        "hubs: [h_repair, h_part]",
        "hubs: [h_repair]",
    ),
    (
        "a link with an unknown hub",
        "hubs: [h_repair, h_part]",
        "hubs: [h_repair, h_tool]",
    ),
    (
        "a link with a hub twice",
        "hubs: [h_repair, h_part]",
        "hubs: [h_repair, h_repair]",
    ),
    (
        "a link of two arrays",
        "hubs: [h_repair, h_part]",
        "hubs: [h_author, h_part]",
    ),
    (
        "a driving hub that is not joined",
        "h_customer], drivingHub: h_repair",
        "h_customer], drivingHub: h_author",
    ),
    (
        "a driving hub without versions",
        ", drivingHub: h_repair, versions: s_repair",
        ", drivingHub: h_repair",
    ),
    (
        "versions without a driving hub",
        ", drivingHub: h_repair, versions: s_repair",
        ", versions: s_repair",
    ),
    (
        "versions of another hub",
        ", drivingHub: h_repair, versions: s_repair",
        ", drivingHub: h_repair, versions: s_customer",
    ),
    (
        "versions with other rows",
        "hubs: [h_repair, h_part]",
        "hubs: [h_repair, h_part], drivingHub: h_repair, versions: s_repair",
    ),
    (
        "a satellite with the name of an effectivity",
        "name: s_customer\n",
        "name: s_repair_customer_effectivity\n",
    ),
    ("an unknown parent", "parent: h_customer", "parent: h_owner"),
    (
        "a satellite without attributes",
        "attributes: [{column: name, field: customer_name}]",
        "attributes: []",
    ),
    (
        "two columns with one name",
        "{column: fee, field: fee}",
        "{column: state, field: fee}",
    ),
    (
        "a column that every satellite has",
        "{column: fee, field: fee}",
        "{column: hash_diff, field: fee}",
    ),
    (
        "a column that numbers the rows, too",
        "{column: minutes, field: minutes}",
        "{column: occurrence, field: minutes}",
    ),
    (
        "an attribute of an array on a hub of the record",
        "{column: fee, field: fee}",
        "{column: minutes, field: minutes}",
    ),
    ("an unknown lookup", "versionedBy: customer", "versionedBy: owner"),
    (
        "a lookup without a version",
        "versionedBy: customer",
        "versionedBy: shop",
    ),
    (
        "an attribute that the entry does not version",
        "{column: name, field: customer_name}",
        "{column: state, field: state}",
    ),
    (
        "several rows without a driving hub",
        "        drivingHub: h_repair\n        versions: s_repair\n",
        "",
    ),
    (
        "several rows of one per record",
        "        parent: h_repair\n",
        "        parent: h_repair\n        multiActive: number\n",
    ),
    (
        "a driving hub of a satellite of a hub",
        "        parent: h_customer\n",
        "        parent: h_customer\n        drivingHub: h_repair\n",
    ),
    (
        "a message with a part of two contents",
        "{pointer: /price, field: fee}",
        "{pointer: /price, field: fee, constant: x}",
    ),
    (
        "a message with a part without content",
        "{pointer: /price, field: fee}",
        "{pointer: /price}",
    ),
    (
        "an unknown field in a message",
        "{pointer: /price, field: fee}",
        "{pointer: /price, field: cost}",
    ),
    (
        "a message without a field of the vault",
        "      - {pointer: /price, field: fee}\n",
        "",
    ),
    (
        "a field of an array outside of it",
        "{pointer: /price, field: fee}",
        "{pointer: /price, field: minutes}",
    ),
    (
        "two values at one pointer of a message",
        "{pointer: /price, field: fee}",
        "{pointer: /state, field: fee}",
    ),
    (
        "a value of a message within another one",
        "{pointer: /price, field: fee}",
        "{pointer: /state/fee, field: fee}",
    ),
    (
        "a fallback of another type",
        "{pointer: /price, field: fee}",
        "{pointer: /price, field: fee, fallback: state}",
    ),
    (
        "a hash key in the message to the vault",
        "{pointer: /customer/changed, versionOf: customer}",
        "{pointer: /customer/key, hub: h_customer}",
    ),
    (
        "a time of a lookup without a version",
        "versionOf: customer}",
        "versionOf: shop}",
    ),
    (
        "a time of an unknown lookup",
        "versionOf: customer}",
        "versionOf: owner}",
    ),
    ("an unknown array in a message", "array: note\n", "array: notes\n"),
    (
        "an item of another array",
        "[{pointer: /name, field: author}]",
        "[{pointer: /name, field: minutes}]",
    ),
    (
        "an array of a message without items",
        "[{pointer: /name, field: author}]",
        "[]",
    ),
    (
        "an item with a field and a hub",
        "[{pointer: /part, hub: h_part}]",
        "[{pointer: /part, hub: h_part, field: minutes}]",
    ),
    (
        "a hub of another array in a message",
        "hub: h_part}",
        "hub: h_author}",
    ),
    (
        "elements that differ by an unknown hub",
        "distinct: h_part",
        "distinct: h_tool",
    ),
    (
        "a minimum of a text",
        "{name: state, pointer: /state, type: text}",
        "{name: state, pointer: /state, type: text, min: 1}",
    ),
    ("two fields at one pointer", "pointer: /fee,", "pointer: /state,"),
    (
        "too many elements",
        "        pointer: /notes\n",
        "        pointer: /notes\n        maxItems: 20000\n",
    ),
];

#[test]
fn the_built_in_model_is_accepted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/orders.yaml");
    let model = parse_model(&fs::read_to_string(path).expect("the model")).expect("a valid model");
    assert_eq!(model.name(), "orders");
    assert_eq!(model.spec.vault.satellites.len(), 6);
}

#[test]
fn the_smallest_useful_model_fits_in_20_lines() {
    assert!(parse_model(SMALLEST).is_ok());
    assert!(SMALLEST.lines().count() <= 20);
}

#[test]
fn a_model_is_accepted_after_comments_and_as_json() {
    let model = parse_model(&format!("# a comment\n---\n{MODEL}")).expect("a model");
    let json = serde_json::to_string(&model).expect("JSON");
    assert_eq!(parse_model(&json).expect("a model"), model);
}

#[test]
fn every_violation_has_its_line_its_field_the_cause_and_the_remedy() {
    assert!(INVALID.len() >= 40);
    let mut text = String::new();
    for (name, from, to) in INVALID {
        assert_eq!(MODEL.matches(from).count(), 1, "{name}: {from}");
        let changed = MODEL.replace(from, to);
        let error = parse_model(&changed).expect_err(name);
        if let DocumentError::InvalidModel { violations, .. } = &error {
            for (line, violation) in violations {
                assert!(
                    (6..=MODEL.lines().count() as u64 + 2).contains(line),
                    "{name}: {line}"
                );
                assert!(violation.field.starts_with("spec."), "{name}: {violation}");
            }
        }
        let _ = writeln!(text, "{name}\n  {error}");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn all_violations_are_listed_with_the_lines_of_the_whole_file() {
    let changed = MODEL
        .replace("pointer: /fee", "pointer: fee")
        .replace("field: fee}", "field: price}");
    let error = parse_model(&format!("# one\n# two\n---\n{changed}")).expect_err("two violations");
    insta::assert_snapshot!(error);
}

#[test]
fn another_number_of_models_is_rejected() {
    for text in [String::new(), format!("{MODEL}---\n{SMALLEST}")] {
        let error = parse_model(&text).expect_err("not one model");
        assert!(
            error.to_string().contains("model") || error.to_string().contains("StreamModel"),
            "{error}"
        );
    }
}
