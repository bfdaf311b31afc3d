//! Hash keys and hash diffs: SHA-256, truncated to the 16 bytes of a UUID.
//!
//! A hash key depends only on business keys, never on a sequence, so that independent workers compute the same key for
//! the same entity. Only this module computes it: SQL never hashes. `golden.json` freezes the function, because a
//! changed function would orphan every stored row.

use crds::contract::normalize;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// Returns the hash key of a hub or a link. `name` is the name of its table. `business_keys` are those of the hub, or
/// of the hubs that the link joins, in the order of the model; this function normalizes them.
///
/// If all business keys are blank, the key is that of the ghost record, the all-zero UUID.
#[must_use]
pub fn hash_key(name: &str, business_keys: &[&str]) -> Uuid {
    if business_keys.iter().all(|key| key.trim().is_empty()) {
        return Uuid::nil();
    }
    let mut digest = Sha256::new();
    add_part(&mut digest, name);
    for key in business_keys {
        add_part(&mut digest, &normalize(key));
    }
    into_uuid(digest)
}

/// Returns the hash diff of a satellite row: a digest of its attributes, exactly as stored. Rows with the same hash diff
/// have the same attributes.
#[must_use]
pub fn hash_diff<T: AsRef<str>>(attributes: impl IntoIterator<Item = T>) -> Uuid {
    let mut digest = Sha256::new();
    for attribute in attributes {
        add_part(&mut digest, attribute.as_ref());
    }
    into_uuid(digest)
}

/// Hashes a part with its length as prefix (four bytes, big endian), because a key could contain any separator.
fn add_part(digest: &mut Sha256, part: &str) {
    let length = u32::try_from(part.len()).expect("a record is far smaller than 4 GiB");
    digest.update(length.to_be_bytes());
    digest.update(part);
}

/// Truncates the digest to 16 bytes and sets the version and variant bits of a `UUIDv8`, which RFC 9562 reserves for
/// custom formats.
fn into_uuid(digest: Sha256) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
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

    #[test]
    fn keys_equal_the_golden_vectors() {
        for vector in golden()["hash_key"].as_array().unwrap() {
            let key = hash_key(vector["name"].as_str().unwrap(), &texts(&vector["business_keys"]));
            assert_eq!(key.to_string(), vector["key"], "{vector}");
        }
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
        assert_ne!(hash_key("l", &["ab", "c"]), hash_key("l", &["a", "bc"]));
        assert_ne!(hash_diff(["ab", ""]), hash_diff(["a", "b"]));
        assert_ne!(hash_diff(["a"]), hash_diff(["a", ""]));
    }

    #[test]
    fn different_encodings_of_a_business_key_have_the_same_hash_key() {
        let composed = "Йогурт";
        let decomposed = "И\u{306}огурт";
        assert_eq!(
            hash_key("h_category", &[composed]),
            hash_key("h_category", &[decomposed])
        );
        assert_eq!(
            hash_key("h_category", &[composed]),
            hash_key("h_category", &[" \u{a0}Йогурт\n"])
        );
        assert_ne!(
            hash_key("h_category", &[composed]),
            hash_key("h_category", &["йогурт"])
        );
    }

    #[test]
    fn the_same_business_key_in_two_hubs_has_two_hash_keys() {
        assert_ne!(hash_key("h_user", &["7"]), hash_key("h_product", &["7"]));
    }

    #[test]
    fn a_blank_business_key_refers_to_the_ghost_record() {
        assert_eq!(hash_key("h_category", &[" \u{2003}"]), Uuid::nil());
        assert_ne!(hash_key("l_product_category", &["6276", ""]), Uuid::nil());
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
            let key = hash_key("h_user", &keys);
            prop_assert_eq!((key.get_version_num(), key.get_variant()), (8, uuid::Variant::RFC4122));
        }
    }
}
