//! Hash keys and hash diffs: SHA-256, truncated to the 16 bytes of a UUID.
//!
//! A hash key depends only on business keys, never on a sequence, so that independent workers compute the same key for
//! the same entity. Only this module computes it: SQL never hashes. `golden.json` freezes the function, because a
//! changed function would orphan every stored row.

use crds::contract::normalize;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// Number of leading bytes of a hash key that are those of a number. The bits that make a UUID a `UUIDv8` follow them.
const PREFIX_BYTES: usize = 6;

/// Business key of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusinessKey<'a> {
    /// Text in any encoding; [`hash_key`] normalizes it.
    Text(&'a str),
    /// Number that a source assigns in ascending order, such as an order number.
    Number(i64),
}

/// Returns the hash key of a hub or a link. `name` is the name of its table. `business_keys` are those of the hub, or
/// of the hubs that the link joins, in the order of the model.
///
/// If one of the business keys is a number, the hash key begins with the lowest 48 bits of the first number. Rows of one
/// order, and of orders with consecutive numbers, are then on the same pages of the indexes. Keys that are random in all
/// bytes modify one page per row.
///
/// If all business keys are blank, the key is that of the ghost record, the all-zero UUID.
#[must_use]
pub fn hash_key(name: &str, business_keys: &[BusinessKey<'_>]) -> Uuid {
    let is_blank = |key: &BusinessKey<'_>| matches!(key, BusinessKey::Text(text) if text.trim().is_empty());
    if business_keys.iter().all(is_blank) {
        return Uuid::nil();
    }
    let mut digest = Sha256::new();
    let mut number = None;
    add_part(&mut digest, name);
    for key in business_keys {
        match key {
            BusinessKey::Text(text) => add_part(&mut digest, &normalize(text)),
            BusinessKey::Number(key) => {
                add_part(&mut digest, &key.to_string());
                number = number.or(Some(*key));
            }
        }
    }
    let mut bytes = truncate(digest);
    if let Some(number) = number {
        let lowest = &number.to_be_bytes()[size_of::<i64>() - PREFIX_BYTES..];
        bytes[..PREFIX_BYTES].copy_from_slice(lowest);
    }
    into_uuid(bytes)
}

/// Returns the hash diff of a satellite row: a digest of its attributes, exactly as stored. Rows with the same hash diff
/// have the same attributes.
#[must_use]
pub fn hash_diff<T: AsRef<str>>(attributes: impl IntoIterator<Item = T>) -> Uuid {
    into_uuid(statement_digest(attributes, &[]))
}

/// Returns a digest of what a row states: its attributes, and the keys of the links whose effectivity it states.
#[must_use]
pub(super) fn statement_digest<T: AsRef<str>>(
    attributes: impl IntoIterator<Item = T>,
    link_keys: &[Uuid],
) -> [u8; 16] {
    let mut digest = Sha256::new();
    for attribute in attributes {
        add_part(&mut digest, attribute.as_ref());
    }
    for key in link_keys {
        digest.update(key);
    }
    truncate(digest)
}

/// Hashes a part with its length as prefix (four bytes, big endian), because a key could contain any separator.
fn add_part(digest: &mut Sha256, part: &str) {
    let length = u32::try_from(part.len()).expect("a record is far smaller than 4 GiB");
    digest.update(length.to_be_bytes());
    digest.update(part);
}

fn truncate(digest: Sha256) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    bytes
}

/// Sets the version and variant bits of a `UUIDv8`, which RFC 9562 reserves for custom formats.
fn into_uuid(bytes: [u8; 16]) -> Uuid {
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn golden() -> Value {
        serde_json::from_str(include_str!("golden.json")).unwrap()
    }

    fn texts(value: &Value) -> Vec<&str> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap())
            .collect()
    }

    fn business_keys(value: &Value) -> Vec<BusinessKey<'_>> {
        let business_key = |key: &'_ Value| match key {
            Value::Number(number) => BusinessKey::Number(number.as_i64().unwrap()),
            _ => unreachable!("{key} is not a number"),
        };
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key.as_str().map_or_else(|| business_key(key), BusinessKey::Text))
            .collect()
    }

    fn text_key(name: &str, keys: &[&str]) -> Uuid {
        let keys: Vec<BusinessKey<'_>> = keys.iter().copied().map(BusinessKey::Text).collect();
        hash_key(name, &keys)
    }

    #[test]
    fn keys_equal_the_golden_vectors() {
        for vector in golden()["hash_key"].as_array().unwrap() {
            let name = vector["name"].as_str().unwrap();
            let key = hash_key(name, &business_keys(&vector["business_keys"]));
            assert_eq!(key.to_string(), vector["key"], "{vector}");
        }
    }

    #[test]
    fn the_key_of_a_number_and_of_its_links_begins_with_its_lowest_48_bits() {
        let order = BusinessKey::Number(0x0001_2345_6789_abcd);
        let key = hash_key("h_order", &[order]);
        assert!(key.to_string().starts_with("23456789-abcd-8"), "{key}");
        let link = hash_key(
            "l_order_user",
            &[BusinessKey::Text("u"), order, BusinessKey::Number(7)],
        );
        assert!(link.to_string().starts_with("23456789-abcd-8"), "{link}");
        assert_ne!(key, link);
        // The other bytes are hashed from all 64 bits.
        assert_ne!(key, hash_key("h_order", &[BusinessKey::Number(0x2345_6789_abcd)]));
        assert_ne!(hash_key("h_order", &[BusinessKey::Number(0)]), Uuid::nil());
    }

    #[test]
    fn diffs_equal_the_golden_vectors() {
        for vector in golden()["hash_diff"].as_array().unwrap() {
            assert_eq!(
                hash_diff(texts(&vector["attributes"])).to_string(),
                vector["diff"],
                "{vector}"
            );
        }
    }

    #[test]
    fn different_splits_of_the_same_text_have_different_hashes() {
        assert_ne!(text_key("l", &["ab", "c"]), text_key("l", &["a", "bc"]));
        assert_ne!(hash_diff(["ab", ""]), hash_diff(["a", "b"]));
        assert_ne!(hash_diff(["a"]), hash_diff(["a", ""]));
    }

    #[test]
    fn different_encodings_of_a_business_key_have_the_same_text_key() {
        let composed = "Йогурт";
        let decomposed = "И\u{306}огурт";
        assert_eq!(
            text_key("h_category", &[composed]),
            text_key("h_category", &[decomposed])
        );
        assert_eq!(
            text_key("h_category", &[composed]),
            text_key("h_category", &[" \u{a0}Йогурт\n"])
        );
        assert_ne!(
            text_key("h_category", &[composed]),
            text_key("h_category", &["йогурт"])
        );
    }

    #[test]
    fn the_same_business_key_in_two_hubs_has_two_hash_keys() {
        assert_ne!(text_key("h_user", &["7"]), text_key("h_product", &["7"]));
    }

    #[test]
    fn a_blank_business_key_refers_to_the_ghost_record() {
        assert_eq!(text_key("h_category", &[" \u{2003}"]), Uuid::nil());
        assert_ne!(text_key("l_product_category", &["6276", ""]), Uuid::nil());
    }

    #[test]
    fn attributes_are_not_normalized() {
        assert_ne!(hash_diff(["Йогурт"]), hash_diff(["И\u{306}огурт"]));
        assert_ne!(hash_diff(["kira"]), hash_diff(["kira "]));
    }

    proptest! {
        #[test]
        fn every_hash_key_is_a_version_8_uuid(keys in prop::collection::vec("[a-z]{1,4}", 1..4)) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let key = text_key("h_user", &keys);
            prop_assert_eq!((key.get_version_num(), key.get_variant()), (8, uuid::Variant::RFC4122));
        }
    }
}
